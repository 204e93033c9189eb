"""What is stored comes back bit for bit, small integers in a byte each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load

from mercer.runtime import Artifact
from mercer.runtime.weights import WORTH, restore, save, store


def test_small_integers_take_a_byte() -> None:
    codes = np.arange(-128, 128).repeat(8)
    arrays = {
        "f32 codes": codes.astype(np.float32).reshape(32, 64),
        "i32 codes": codes.astype(np.int32),
        "i16 codes": codes.astype(np.int16),
        "pairs": codes.astype(np.int16).reshape(4, 512).view(np.int32),
        "large pairs": (codes + 1).astype(np.int16).view(np.int32),
        "too large": (codes + 1).astype(np.float32),
        "fractions": codes.astype(np.float32) / 2,
        "negative zero": np.full(WORTH, -0.0, np.float32),
        "not a number": np.full(WORTH, np.nan, np.float32),
        "few": np.ones(3, np.float32),
        "f16": codes.astype(np.float16),
        "scalar": np.float32(3).reshape(()),
    }
    content, narrow = store(arrays)
    assert narrow == {"f32 codes": "float32", "i32 codes": "int32", "i16 codes": "int16", "pairs": "int16x2"}
    found = restore(content, narrow)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_weights_are_used_where_they_lie(tvm_artifact: Artifact, tmp_path: Path) -> None:
    """One copy of the file in memory: large tensors lie at multiples of 64 bytes in it, and are not copied."""
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.random(shape).astype(np.float32) for name, shape in (("a", (3,)), ("b", (5, 16)), ("c", 80))
    }
    members = {**tvm_artifact.members, "weights.safetensors": save(arrays)}
    manifest = tvm_artifact.manifest
    artifact = Artifact.create(target="cpu", signature=manifest.signature, members=members, version="0.1.0")
    artifact.save(tmp_path / "a.mrc")
    content = Artifact.load(tmp_path / "a.mrc").members["weights.safetensors"]
    assert load(bytes(content)).keys() == arrays.keys()
    whole = np.frombuffer(content, np.uint8)
    assert whole.ctypes.data % 64 == 0
    for name, array in restore(content, {}).items():
        assert np.array_equal(array, arrays[name])
        assert np.shares_memory(array, whole) and array.flags.writeable
        assert name == "a" or array.ctypes.data % 64 == 0
