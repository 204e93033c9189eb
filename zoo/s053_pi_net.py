"""S053 Pi-Nets (Choraria et al. 2022; Chrysos et al. 2020): reference. Polynomials of degree 3 as coefficient tensors.

The coefficient tensors of every degree are written out and contracted with z; the recursions do not occur.
"""

from __future__ import annotations

import numpy as np

SAMPLES = [{"N": 2}, {"N": 7}]


def coupled(p: dict[str, np.ndarray], z: np.ndarray) -> np.ndarray:
    u1, u2, u3, c = (p[f"net.{k}.weight"] for k in ("u1", "u.2.linear", "u.3.linear", "c"))
    w1 = np.einsum("or,ri->oi", c, u1)
    w2 = np.einsum("or,ri,rj->oij", c, u1, u2) + np.einsum("or,ri,rj->oij", c, u1, u3)
    w3 = np.einsum("or,ri,rj,rk->oijk", c, u1, u2, u3)
    return polynomial(z, p["net.c.bias"], w1, w2, w3)


def nested(p: dict[str, np.ndarray], z: np.ndarray) -> np.ndarray:
    a1, c, b1 = p["net.a1.weight"], p["net.c.weight"], p["net.b1_map.weight"] @ p["net.b1"][0]
    (a2, s2, b2), (a3, s3, b3) = (
        (p[f"{s}.a.weight"], p[f"{s}.s.weight"], p[f"{s}.b_map.weight"] @ p[f"{s}.b"][0])
        for s in ("net.steps.2.ncp_step", "net.steps.3.ncp_step")
    )
    w1 = np.einsum("or,ri,r->oi", c, a3, b3)
    w2 = np.einsum("or,ri,rs,sj,s->oij", c, a3, s3, a2, b2)
    w3 = np.einsum("or,ri,rs,sj,st,tk,t->oijk", c, a3, s3, a2, s2, a1, b1, optimize=True)
    return polynomial(z, p["net.c.bias"], w1, w2, w3)


def polynomial(z: np.ndarray, w0: np.ndarray, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray) -> np.ndarray:
    y = w0 + np.einsum("oi,ni->no", w1, z) + np.einsum("oij,ni,nj->no", w2, z, z)
    return y + np.einsum("oijk,ni,nj,nk->no", w3, z, z, z, optimize=True)


REFERENCES = {"CoupledPolynomial": coupled, "NestedPolynomial": nested}
