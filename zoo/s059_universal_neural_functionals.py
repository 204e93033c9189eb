"""S059 Universal neural functionals (Zhou et al. 2024): reference. Y = sum_B theta_B E_B(W), every E_B an einsum.

The result is checked to commute with permutations of inputs, hidden neurons and outputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SAMPLES = [{"N": 2}, {"N": 3}]
SPEC = {"w_ih": "hi", "w_hh": "hh", "w_ho": "oh", "bias": "h"}
SIZES = {"h": 4, "i": 3, "o": 2}

Params = dict[str, np.ndarray]
Weights = dict[str, np.ndarray]


def partitions(groups: str) -> Iterator[list[int]]:
    """Ways to name the axes so that axes of one name share a group; first occurrences count upwards."""
    if not groups:
        yield []
        return
    for rest in partitions(groups[:-1]):
        for name in range(max(rest, default=-1) + 2):
            if all(groups[i] == groups[-1] for i, other in enumerate(rest) if other == name):
                yield [*rest, name]


def pattern(w: np.ndarray, names: list[int], target: str) -> np.ndarray:
    """E_B(w): the sum over names that the target lacks; a name that w lacks is repeated; a diagonal is filled."""
    split = len(target)
    out, read = names[:split], names[split:]
    distinct = sorted(set(out))
    missing = [name for name in distinct if name not in read]
    letters = "abcdefgh"
    ones = [np.ones(SIZES[target[out.index(name)]]) for name in missing]
    terms = ["xy" + "".join(letters[k] for k in read), *(letters[k] for k in missing)]
    y = np.einsum(",".join(terms) + "->xy" + "".join(letters[k] for k in distinct), w, *ones)
    return y if len(distinct) == split else np.einsum("xya,ab->xyab", y, np.eye(y.shape[-1]))


def equivariant(p: Params, name: str, axes: str, weights: Weights) -> np.ndarray:
    y = p[name + ".offset"].reshape(1, -1, *[1] * len(axes))
    for source, w in weights.items():
        theta, found = p[f"{name}.{source}.theta"], list(partitions(axes + SPEC[source]))
        for coefficient, names in zip(theta, found, strict=True):
            y = y + np.einsum("vu,nu...->nv...", coefficient, pattern(w, names, axes))
    return y


def functional(p: Params, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    hidden = {name: np.maximum(equivariant(p, "to_" + name, axes, weights), 0) for name, axes in SPEC.items()}
    means = np.concatenate([w.reshape(*w.shape[:2], -1).mean(2) for w in hidden.values()], axis=1)
    h = np.maximum(means @ p["hidden.weight"].T + p["hidden.bias"], 0)
    return h @ p["head.weight"].T + p["head.bias"], equivariant(p, "update", "hh", hidden)


def reference(
    p: Params, w_ih: np.ndarray, w_hh: np.ndarray, w_ho: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    weights = {"w_ih": w_ih, "w_hh": w_hh, "w_ho": w_ho, "bias": bias[..., 0]}
    score, update = functional(p, weights)
    order = {"h": [2, 0, 3, 1], "i": [1, 2, 0], "o": [1, 0]}
    moved = {k: w[np.ix_(*map(range, w.shape[:2]), *(order[g] for g in SPEC[k]))] for k, w in weights.items()}
    same, permuted = functional(p, moved)
    assert np.allclose(same, score)
    assert np.allclose(permuted, update[:, :, order["h"]][..., order["h"]])
    return score, update
