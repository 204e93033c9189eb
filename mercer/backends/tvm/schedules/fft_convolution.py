"""Sums over windows by the Fourier transform: the spectrum of the source times that of the weights, and back.

Two real signals are the parts of a complex one. The first axis is transformed with the second one in the lanes of
vectors, the second axis with the first one in the lanes; between them blocks are turned in registers. In two dimensions
the parts are two planes, whose spectra are told apart between the axes, since their weights differ. A line is cut into
overlapping segments ("overlap-save", Oppenheim and Schafer, 8.7.3); a segment is a matrix whose axes are joined by a
twist of roots (Bailey 1990, "FFTs in external or hierarchical memory"), and the parts are two segments of one line.

Spectra of the weights are computed at compile time, in f64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.analysis import free
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.schedules import windows
from mercer.backends.tvm.schedules.common import Choice, Problem, Refusal, Schedule, at_outer, count, pick
from mercer.backends.tvm.schedules.fft_tiles import Image, Line, Table, Transforms
from mercer.backends.tvm.schedules.windows import Along, Windows
from mercer.backends.tvm.stockham import root
from mercer.backends.tvm.two_steps import TwoSteps, factors
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Expr, Read, call, reads, transform
from mercer.ir.integers import ZERO, IntExpr
from mercer.ir.nests import Nest, Nests
from mercer.ir.types import Array, Data, DType, TensorType

FAMILY, WORK = "fft", "fft.work"

SIZES = tuple(n for n in range(16, 257) if factors(n) is not None)
"""Lengths of transforms."""

RATE = 1.2
"""Operations on vectors in a cycle."""

CYCLE = 0.3
"""Nanoseconds."""


def plan(problem: Problem) -> Schedule | Refusal:
    """The cheapest sizes; refuses what cannot be done so, whatever it costs."""
    found = windows.find(problem)
    if isinstance(found, str):
        return Refusal(FAMILY, found)
    lanes, along = problem.target.lanes, [a for a in (found.rows, found.columns) if a is not None]
    if lanes == 1 or found.reduction.dtype is not DType.F32 or found.nest.type.dtype is not DType.F32:
        return Refusal(FAMILY, "no vectors of f32")
    if any(a.stride > 1 for a in along) or min(found.columns.outputs, found.columns.size) < lanes:
        return Refusal(FAMILY, "a stride, or rows too short for vectors")
    weights = _weights(found, problem)
    if isinstance(weights, str):
        return Refusal(FAMILY, weights)
    sizes = pick(_sizes(found, lanes), lambda each: each.cost, lambda each: each.choice, problem.choice)
    if sizes is None:
        return Refusal(FAMILY, "planes too large")
    best, options = sizes
    return replace(_schedule(found, best, weights, problem), options=options)


@dataclass(frozen=True)
class _Sizes:
    """Transforms of n1 x n2. `results` of a segment of a line, 0 for planes; `cost` in nanoseconds for a unit, and
    for a plane or a whole line.
    """

    n1: int
    n2: int
    results: int
    unit: float
    cost: float

    @property
    def choice(self) -> Choice:
        return {"family": FAMILY, "sizes": [self.n1, self.n2]}


def _sizes(found: Windows, lanes: int) -> Iterator[_Sizes]:
    if found.rows is not None:
        high, wide = (min((n for n in SIZES if n >= _needed(a)), default=0) for a in (found.rows, found.columns))
        for n1, n2 in itertools.product((n for n in SIZES if n >= high and n % (2 * lanes) == 0), SIZES):
            if high and wide and wide <= n2 <= 1.3 * wide and n1 <= 1.3 * high + 2 * lanes:
                cost = _image_cost(found, n1, n2, lanes)
                yield _Sizes(n1, n2, 0, cost, cost / 2)
        return
    usable = [n for n in SIZES if n % lanes == 0]
    for n1, n2 in itertools.product(usable, usable):
        results = min(n1 * n2 - found.columns.reach + 1, found.columns.outputs)
        if results >= lanes and n2 <= n1 <= 2 * n2:
            unit = _line_cost(n1, n2, lanes)
            yield _Sizes(n1, n2, results, unit, unit * -(-_segments(found, results) // 2))


def _needed(along: Along) -> int:
    """The shortest transform in which results do not mix with what goes round."""
    before = max(0, along.before)
    return max(along.size + before, along.outputs + along.reach - 1 - along.before, along.outputs)


def _segments(found: Windows, results: int) -> int:
    return -(-found.columns.outputs // results)


def _transform(n: int) -> float:
    return 5.0 * n * math.log2(n)


def _image_cost(found: Windows, n1: int, n2: int, lanes: int) -> float:
    """Of two planes."""
    inputs, outputs = (-(-size // lanes) for size in (found.columns.size, found.columns.outputs))
    turns = 2.0 * math.log2(lanes) * (inputs + outputs) * lanes
    columns = (inputs + outputs) * (_transform(n1) + 6.0 * n1)
    return CYCLE / RATE * (columns + n1 / lanes * (2 * _transform(n2) + 8.0 * n2 + turns))


def _line_cost(n1: int, n2: int, lanes: int) -> float:
    """Of two segments."""
    turns = 4.0 * math.log2(lanes) * n2
    columns = 2 * n2 / lanes * (_transform(n1) + 6.0 * n1)
    return CYCLE / RATE * (columns + n1 / lanes * (2 * _transform(n2) + 6.0 * n2 + turns + 8.0 * n2))


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Weights:
    """Arrays [sets, taps of the rows, taps of the columns], and the axes of the result that tell the sets apart."""

    array: npt.NDArray[np.float64]
    axes: tuple[Axis, ...]


def _weights(found: Windows, problem: Problem) -> _Weights | str:
    if not found.weights:
        return "no weights"
    used = frozenset[str]().union(*map(free, found.weights))
    sets = tuple(axis for axis in found.outer if axis.name in used)
    taps = [a.tap for a in (found.rows, found.columns) if a is not None and a.tap is not None]
    names = {read.tensor for weight in found.weights for read in reads(weight)}
    known = [problem.constants[name] for name in sorted(names) if name in problem.constants]
    if len(known) < len(names) or any(constant.data.array is None for constant in known):
        return "weights that are not known"
    if not all(axis.extent.is_constant for axis in sets):
        return "weights of a symbolic axis"
    product = found.weights[0]
    for weight in found.weights[1:]:
        product = call("mul", product, weight)
    axes = (*sets, *taps)
    type = TensorType(DType.F32, tuple(axis.extent for axis in axes))
    program = Nests("weights", (), (), tuple(known), (Nest("weights", type, axes, product, ()),), ("weights",))
    (array,) = evaluate(program, {})
    tall, wide = (found.rows.taps if found.rows is not None else 1), found.columns.taps
    array = array.astype(np.float64).reshape(-1, tall, wide)
    flips = [a.flipped if a is not None else False for a in (found.rows, found.columns)]
    return _Weights(array[:, :: -1 if flips[0] else 1, :: -1 if flips[1] else 1], sets)


def _around(array: npt.NDArray[np.float64], along: Along, before: int, n: int) -> npt.NDArray[np.float64]:
    """The last axis as n numbers whose circular convolution with a signal is the sum over the window."""
    result = np.zeros((*array.shape[:-1], n))
    result[..., (before - np.arange(along.taps) * along.dilation) % n] = array
    return result


def _image_spectra(found: Windows, weights: _Weights, sizes: _Sizes, lanes: int) -> Array:
    """[sets, 1 + blocks of rows, n2, part, lanes]; the first block is for the mirror image of the first row."""
    assert found.rows is not None
    around = _around(weights.array, found.columns, found.columns.before, sizes.n2).swapaxes(1, 2)
    around = _around(around, found.rows, found.rows.before, sizes.n1).swapaxes(1, 2)
    spectra = np.fft.fft(np.fft.rfft(around, axis=1), axis=2) * (0.5 / (sizes.n1 * sizes.n2))
    first, last = spectra[:, 0], spectra[:, -1]
    rows = spectra[:, :-1].copy()
    rows[:, 0] = (first + last) / 2
    mirror = np.zeros((len(rows), lanes, sizes.n2), rows.dtype)
    mirror[:, 0] = (first - last) / 2
    return _blocked(np.concatenate([mirror, rows], axis=1), lanes)


def _line_spectra(found: Windows, weights: _Weights, sizes: _Sizes, lanes: int) -> Array:
    """[sets, blocks of rows, n2, part, lanes] of the matrix of frequencies k1 + n1*k2."""
    n = sizes.n1 * sizes.n2
    spectra = np.fft.fft(_around(weights.array[:, 0], found.columns, 0, n)) / n
    return _blocked(spectra.reshape(-1, sizes.n2, sizes.n1).swapaxes(1, 2), lanes)


def _blocked(spectra: npt.NDArray[np.complex128], lanes: int) -> Array:
    sets, rows, n = spectra.shape
    parts = np.stack([spectra.real, spectra.imag], axis=2).reshape(sets, rows // lanes, lanes, 2, n)
    return parts.transpose(0, 1, 4, 3, 2)


def _split(numbers: npt.NDArray[np.complex128]) -> npt.NDArray[np.float64]:
    return np.concatenate([numbers.real.ravel(), numbers.imag.ravel()])


# --- schedule ---------------------------------------------------------------------------------------------------------


def _schedule(found: Windows, sizes: _Sizes, weights: _Weights, problem: Problem) -> Schedule:
    lanes, n1, n2 = problem.target.lanes, sizes.n1, sizes.n2
    pieces: list[Array] = []
    roots: dict[int, int] = {}
    for n in dict.fromkeys((n1, n2)):
        roots[n] = sum(piece.size for piece in pieces)
        pieces.append(_split(TwoSteps(n, n, n).roots()))
    twist = sum(piece.size for piece in pieces)
    if found.rows is None:
        pieces.append(_split(root(np.outer(np.arange(n1), np.arange(n2)), n1 * n2)))
    spectra = sum(piece.size for piece in pieces)
    made = _image_spectra if found.rows is not None else _line_spectra
    pieces.append(made(found, weights, sizes, lanes))
    array = np.concatenate([piece.ravel() for piece in pieces]).astype(np.float32)
    table = Constant(f"{found.nest.target}.{FAMILY}", TensorType.of(array), Data(array))
    read = Read(table.name, (ZERO,), DType.F32)
    changed = _with_table(found, read)
    width = max(found.columns.size, found.columns.outputs) if found.rows is not None else n2
    pitch = -(-width // lanes) * lanes
    pitch += lanes if pitch % 256 == 0 else 0
    segments = _segments(found, sizes.results) if sizes.results else 0
    size = Transforms.memory(n1, n2, pitch, lanes) + (2 * n1 * n2 if segments else 0)
    planes = count(found.outer)
    pair = Axis("pair", IntExpr.constant(-(-segments // 2)))

    def emit(scope: Scope, unit: TirExpr) -> None:
        known = Table(scope.tensors[table.name].buffer, roots, twist, spectra)
        transforms = Transforms(known, scope.tensors[WORK].buffer, n1, n2, pitch, lanes)
        if segments:
            inside = at_outer(scope, (*found.outer, pair), unit)
            numbers = [inside.indices[pair.name] * int64(2) + int64(k) for k in range(2)]
            last = found.columns.outputs - sizes.results
            first = [T.bind(tirx.min(n * int64(sizes.results), int64(last))) for n in numbers]
            Line(found, transforms, sizes.results).emit(inside, first, _set(inside, weights))
            return
        last = T.bind(scope.integer(planes) - int64(1))
        places = [T.bind(tirx.min(unit * int64(2) + int64(k), last)) for k in range(2)]
        scopes = [at_outer(scope, found.outer, place) for place in places]
        Image(found, transforms).emit(scopes, [_set(each, weights) for each in scopes])

    detail = f"{n1} x {n2}, two planes at once"
    total = (planes + 1) // 2
    if segments:
        detail = f"{n1} x {n2}, {segments} segments of {sizes.results}"
        total = planes * pair.extent
    workspace = Operand(WORK, TensorType(DType.F32, (IntExpr.constant(size),)))
    return Schedule(FAMILY, detail, changed, total, sizes.unit, emit, constants=(table,), workspace=(workspace,))


def _with_table(found: Windows, table: Read) -> Nest:
    """The nest for what its code reads: the table instead of the weights."""
    total = found.reduction
    body: Expr = call("mul", table, found.source)

    def change(e: Expr) -> Expr:
        return replace(total, body=body) if e == total else e

    return replace(found.nest, body=transform(found.nest.body, change))


def _set(scope: Scope, weights: _Weights) -> TirExpr:
    flat = ZERO
    for axis in weights.axes:
        flat = flat * axis.extent + IntExpr.var(axis.name)
    return T.bind(scope.integer(flat))
