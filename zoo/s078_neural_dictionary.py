"""S078 Neural implicit dictionary (Wang et al. 2022): reference. All subnetworks run; all but the top-k gates are 0."""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

SAMPLES = [{"N": 2, "P": 5}, {"N": 4, "P": 3}]


def reference(p: dict[str, Array], x: Array, alpha: Array) -> Array:
    q = {k.removeprefix("dictionary."): v for k, v in p.items()}
    scenes = []
    for points, gates in zip(x, alpha, strict=True):
        smallest_kept = np.partition(np.abs(gates), -3)[-3]
        gates = np.where(np.abs(gates) >= smallest_kept, gates, 0)
        waves = np.concatenate([np.pi * 2.0**j * points for j in range(3)], axis=1)
        code = np.concatenate([np.sin(waves), np.cos(waves)], axis=1)
        y = np.zeros((len(points), 3))
        for i, gate in enumerate(gates):
            hidden = np.sin(code @ q["w1"][i].T + q["b1"][i])
            y += gate * (hidden @ q["w2"][i].T + q["b2"][i])
        scenes.append(y)
    return np.array(scenes)


def inputs(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    return {"x": rng.uniform(-1, 1, shapes["x"]), "alpha": rng.standard_normal(shapes["alpha"])}
