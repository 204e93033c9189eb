"""S067 F-INR (Vemuri, Buchner and Denzler 2025): reference. CP, TT and Tucker combinations of one network per axis.

Every point of the grid is evaluated on its own: the networks see single numbers, the combination is a matrix chain.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import ndarray as Array

SAMPLES = [{"N": 3, "H": 4, "W": 5}, {"N": 6, "H": 2, "W": 3}]


def net(p: dict[str, Array], path: str, x: float) -> Array:
    h = np.array([x])
    if f"{path}.siren.linear.weight" in p:
        for i in range(2):
            h = np.sin(6 * (p[f"{path}.siren.sine.{i}.weight"] @ h + p[f"{path}.siren.sine.{i}.bias"]))
        return p[f"{path}.siren.linear.weight"] @ h + p[f"{path}.siren.linear.bias"]
    for i in range(3):
        h = p[f"{path}.linear.{i}.weight"] @ h + p[f"{path}.linear.{i}.bias"]
        h = np.tanh(h) if i < 2 else h
    return h


def cp(a: Array, b: Array, c: Array) -> float:
    return float(np.prod([a, b, c], axis=0).sum())


def tt(a: Array, b: Array, c: Array) -> float:
    return float(a @ b.reshape(3, 3) @ c)


def grid(names: tuple[str, ...], combine: Callable[..., float]) -> Callable[..., Array]:
    def reference(p: dict[str, Array], x: Array, y: Array, z: Array) -> Array:
        a, b, c = ([net(p, name, t) for t in axis] for name, axis in zip(names, (x, y, z), strict=True))
        more = {"core": p["core"]} if "core" in p else {}
        return np.array([[[combine(u, v, w, **more) for w in c] for v in b] for u in a])

    return reference


def tucker(a: Array, b: Array, c: Array, core: Array) -> float:
    return float(np.tensordot(np.multiply.outer(np.multiply.outer(a, b), c), core, 3))


NUMBERED = ("axis_net.0", "axis_net.1", "axis_net.2")
REFERENCES = {
    "CP": grid(NUMBERED, cp),
    "TT": grid(("first", "middle", "last"), tt),
    "Tucker": grid(NUMBERED, tucker),
}


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {name: np.sort(rng.uniform(-1, 1, shape)) for name, shape in shapes.items()}
