"""Large depthwise convolutions by Fourier transforms."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from mercer.ir.convolution import is_integer
from mercer.ir.index import Axis, Call, Read, Reduce, Reducer, variables, walk
from mercer.ir.integers import IntExpr, Var
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.types import DType, TensorType
from mercer.passes.cost import extent, statement_cost
from mercer.passes.ledger import Cost, Exactness
from mercer.passes.manager import Level, Pass, PassContext

DIRECT, TRANSFORMED = 1.5, 1.9
"""Multiply-adds, and operations of transforms, in a cycle. `python -m benchmarks.algorithms` measures."""

SIZES = tuple(sorted(2**a * 3**b * 5**c for a, b, c in itertools.product(range(3, 17), range(3), range(3))))
"""Lengths of transforms."""

LARGEST = 256, 1 << 16
"""Lengths up to which there are transforms: of an axis of an image, of a line."""


@dataclass(frozen=True)
class FftConvolution(Pass):
    """Marks convolutions of every channel by itself with constant weights whose transforms cost less than their sums.

    A backend that knows the algorithm `fft` multiplies spectra, that of the weights computed at compile time; to all
    others the mark means nothing. Needs Nests, gives Nests, best after `fuse`. Class: real, the error in f32 is about
    1e-6 of the largest result. The cost is that of an overlap-save convolution (Oppenheim and Schafer, Discrete-Time
    Signal Processing, 8.7.3) in one dimension and of one transform of the whole plane in two; `advantage` is the
    factor by which it must be lower.
    """

    name: ClassVar[str] = "fft_convolution"
    level: ClassVar[Level] = Level.NESTS
    advantage: float = 1.0

    def on_nests(self, nests: Nests, context: PassContext) -> Nests:
        types = nests.types()
        known = {c.name for c in nests.constants if c.data.array is not None}
        statements: list[Statement] = []
        for statement in nests.statements:
            start = time.perf_counter()
            windows = find(statement, types, known) if isinstance(statement, Nest) else None
            if windows is None or not isinstance(statement, Nest):
                statements.append(statement)
                continue
            products, operations = direct(windows), transformed(windows)
            before = statement_cost(statement, types)
            planes = math.prod(extent(a.extent) for a in statement.axes) // math.prod(w.outputs for w in windows)
            reason = None
            if is_integer(statement.body):
                reason = "its sums are integers, which transforms would round"
            elif operations is None:
                reason = f"{' x '.join(str(w.size) for w in windows)} inputs are more than a transform takes"
            elif products / DIRECT < self.advantage * operations / TRANSFORMED:
                reason = (
                    f"a plane takes {products / 1e3:.0f}k multiply-adds at {DIRECT} a cycle, "
                    f"{operations / 1e3:.0f}k operations of transforms at {TRANSFORMED}"
                )
            costs = before, Cost(int(planes * (operations or 0)), before.bytes)
            statements.append(statement if reason else replace(statement, algorithm="fft"))
            seconds = time.perf_counter() - start
            context.record_statement(
                self.name, "fft", statement, Exactness.REAL, reason, None if reason else costs, seconds
            )
        return replace(nests, statements=tuple(statements))


@dataclass(frozen=True)
class Window:
    """Along one axis: results, taps, elements from the first to the last of them, border before, size of the source."""

    outputs: int
    taps: int
    reach: int
    before: int
    size: int

    @property
    def needed(self) -> int:
        """The shortest transform in which results do not mix with what goes round."""
        before = max(0, self.before)
        return max(self.size + before, self.outputs + self.reach - 1 - self.before, self.outputs)


def direct(windows: Sequence[Window]) -> float:
    """Multiply-adds for a plane."""
    return float(math.prod(w.taps * w.outputs for w in windows))


def transformed(windows: Sequence[Window]) -> float | None:
    """Operations for a plane by transforms, two at a time; None when it is too large for one."""
    if len(windows) == 2:
        rows, columns = windows
        if max(rows.needed, columns.needed) > LARGEST[0]:
            return None
        n1, n2 = (next(n for n in SIZES if n >= w.needed) for w in (rows, columns))
        both = columns.size + columns.outputs
        return (both * (_transform(n1) + 6 * n1) + n1 * (2 * _transform(n2) + 8 * n2 + 6 * both)) / 2
    (line,) = windows
    costs = [
        -(-line.outputs // (n - line.reach + 1)) * (2 * _transform(n) + 26 * n) / 2
        for n in SIZES
        if line.reach < n <= LARGEST[1]
    ]
    return min(costs, default=None)


def _transform(n: int) -> float:
    """Operations on real numbers of a complex transform."""
    return 5.0 * n * math.log2(n)


def find(nest: Nest, types: Mapping[str, TensorType], constants: set[str]) -> list[Window] | None:
    """The windows of a sum with constant weights, stride 1, over each channel by itself; None for others."""
    sums = list(dict.fromkeys(e for e in walk(nest.body) if isinstance(e, Reduce)))
    if len(sums) != 1 or sums[0].reducer is not Reducer.SUM or nest.type.dtype is not DType.F32:
        return None
    match sums[0].body:
        case Call("mul", (Read() as left, Read() as right)):
            weight, data = (left, right) if left.tensor in constants else (right, left)
        case _:
            return None
    taps = {axis.name: axis for axis in sums[0].axes if axis.extent != IntExpr.constant(1)}
    outputs = {axis.name: axis for axis in nest.axes}
    if weight.tensor not in constants or data.tensor in constants or data.dtype is not DType.F32 or not taps:
        return None
    found: list[Window] = []
    spatial = frozenset[str]()
    single = {axis.name: IntExpr.constant(0) for axis in sums[0].axes if axis.name not in taps}
    for index, size in zip(data.indices, types[data.tensor].shape, strict=True):
        named = _along(index.substitute(lambda a: single.get(a.name) if isinstance(a, Var) else None), outputs, taps)
        if named is not None and size.is_constant:
            output, tap, dilation, offset = named
            reach = abs(dilation) * (tap.extent.value - 1) + 1
            before = -offset if dilation > 0 else reach - 1 - offset
            found.append(Window(output.extent.value, tap.extent.value, reach, before, size.value))
            spatial |= {output.name, tap.name}
        elif found or any(isinstance(a, Var) and a.name in taps for a in index.atoms()):
            return None
    alone = taps.keys() <= spatial and not variables(weight) & (spatial - taps.keys())
    return found if alone and len(found) in (1, 2) and nest.axes[-1].name in spatial else None


def _along(index: IntExpr, outputs: Mapping[str, Axis], taps: Mapping[str, Axis]) -> tuple[Axis, Axis, int, int] | None:
    """(output, tap, dilation, offset) of output + dilation*tap + offset."""
    output, tap, dilation, offset = None, None, 0, 0
    for monomial, coefficient in index.terms:
        match monomial:
            case ():
                offset = coefficient
            case (Var(name),) if name in outputs and output is None and coefficient == 1:
                output = outputs[name]
            case (Var(name),) if name in taps and tap is None:
                tap, dilation = taps[name], coefficient
            case _:
                return None
    if output is None or tap is None or not (output.extent.is_constant and tap.extent.is_constant):
        return None
    return output, tap, dilation, offset
