"""The tensors of a binary in its artifact: numbers that are small integers are stored as such."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


WORTH = 1024
"""Elements from which on a tensor is looked at."""


def save(arrays: Mapping[str, Array]) -> bytes:
    """Safetensors as they are."""
    from safetensors.numpy import save as serialized

    return serialized({name: np.asarray(array, order="C") for name, array in sorted(arrays.items())})


def store(arrays: Mapping[str, Array]) -> tuple[bytes, dict[str, str]]:
    """Safetensors, and the NumPy type of each tensor that is stored in int8 without loss, such as quantized weights."""
    small = {name: array.astype(np.int8) for name, array in arrays.items() if _is_small(array)}
    return save({**arrays, **small}), {name: str(arrays[name].dtype) for name in sorted(small)}


def restore(content: bytes, narrow: Mapping[str, str]) -> dict[str, Array]:
    """The tensors as they were before `store`."""
    from safetensors.numpy import load

    arrays: dict[str, Array] = load(content)
    return {name: array.astype(narrow.get(name, array.dtype)) for name, array in arrays.items()}


def _is_small(array: Array) -> bool:
    """Whether an f32 or i32 array holds integers of eight bits alone; -0.0 is none."""
    if str(array.dtype) not in ("float32", "int32") or array.size < WORTH:
        return False
    with np.errstate(invalid="ignore"):
        codes = array.astype(np.int8)
    return codes.astype(array.dtype).tobytes() == np.ascontiguousarray(array).tobytes()
