"""Both results of `top_k`, with equal elements among them, on every backend."""

from __future__ import annotations

import numpy as np
import torch

import mercer


def test_values_and_places() -> None:
    program = mercer.parse_text("model M(x: f32[N, 30]) -> (f32[N, 7], i32[N, 7]) { return top_k(x; k = 7) }")
    x = np.random.default_rng(0).integers(0, 5, (4, 30)).astype(np.float32)
    place = np.argsort(-x, axis=1, kind="stable")[:, :7]
    found = {
        "reference": program.evaluate(x, weights={}),
        "torch": tuple(result.numpy() for result in program.torch()(torch.from_numpy(x))),
        "cpu": mercer.compile(program)(x),
    }
    for values, places in found.values():
        np.testing.assert_array_equal(places, place)
        np.testing.assert_array_equal(values, np.take_along_axis(x, place, axis=1))
