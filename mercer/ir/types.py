"""Element types, tensor types and constant data."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from functools import cached_property

import ml_dtypes
import numpy as np
import numpy.typing as npt

from mercer.ir.integers import IntExpr

Array = npt.NDArray[np.generic]


class DType(enum.Enum):
    """Element type of a tensor; the value is its name in the language."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    I4 = "i4"
    BOOL = "bool"
    C64 = "c64"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy type that holds it (i4 is kept in an int8)."""
        return _NUMPY[self]

    @property
    def is_float(self) -> bool:
        return self in (DType.F64, DType.F32, DType.F16, DType.BF16)

    @property
    def is_integer(self) -> bool:
        return self in (DType.I64, DType.I32, DType.I16, DType.I8, DType.I4)

    @property
    def is_complex(self) -> bool:
        return self is DType.C64

    @property
    def rounds(self) -> bool:
        """Whether arithmetic in it is inexact: real and complex numbers."""
        return self.is_float or self.is_complex

    def __str__(self) -> str:
        return self.value

    @staticmethod
    def of(array: Array) -> DType:
        """The element type of a NumPy array; raises KeyError for a type that Mercer does not know."""
        return _FROM_NUMPY[array.dtype]


_NUMPY: dict[DType, np.dtype[np.generic]] = {
    DType.F64: np.dtype(np.float64),
    DType.F32: np.dtype(np.float32),
    DType.F16: np.dtype(np.float16),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.I64: np.dtype(np.int64),
    DType.I32: np.dtype(np.int32),
    DType.I16: np.dtype(np.int16),
    DType.I8: np.dtype(np.int8),
    DType.I4: np.dtype(np.int8),
    DType.BOOL: np.dtype(np.bool_),
    DType.C64: np.dtype(np.complex64),
}
_FROM_NUMPY = {numpy_type: dtype for dtype, numpy_type in _NUMPY.items() if dtype is not DType.I4}


@dataclass(frozen=True)
class TensorType:
    """`f32[N, 16, 8, 8]`: an element type and dims that may be symbolic."""

    dtype: DType
    shape: tuple[IntExpr, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    @staticmethod
    def of(array: Array) -> TensorType:
        return TensorType(DType.of(array), tuple(IntExpr.constant(n) for n in array.shape))


@dataclass(frozen=True, eq=False)
class Data:
    """The contents of a constant, compared by digest.

    `array` is None when only the digest is known: an IR text was read without its weights.
    """

    array: Array | None
    known_digest: str = ""

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of dtype, shape and bytes."""
        if self.array is None:
            return self.known_digest
        head = f"{self.array.dtype.name}{self.array.shape}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.array).tobytes()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Data) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)
