"""The tensors of a binary in its artifact: numbers that are small integers are stored as such.

The member is a safetensors file in which a tensor begins at a multiple of 64 bytes wherever those before it allow:
it can then be used where it lies.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

MEMBER = "weights.safetensors"

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""

WORTH = 1024
"""Elements from which on a tensor is looked at."""

PAIRS = "int16x2"
"""Words of 32 bits that hold two numbers of 16 bits."""

_CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL", "complex64": "C64",
}  # fmt: skip
"""NumPy's names of types to those of safetensors."""
_NAMES = {code: name for name, code in _CODES.items()}


def save(arrays: Mapping[str, Array]) -> bytes:
    """Safetensors as they are; those whose size is a multiple of ALIGNMENT come first."""
    ordered = sorted(arrays.items(), key=lambda item: (is_copied(item[1]), item[0]))
    header: dict[str, Any] = {}
    contents: list[bytes] = []
    start = 0
    for name, array in ordered:
        end = start + array.nbytes
        header[name] = {"dtype": _CODES[array.dtype.name], "shape": array.shape, "data_offsets": (start, end)}
        contents.append(array.tobytes())
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return b"".join((len(text).to_bytes(8, "little"), text, *contents))


def is_copied(array: Array) -> bool:
    """Whether a tensor is copied when it is loaded, for its size leaves no room for alignment."""
    return array.nbytes % ALIGNMENT != 0


def store(arrays: Mapping[str, Array]) -> tuple[bytes, dict[str, str]]:
    """Safetensors, and the NumPy type, or PAIRS, of each tensor that int8 holds without loss, as quantized weights."""
    stored, narrow = dict(arrays), dict[str, str]()
    for name, array in sorted(arrays.items()):
        forms = {array.dtype.name: array}
        if array.dtype == np.int32 and array.ndim:
            forms[PAIRS] = np.ascontiguousarray(array).view(np.int16)
        for type, form in forms.items():
            if name not in narrow and (codes := _codes(form)) is not None:
                stored[name], narrow[name] = codes, type
    return save(stored), narrow


def restore(content: bytes | memoryview, narrow: Mapping[str, str]) -> dict[str, Array]:
    """The tensors as they were before `store`, where they lie in `content` unless they are `narrow`."""
    first = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(bytes(content[8:first]))
    arrays: dict[str, Array] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape = np.dtype(_NAMES[entry["dtype"]]), entry["shape"]
        start = first + entry["data_offsets"][0]
        array = np.frombuffer(content, dtype, math.prod(shape), start).reshape(shape)
        if narrow.get(name) == PAIRS:
            arrays[name] = array.astype(np.int16).view(np.int32)
        else:
            arrays[name] = array.astype(narrow.get(name, dtype), copy=False)
    return arrays


def widened_bytes(arrays: Mapping[str, Array], narrow: Mapping[str, str]) -> int:
    """Bytes that loading takes beside the stored ones: of narrow tensors in their own type, and of copies."""
    return sum(array.nbytes for name, array in arrays.items() if name in narrow or is_copied(array))


def _codes(array: Array) -> Array | None:
    """An array of a wider type in int8, None where it holds anything else than integers of eight bits; -0.0 is none."""
    if array.dtype.name not in ("float32", "int32", "int16") or array.size < WORTH:
        return None
    with np.errstate(invalid="ignore"):
        codes = array.astype(np.int8)
    return codes if codes.astype(array.dtype).tobytes() == np.ascontiguousarray(array).tobytes() else None
