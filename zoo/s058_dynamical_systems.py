"""S058 The dynamical systems framework (Sieber et al. 2024): reference. y = sums of C Lambda .. Lambda B u.

No recursion: every pair (i, j) has its transfer C_i Lambda_i ... Lambda_{j+1} B_j, written out for each family member.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit

SAMPLES = [{"N": 2, "L": 6}, {"N": 3, "L": 9}]

Params = dict[str, np.ndarray]


def dense(p: Params, name: str, x: np.ndarray) -> np.ndarray:
    return x @ p[f"block.{name}.weight"].T + p[f"block.{name}.bias"]


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def block(mixer: Callable[[Params, np.ndarray], np.ndarray]) -> Callable[[Params, np.ndarray], np.ndarray]:
    def run(p: Params, x: np.ndarray) -> np.ndarray:
        centered = x - x.mean(-1, keepdims=True)
        u = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
        u = u * p["block.layer_norm.weight"] + p["block.layer_norm.bias"]
        return x + dense(p, "out", np.stack([mixer(p, sequence) for sequence in u]))

    return run


def attention(p: Params, x: np.ndarray) -> np.ndarray:
    q, k, u = softplus(dense(p, "mixer.query", x)), softplus(dense(p, "mixer.key", x)), dense(p, "mixer.value", x)
    return np.tril(q @ k.T) @ u + p["block.mixer.skip"] * u


def normalized(p: Params, x: np.ndarray) -> np.ndarray:
    q, k, u = softplus(dense(p, "mixer.query", x)), softplus(dense(p, "mixer.key", x)), dense(p, "mixer.value", x)
    eta = np.cumsum(np.exp(dense(p, "mixer.weight", x)), axis=0)
    return np.tril(q @ k.T) / eta @ u + p["block.mixer.skip"] * u


def state_space(p: Params, x: np.ndarray) -> np.ndarray:
    a, step = -np.exp(p["block.mixer.log_a"]), softplus(dense(p, "mixer.step", x))
    b, c = dense(p, "mixer.b", x), dense(p, "mixer.c", x)
    y = p["block.mixer.skip"] * x
    for i in range(len(x)):
        for j in range(i + 1):
            decay = np.exp(a * step[j + 1 : i + 1].sum(0))
            y[i] += (c[i][:, None] * decay * b[j][:, None]).sum(0) * step[j] * x[j]
    return y


def gated(p: Params, x: np.ndarray) -> np.ndarray:
    gate = expit(dense(p, "mixer.gate", x)).reshape(len(x), -1, x.shape[1])
    u, c = dense(p, "mixer.value", x), np.tanh(dense(p, "mixer.c", x))
    y = p["block.mixer.skip"] * u
    for i in range(len(x)):
        for j in range(i + 1):
            y[i] += c[i] @ (gate[j + 1 : i + 1].prod(0) * (1 - gate[j])) * u[j]
    return y


def linear_rnn(p: Params, x: np.ndarray) -> np.ndarray:
    b, u, c = (dense(p, f"mixer.{k}", x) for k in ("b", "value", "c"))
    size = b.shape[1]
    transition = np.tanh(dense(p, "mixer.transition", x)).reshape(-1, size, size) / np.sqrt(size)
    y = p["block.mixer.skip"] * u
    for i in range(len(x)):
        reach = c[i]
        for j in range(i, -1, -1):
            y[i] += reach @ b[j] * u[j]
            reach = reach @ transition[j]
    return y


REFERENCES = {
    "Attention": block(attention),
    "NormalizedAttention": block(normalized),
    "StateSpace": block(state_space),
    "Gated": block(gated),
    "Dense": block(linear_rnn),
}
