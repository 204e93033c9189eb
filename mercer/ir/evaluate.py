"""The NumPy reference: the meaning of the IR.

Rounding. Tensors hold values of their declared element type. Inside a statement every scalar function is rounded to the
element type of its `Call`: arithmetic and `sqrt` are computed in that type (f16 and bf16 by way of f32, which gives the
same bits), all other functions are computed in f64 and rounded once. A reduction accumulates in f64 (sums of integers
in i64) and is rounded once; the factors of a product under a `sum` are multiplied in f64 as well. With
`precision = F64` all of f32, f16 and bf16 is f64 instead, which judges the error of everything else.

Integers wrap (two's complement), conversion from a float truncates (`functions.convert`), `max` of nothing is the
lowest value of its type. Every read of a statement is checked, also in the branch that a `where` does not choose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from mercer.ir.functions import NUMPY_REDUCERS, EvaluationError, apply, convert
from mercer.ir.graph import Value
from mercer.ir.index import Axis, Call, Computed, Const, Expr, Index, Read, Reduce, Reducer, children, computed
from mercer.ir.integers import Dim, IntExpr, Var
from mercer.ir.nests import Nest, Nests, Primitive, Scan, Statement, defined
from mercer.ir.primitives import PRIMITIVES
from mercer.ir.types import Array, DType

CHUNK_BYTES = 64 << 20
"""Statements whose largest intermediate exceeds this are computed in pieces."""


def evaluate(
    nests: Nests,
    inputs: Mapping[str, Array],
    parameters: Mapping[str, Array] | None = None,
    precision: DType | None = None,
) -> tuple[Array, ...]:
    """The outputs of the program, in order.

    Symbolic dims are bound from the shapes of `inputs`. Outputs have their declared element type, or `precision` where
    that is a float. Raises EvaluationError when a tensor is missing or does not fit its type, when a constant has no
    data, and when a read without pad leaves its tensor.
    """
    arrays = {**_given("input", nests.inputs, inputs), **_given("parameter", nests.parameters, parameters or {})}
    for constant in nests.constants:
        if constant.data.array is None:
            raise EvaluationError(f"constant %{constant.name} has no data: the text of the IR was read without weights")
        arrays[constant.name] = constant.data.array
    values = [Value(v.name, v.type) for v in (*nests.inputs, *nests.parameters, *nests.constants)]
    dims = bind_dims((value, arrays[value.name].shape) for value in values)
    tensors = {value.name: _stored(value, arrays[value.name], precision) for value in values}
    return _run(nests, tensors, dims, precision)


def _run(
    nests: Nests, tensors: dict[str, Array], dims: Mapping[str, int], precision: DType | None
) -> tuple[Array, ...]:
    """The outputs, when `tensors` holds everything around the statements."""
    for statement in nests.statements:
        results = evaluate_statement(statement, tensors, dims, precision)
        tensors |= {value.name: array for value, array in zip(defined(statement), results, strict=True)}
    return tuple(tensors[name] for name in nests.outputs)


def evaluate_statement(
    statement: Statement,
    tensors: Mapping[str, Array],
    dims: Mapping[str, int] | None = None,
    precision: DType | None = None,
) -> tuple[Array, ...]:
    """The tensors that one statement assigns, in the order of `defined(statement)`.

    `tensors` holds everything that it reads, `dims` the symbolic dims.
    """
    dims = dims or {}
    if isinstance(statement, Primitive):
        if statement.scan is not None:
            return _scan(statement, statement.scan, tensors, dims, precision)
        if statement.name not in PRIMITIVES:
            raise EvaluationError(f"no such primitive: {statement.name} (known: {', '.join(sorted(PRIMITIVES))})")
        shapes = [concrete(value.type.shape, dims) for value in statement.targets]
        return PRIMITIVES[statement.name](statement, [tensors[name] for name in statement.operands], shapes)
    names = tuple(axis.name for axis in statement.axes)
    extents = concrete((axis.extent for axis in statement.axes), dims)
    ranges = {name: range(extent) for name, extent in zip(names, extents, strict=True)}
    output = np.empty(extents, storage(statement.type.dtype, precision))
    with np.errstate(all="ignore"):
        _fill(output, statement, _Scope(statement, tensors, dims, precision, ranges))
    return (output,)


def _scan(
    statement: Primitive, scan: Scan, tensors: Mapping[str, Array], dims: Mapping[str, int], precision: DType | None
) -> tuple[Array, ...]:
    operands = [tensors[name] for name in statement.operands]
    state, around = operands[: scan.carried], operands[scan.carried :]
    stacked = [
        np.empty(concrete(value.type.shape, dims), storage(value.type.dtype, precision))
        for value in statement.targets[scan.carried :]
    ]
    (count,) = concrete([scan.extent], dims)
    names = [value.name for value in scan.body.inputs]
    for step in range(count):
        given = dict(zip(names, [*state, *around], strict=True))
        results = _run(scan.body, given, {**dims, scan.step: step}, precision)
        state = list(results[: scan.carried])
        for array, axis, part in zip(stacked, scan.axes, results[scan.carried :], strict=False):
            array[(slice(None),) * axis + (step,)] = part
        if scan.until and bool(results[-1]):
            break
    return (*state, *stacked)


def bind_dims(shapes: Iterable[tuple[Value, tuple[int, ...]]]) -> dict[str, int]:
    """The symbolic dims that make declared shapes equal to actual ones; raises EvaluationError when there are none."""
    pairs = list(shapes)
    dims: dict[str, int] = {}
    for value, actual in pairs:
        if len(actual) != value.type.rank:
            raise EvaluationError(f"%{value.name} is {value.type}: expected {value.type.rank} dims, got {list(actual)}")
        for declared, size in zip(value.type.shape, actual, strict=True):
            if isinstance(atom := declared.single, Dim):
                dims.setdefault(atom.name, size)
    for value, actual in pairs:
        for declared, size in zip(value.type.shape, actual, strict=True):
            _solve(declared, size, dims)
        expected = concrete(value.type.shape, dims)
        if expected != actual:
            known = "".join(f", {name} = {dims[name]}" for d in value.type.shape for name in sorted(d.dims()))
            raise EvaluationError(
                f"%{value.name} is {value.type}{known}: expected {list(expected)}, got {list(actual)}"
            )
    return dims


def concrete(shape: Iterable[IntExpr], dims: Mapping[str, int]) -> tuple[int, ...]:
    """The shape as numbers; raises EvaluationError when a dim is not bound."""

    def leaf(atom: Dim | Var | Computed) -> int:
        if isinstance(atom, Dim) and atom.name in dims:
            return dims[atom.name]
        raise EvaluationError(f"the dim {atom} is not known from the shapes of the inputs")

    return tuple(int(extent.evaluate(leaf)) for extent in shape)


def storage(dtype: DType, precision: DType | None) -> np.dtype[np.generic]:
    """The NumPy type that holds values of `dtype` when floats are computed in `precision`."""
    if precision is not None and dtype.is_float:
        return precision.numpy
    return np.dtype(np.complex128) if dtype is DType.C64 and precision is DType.F64 else dtype.numpy


def _given(kind: str, declared: Iterable[Any], arrays: Mapping[str, Array]) -> dict[str, Array]:
    names = [value.name for value in declared]
    if missing := [name for name in names if name not in arrays]:
        raise EvaluationError(f"no value is given for the {kind} {', '.join(f'%{name}' for name in missing)}")
    return {name: np.asarray(arrays[name]) for name in names}


def _solve(declared: IntExpr, size: int, dims: dict[str, int]) -> None:
    """Bind the one unknown dim of an affine extent such as `2*N + 1`."""
    unknown = declared.dims() - dims.keys()
    if len(unknown) != 1:
        return
    (name,) = unknown
    factor = declared.coefficient(Dim(name))
    if factor is not None and factor.terms and not factor.dims() - dims.keys():
        rest = declared - factor * IntExpr.dim(name)
        dims[name] = (size - concrete([rest], dims)[0]) // concrete([factor], dims)[0]


def _stored(value: Value, array: Array, precision: DType | None) -> Array:
    """The array in the element type in which it is computed."""
    wanted = storage(value.type.dtype, precision)
    if array.dtype == wanted:
        return array
    known = any(array.dtype == dtype.numpy for dtype in DType)
    if not known or not (value.type.dtype.is_float or np.can_cast(array.dtype, wanted, "same_kind")):
        raise EvaluationError(f"%{value.name} is {value.type}: got an array of {array.dtype}")
    return array.astype(value.type.dtype.numpy).astype(wanted) if precision is None else array.astype(wanted)


# --- expressions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grid:
    """Values of an expression for all values of the loop indices it uses: `array` has one axis for each name."""

    array: Array
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Scope:
    """Where an expression is evaluated: tensors, dims and the range of every loop index, in order of nesting."""

    statement: Nest
    tensors: Mapping[str, Array]
    dims: Mapping[str, int]
    precision: DType | None
    ranges: Mapping[str, range]
    outer: _Scope | None = None
    shared: frozenset[str] = frozenset()
    done: dict[Expr, _Grid] = field(default_factory=dict[Expr, _Grid])
    free: dict[Expr, frozenset[str]] = field(default_factory=dict[Expr, frozenset[str]])
    sizes: dict[Expr, tuple[int, frozenset[str]]] = field(default_factory=dict[Expr, tuple[int, frozenset[str]]])

    def extents(self, names: Iterable[str]) -> tuple[int, ...]:
        return tuple(len(self.ranges[name]) for name in names)

    def narrowed(self, name: str, part: range) -> _Scope:
        """The same scope with fewer values of one index."""
        ranges = {**self.ranges, name: part}
        return _Scope(self.statement, self.tensors, self.dims, self.precision, ranges, free=self.free)

    def inside(self, axes: Sequence[Axis]) -> _Scope:
        """The scope of the body of a reduction; `outer` stays the one to ask for what does not depend on `axes`."""
        bound = {axis.name: range(concrete([axis.extent], self.dims)[0]) for axis in axes}
        kept = {name: r for name, r in self.ranges.items() if name not in bound}
        shared = frozenset(kept)
        return _Scope(
            self.statement, self.tensors, self.dims, self.precision, kept | bound, self, shared, free=self.free
        )

    def free_variables(self, expr: Expr) -> frozenset[str]:
        """`index.variables`, once per shared expression."""
        if expr not in self.free:
            match expr:
                case Const():
                    own: frozenset[str] = frozenset()
                case Index(value):
                    own = self.index_variables([value])
                case Read(_, indices):
                    own = self.index_variables(indices)
                case Call(_, arguments):
                    own = frozenset[str]().union(*map(self.free_variables, arguments))
                case Reduce(_, axes, body):
                    own = self.free_variables(body) - {axis.name for axis in axes}
            self.free[expr] = own
        return self.free[expr]

    def index_variables(self, indices: Iterable[IntExpr]) -> frozenset[str]:
        found: set[str] = set()
        for index in indices:
            found.update(atom.name for atom in index.atoms() if isinstance(atom, Var))
            for inner in computed(index):
                found |= self.free_variables(inner)
        return frozenset(found)

    def ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        present = set(names)
        if unbound := present - self.ranges.keys():
            raise EvaluationError(f"%{self.statement.target}: the index {min(unbound)} is not bound by any axis")
        return tuple(name for name in self.ranges if name in present)

    # --- values

    def value(self, expr: Expr) -> _Grid:
        if self.outer is not None and self.free_variables(expr) <= self.shared:
            return self.outer.value(expr)
        if expr not in self.done:
            self.done[expr] = self._compute(expr)
        return self.done[expr]

    def _compute(self, expr: Expr) -> _Grid:
        match expr:
            case Const(number, dtype):
                return _Grid(convert(np.asarray(number), dtype, storage(dtype, self.precision)), ())
            case Index(value):
                names = self.ordered(self.index_variables([value]))
                return _Grid(np.broadcast_to(self._integers(value, names), self.extents(names)).astype(np.int32), names)
            case Read():
                return self.read(expr, self.tensors[expr.tensor])
            case Call(function, arguments, dtype):
                grids = [self.value(argument) for argument in arguments]
                names = self.ordered(name for grid in grids for name in grid.names)
                operands = [_aligned(grid, names) for grid in grids]
                return _Grid(apply(function, operands, dtype, storage(dtype, self.precision)), names)
            case Reduce():
                return self._reduce(expr)

    def _integers(self, value: IntExpr, names: tuple[str, ...]) -> Any:
        """An index expression as an i64 array that broadcasts against the indices `names`."""

        def leaf(atom: Dim | Var | Computed) -> Any:
            match atom:
                case Dim():
                    return concrete([IntExpr.atom(atom)], self.dims)[0]
                case Var(name):
                    r = self.ranges[name]
                    return _aligned(_Grid(np.arange(r.start, r.stop), (name,)), names)
                case Computed(inner):
                    return _aligned(self.value(inner), names).astype(np.int64)

        return np.asarray(value.evaluate(leaf, np.minimum, np.maximum))

    # --- reads

    def read(self, expr: Read, source: Array) -> _Grid:
        """The elements of `source` (the tensor, perhaps in a wider type) that `expr` selects."""
        names = self.ordered(self.index_variables(expr.indices))
        shape = self.extents(names)
        if len(expr.indices) != source.ndim:
            raise self._error(f"%{expr.tensor} has rank {source.ndim} and is read with {len(expr.indices)} indices")
        if 0 in shape:
            return _Grid(np.empty(shape, source.dtype), names)
        affine = [self._affine(index, names) for index in expr.indices]
        if all(form is not None for form in affine):
            view = self._strided(expr, source, names, [form for form in affine if form is not None])
            if view is not None:
                return _Grid(view, names)
        return _Grid(self._gather(expr, source, names), names)

    def _affine(self, index: IntExpr, names: Sequence[str]) -> tuple[int, dict[str, int]] | None:
        """(value at the start of all ranges, step along every index) of an affine expression, else None."""
        steps: dict[str, int] = {}
        for name in names:
            factor = index.coefficient(Var(name))
            if factor is None or any(not isinstance(atom, Dim) for atom in factor.atoms()):
                return None
            steps[name] = concrete([factor], self.dims)[0]
        if any(isinstance(atom, Computed) for atom in index.atoms()):
            return None
        start = index.evaluate(
            lambda atom: (
                self.ranges[atom.name].start if isinstance(atom, Var) else concrete([IntExpr.atom(atom)], self.dims)[0]
            )
        )
        return int(start), steps

    def _strided(
        self, expr: Read, source: Array, names: tuple[str, ...], forms: Sequence[tuple[int, dict[str, int]]]
    ) -> Array | None:
        """A view of the (padded) source; None when padding it would cost more than gathering."""
        shape = self.extents(names)
        margins: list[tuple[int, int]] = []
        for (start, steps), size in zip(forms, source.shape, strict=True):
            spans = [steps[name] * (extent - 1) for name, extent in zip(names, shape, strict=True)]
            low = start + sum(min(s, 0) for s in spans)
            high = start + sum(max(s, 0) for s in spans)
            margins.append((max(0, -low), max(0, high - size + 1)))
        if any(before or after for before, after in margins):
            if expr.pad is None:
                raise self._out_of_range(expr, source, names)
            padded = math.prod(size + a + b for size, (a, b) in zip(source.shape, margins, strict=True))
            if padded > 2 * (source.size + math.prod(shape)):
                return None
            source = np.pad(source, margins, constant_values=cast(Any, expr.pad.number))
        origin = tuple(slice(start + margin[0], None) for (start, _), margin in zip(forms, margins, strict=True))
        strides = [
            sum(s[name] * stride for (_, s), stride in zip(forms, source.strides, strict=True)) for name in names
        ]
        return np.lib.stride_tricks.as_strided(source[origin], shape, strides)

    def _gather(self, expr: Read, source: Array, names: tuple[str, ...]) -> Array:
        indices = [self._integers(index, names) for index in expr.indices]
        valid = np.asarray(True)
        for index, size in zip(indices, source.shape, strict=True):
            valid = valid & (index >= 0) & (index < size)
        if not valid.all():
            if expr.pad is None:
                raise self._out_of_range(expr, source, names)
            pad = np.asarray(expr.pad.number).astype(source.dtype)
            if source.size == 0:
                return np.broadcast_to(pad, self.extents(names))
            clipped = tuple(np.clip(i, 0, size - 1) for i, size in zip(indices, source.shape, strict=True))
            return np.broadcast_to(np.where(valid, source[clipped], pad), self.extents(names))
        return np.broadcast_to(source[tuple(indices)], self.extents(names))

    def _out_of_range(self, expr: Read, source: Array, names: tuple[str, ...]) -> EvaluationError:
        shape = self.extents(names)
        for position, (index, size) in enumerate(zip(expr.indices, source.shape, strict=True)):
            values = np.broadcast_to(self._integers(index, names), shape)
            wrong = np.argwhere((values < 0) | (values >= size))
            if len(wrong):
                where = [f"{name} = {self.ranges[name][int(i)]}" for name, i in zip(names, wrong[0], strict=True)]
                at = f" at {', '.join(where)}" if where else ""
                return self._error(
                    f"%{expr.tensor} is read outside of its shape {list(source.shape)}: "
                    f"index {position}, {index}, is {values[tuple(wrong[0])]}{at}"
                )
        raise AssertionError("every index is in range")

    def _error(self, message: str) -> EvaluationError:
        origins = self.statement.origins
        place = f" ({origins[0].operator} at {origins[0].span})" if origins else ""
        return EvaluationError(f"%{self.statement.target}{place}: {message}")

    # --- reductions

    def _reduce(self, expr: Reduce) -> _Grid:
        scope = self.inside(expr.axes)
        bound = tuple(axis.name for axis in expr.axes)
        names = self.ordered(self.free_variables(expr))
        wanted = storage(expr.dtype, self.precision)
        if expr.reducer is Reducer.SUM and wanted.kind != "b":
            return _Grid(scope.sum_of_products(expr.body, names, bound).astype(wanted), names)
        grid = scope.value(expr.body)
        full = (*names, *bound)
        array = np.broadcast_to(_aligned(grid, full), scope.extents(full))
        return _Grid(NUMPY_REDUCERS[expr.reducer](array, tuple(range(len(names), len(full)))).astype(wanted), names)

    def sum_of_products(self, body: Expr, names: tuple[str, ...], bound: tuple[str, ...]) -> Array:
        """The sum over the indices `bound` of a product, as one contraction in f64, c128 or i64."""
        wide = np.dtype({"f": "f8", "V": "f8", "c": "c16"}.get(body.dtype.numpy.kind, "i8"))
        grids = [self._wide(factor, wide) for factor in _factors(body)]
        used = {name for grid in grids for name in grid.names}
        missing = math.prod(self.extents(name for name in bound if name not in used))
        exact = wide.kind == "i" and _fits_f64(grids, missing * math.prod(self.extents(b for b in bound if b in used)))
        if exact:
            grids = [_Grid(grid.array.astype(np.float64), grid.names) for grid in grids]
        number = {name: i for i, name in enumerate((*names, *bound))}
        if len(grids) == 1:
            (grid,) = grids
            reduced = tuple(i for i, name in enumerate(grid.names) if name in bound)
            total = cast(Any, grid.array).sum(axis=reduced)
        else:
            operands = [part for grid in grids for part in (grid.array, [number[name] for name in grid.names])]
            output = [number[name] for name in names if name in used]
            total = cast(Any, np.einsum)(*operands, output, optimize=True)
        if exact:
            total = np.rint(total).astype(np.int64)
        return np.broadcast_to(np.asarray(total * missing), self.extents(names))

    def _wide(self, factor: Expr, wide: np.dtype[Any]) -> _Grid:
        if isinstance(factor, Read):
            return self.read(factor, self.tensors[factor.tensor].astype(wide, copy=False))
        grid = self.value(factor)
        return _Grid(grid.array.astype(wide, copy=False), grid.names)

    def largest(self, expr: Expr) -> tuple[int, frozenset[str]]:
        """(elements, indices) of the largest intermediate that `expr` needs."""
        if expr in self.sizes:
            return self.sizes[expr]
        free = self.free_variables(expr)
        sizes = [(math.prod(self.extents(self.ordered(free))), free)]
        if isinstance(expr, Reduce):
            scope = self.inside(expr.axes)
            parts = _factors(expr.body) if expr.reducer is Reducer.SUM else (expr.body,)
            sizes += [scope.largest(part) for part in parts]
        else:
            sizes += [self.largest(child) for child in children(expr)]
        self.sizes[expr] = max(sizes, key=lambda size: size[0])
        return self.sizes[expr]


def _fill(output: Array, statement: Nest, scope: _Scope) -> None:
    """Write the statement's values into `output`, in pieces along its longest axes when it needs too much memory."""
    elements, used = scope.largest(statement.body)
    candidates = [axis.name for axis in statement.axes if axis.name in used and len(scope.ranges[axis.name]) > 1]
    if elements * 8 > CHUNK_BYTES and candidates:
        name = max(candidates, key=lambda n: len(scope.ranges[n]))
        position = [axis.name for axis in statement.axes].index(name)
        whole = scope.ranges[name]
        step = max(1, len(whole) * CHUNK_BYTES // (elements * 8))
        for start in range(0, len(whole), step):
            part = whole[start : start + step]
            index = (slice(None),) * position + (slice(start, start + step),)
            _fill(output[index], statement, scope.narrowed(name, part))
        return
    grid = scope.value(statement.body)
    output[...] = _aligned(grid, tuple(axis.name for axis in statement.axes))


def _aligned(grid: _Grid, names: tuple[str, ...]) -> Array:
    """The array with its axes in the order of `names`, length 1 where the grid does not depend on an index."""
    order = [grid.names.index(name) for name in names if name in grid.names]
    extents = dict(zip(grid.names, grid.array.shape, strict=True))
    return grid.array.transpose(order).reshape([extents.get(name, 1) for name in names])


def _factors(expr: Expr) -> tuple[Expr, ...]:
    if isinstance(expr, Call) and expr.function == "mul":
        return tuple(factor for argument in expr.arguments for factor in _factors(argument))
    return (expr,)


def _fits_f64(grids: Sequence[_Grid], terms: int) -> bool:
    """Whether a sum of that many integer products is exact in f64."""
    bound = terms
    for grid in grids:
        bound *= max(abs(int(grid.array.min(initial=0))), abs(int(grid.array.max(initial=0))))
    return bound < 2**53
