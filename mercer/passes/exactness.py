"""The exactness verifier: the reference before and after a rewrite, on random and adversarial inputs.

BIT claims are compared bit for bit as the IR rounds (any NaN equals any NaN), on inputs with NaN, infinities and signed
zeros. REAL claims are compared in f64 and may differ by the rounding of f64, or of a constant that the rewrite computed
and stored in its own element type; where the original is not finite there is nothing to compare. APPROX claims hold
when the relative L2 norm of the difference stays within the declared bound.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt

from mercer.ir.evaluate import evaluate
from mercer.ir.functions import apply
from mercer.ir.graph import Value
from mercer.ir.index import Const, parts
from mercer.ir.integers import Dim, IntExpr
from mercer.ir.nests import Nest, Nests
from mercer.ir.types import Array, DType, TensorType
from mercer.passes.ledger import Exactness
from mercer.runtime.errors import MercerError

REAL_TOLERANCE = 1e-9
"""Of the largest value of an output, in f64."""
CONSTANT_ROUNDINGS = 16
"""The same in units of the rounding of new constants."""


class ExactnessError(MercerError):
    """A rewrite breaks its own claim."""


class Sample(enum.Enum):
    """Kinds of inputs."""

    NORMAL = "normal"
    ZERO = "zero"  # of both signs
    NEGATIVE = "negative"
    LARGE = "large"
    SPECIAL = "special"


FINITE = (Sample.NORMAL, Sample.ZERO, Sample.NEGATIVE, Sample.LARGE)
SPECIAL_ROUNDS = 3


def check_claim(
    before: Nests,
    after: Nests,
    claim: Exactness,
    bound: float | None = None,
    known: Mapping[str, Array] | None = None,
    slack: int = 1,
    seed: int = 0,
) -> int:
    """Raise ExactnessError when `after` is not `before` in the sense of `claim`; the number of samples compared.

    `known` are values of inputs and parameters that are not to be chosen at random; `slack` multiplies the tolerance of
    REAL (the number of rewrites between the two programs). A sample on which the original itself cannot be evaluated,
    such as an index out of range, does not count.
    """
    if claim is Exactness.APPROX and bound is None:
        raise ExactnessError("an approximation must declare a bound on its error")
    tolerance = slack * _real_tolerance(before, after)
    precision = None if claim is Exactness.BIT else DType.F64
    samples = (*FINITE, *[Sample.SPECIAL] * SPECIAL_ROUNDS) if claim is Exactness.BIT else FINITE
    compared = 0
    for number, sample in enumerate(samples):
        values = _draw(before, sample, np.random.default_rng((seed, number)), known or {})
        try:
            expected = _run(before, values, precision)
        except MercerError:
            continue
        try:
            actual = _run(after, values, precision)
        except MercerError as error:
            raise ExactnessError(f"the result cannot be evaluated on {sample.value} inputs: {error.message}") from error
        for name, left, right in zip(before.outputs, expected, actual, strict=True):
            problem = _difference(left, right, claim, tolerance, bound, sample)
            if problem:
                raise ExactnessError(f"%{name} on {sample.value} inputs: {problem}")
        compared += 1
    return compared


def _run(program: Nests, values: Mapping[str, Array], precision: DType | None) -> tuple[Array, ...]:
    """Evaluate with one input more per symbolic dim, of that size, so that every dim is known."""
    given = {v.name for v in program.inputs}
    sizes = tuple(Value(name, kind) for name, kind in _sizes(values) if name not in given)
    program = replace(program, inputs=(*program.inputs, *sizes))
    return evaluate(program, values, values, precision)


def _sizes(values: Mapping[str, Array]) -> list[tuple[str, TensorType]]:
    return [
        (name, TensorType(DType.BOOL, (IntExpr.dim(name.removeprefix(_SIZE)),)))
        for name in values
        if name.startswith(_SIZE)
    ]


_SIZE = "size of "


def _draw(program: Nests, sample: Sample, random: np.random.Generator, known: Mapping[str, Array]) -> dict[str, Array]:
    """Values for every input and parameter, and one array per dim that only has its size."""
    values = (*program.inputs, *program.parameters)
    names = sorted({name for v in program.types().values() for extent in v.shape for name in extent.dims()})
    dims = {name: 2 + position % 3 for position, name in enumerate(names)}

    def extent(value: IntExpr) -> int:
        return int(value.evaluate(lambda atom: dims[atom.name] if isinstance(atom, Dim) else 0))

    drawn: dict[str, Array] = {f"{_SIZE}{name}": np.zeros(size, np.bool_) for name, size in dims.items()}
    for value in values:
        shape = tuple(extent(dim) for dim in value.type.shape)
        drawn[value.name] = (
            known[value.name] if value.name in known else _array(value.type.dtype, shape, sample, random)
        )
    return drawn


def _array(dtype: DType, shape: tuple[int, ...], sample: Sample, random: np.random.Generator) -> Array:
    if dtype is DType.BOOL:
        return random.integers(0, 2, shape).astype(np.bool_)
    if dtype.is_integer:
        numbers = np.zeros(shape, np.int64) if sample is Sample.ZERO else random.integers(0, 4, shape)
        return numbers.astype(dtype.numpy)
    if dtype.is_complex:
        parts = [_array(DType.F64, shape, sample, random) for _ in range(2)]
        return apply("complex", parts, dtype, dtype.numpy)
    values = random.standard_normal(shape)
    match sample:
        case Sample.NORMAL:
            pass
        case Sample.ZERO:
            values = np.copysign(np.zeros(shape), -np.cos(np.pi * np.arange(values.size)).reshape(shape))
        case Sample.NEGATIVE:
            values = -np.abs(values)
        case Sample.LARGE:
            values = values * 1e3
        case Sample.SPECIAL:
            special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 1.0])
            values = np.where(random.random(shape) < 0.5, random.choice(special, shape), values)
    return values.astype(dtype.numpy)


def _real_tolerance(before: Nests, after: Nests) -> float:
    """Wider when `after` has constants or literals that `before` has not."""
    old, new = dict(_numbers(before)), dict(_numbers(after))
    types = {dtype for number, dtype in new.items() if number not in old and dtype.rounds}
    roundings = (float(cast(Any, ml_dtypes.finfo(dtype.numpy)).eps) for dtype in types)
    return max([REAL_TOLERANCE, *(CONSTANT_ROUNDINGS * eps for eps in roundings)])


def _numbers(program: Nests) -> Iterator[tuple[Hashable, DType]]:
    """Every constant and literal with its element type."""
    for constant in program.constants:
        yield constant.data.digest, constant.type.dtype
    for statement in program.statements:
        if isinstance(statement, Nest):
            yield from ((part, part.dtype) for part in parts(statement.body) if isinstance(part, Const))


def _difference(
    left: Array, right: Array, claim: Exactness, tolerance: float, bound: float | None, sample: Sample
) -> str | None:
    """What is wrong, in words; None when the claim holds."""
    if left.shape != right.shape:
        return f"shape {list(right.shape)} instead of {list(left.shape)}"
    if left.dtype.kind in "iub":
        if claim is not Exactness.BIT and sample is Sample.ZERO:
            return None  # comparisons of equal reals fall either way
        wrong = int(np.count_nonzero(left != right))
        return f"{wrong} of {left.size} integers differ" if wrong else None
    if claim is Exactness.BIT:
        wrong = int(np.count_nonzero(_bits(left) != _bits(right)))
        return f"{wrong} of {left.size} elements are not bit-identical" if wrong else None
    finite = np.isfinite(left)
    expected, actual = left[finite].astype(np.complex128), right[finite].astype(np.complex128)
    if not expected.size:
        return None
    if not np.isfinite(actual).all():
        return "the result is not finite where the original is"
    error = np.abs(actual - expected)
    if claim is Exactness.REAL:
        largest, scale = float(error.max()), float(np.abs(expected).max())
        return f"differs by {largest:.3g} of {scale:.3g} in f64" if largest > tolerance * max(scale, 1e-30) else None
    assert bound is not None
    relative = float(np.linalg.norm(error) / max(float(np.linalg.norm(expected)), 1e-30))
    return f"relative L2 error {relative:.3g} exceeds the bound {bound:.3g}" if relative > bound else None


def _bits(array: Array) -> npt.NDArray[np.uint8]:
    """Raw bytes, with one pattern for every NaN."""
    canonical = np.where(np.isnan(array), np.asarray(np.nan, array.dtype), array)
    raw = np.ascontiguousarray(canonical).view(np.uint8)
    return raw.reshape(*array.shape, -1) if array.shape else raw
