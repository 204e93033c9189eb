"""What is stored comes back bit for bit, small integers in a byte each."""

from __future__ import annotations

import numpy as np

from mercer.runtime.weights import WORTH, restore, store


def test_small_integers_take_a_byte() -> None:
    codes = np.arange(-128, 128).repeat(8)
    arrays = {
        "f32 codes": codes.astype(np.float32).reshape(32, 64),
        "i32 codes": codes.astype(np.int32),
        "too large": (codes + 1).astype(np.float32),
        "fractions": codes.astype(np.float32) / 2,
        "negative zero": np.full(WORTH, -0.0, np.float32),
        "not a number": np.full(WORTH, np.nan, np.float32),
        "few": np.ones(3, np.float32),
        "f16": codes.astype(np.float16),
        "scalar": np.float32(3).reshape(()),
    }
    content, narrow = store(arrays)
    assert narrow == {"f32 codes": "float32", "i32 codes": "int32"}
    found = restore(content, narrow)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()
