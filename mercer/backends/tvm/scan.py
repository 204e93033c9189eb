"""A scan as TIR: independent rows in parallel, the steps of a row in order, the statements of a step as scheduled.

Leading axes that no statement of the body mixes make rows, whose steps do not wait for each other; where there are few,
the next such axis is cut into chunks, which are rows then. The state of a row lives where its last value is wanted; a
statement that reads only the element which it replaces, and computes each once, writes over it. A slice that lies in
one piece is written where it is stacked; others are moved there at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm import vector_math as vm
from mercer.backends.tvm.analysis import elements, flatten
from mercer.backends.tvm.function import Work
from mercer.backends.tvm.kernel import Kernel, Operand
from mercer.backends.tvm.lower import Scope, Tensor, int64, loops
from mercer.backends.tvm.scan_ahead import Ahead, of_reads, of_slice, shares
from mercer.backends.tvm.schedules import generic
from mercer.backends.tvm.schedules.choose import choose
from mercer.backends.tvm.schedules.common import Problem, Schedule, count, size, unravel
from mercer.backends.tvm.schedules.pointwise import along
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import Axis, Expr, Read, reads, substitute, transform
from mercer.ir.integers import ONE, ZERO, IntExpr
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests, Primitive, Scan, Statement, defined
from mercer.ir.types import DType, TensorType

COPY = 0.1
"""Nanoseconds that it takes to copy an element of the state."""

Rule = Callable[[Primitive, Mapping[str, TensorType]], Kernel]


def kernel(statement: Primitive, scan: Scan, target: Target, rule: Rule) -> Kernel:
    """The kernel of a scan; `rule` gives those of primitives inside of it."""
    return _Scan(statement, scan, target, rule).kernel()


@dataclass(frozen=True)
class _Step:
    """One statement of the body: what it computes, and the scratch of a primitive by its name there and here."""

    work: Work
    scratch: tuple[tuple[str, str], ...] = ()
    ahead: tuple[Ahead, ...] = ()


class _Scan:
    """Names are those of the body; what lies around it has the names of the statement."""

    def __init__(self, statement: Primitive, scan: Scan, target: Target, rule: Rule) -> None:
        self.statement, self.scan, self.target, self.rule = statement, scan, target, rule
        whole = _distinct_outputs(scan)
        self.body = in_chunks(rows_first(whole, scan), scan, target)
        self.orders = {
            s.target: tuple(map(s.axes.index, known.axes))
            for s, known in zip(self.body.statements, whole.statements, strict=True)
            if isinstance(s, Nest) and isinstance(known, Nest) and set(s.axes) == set(known.axes)
        }
        self.types = self.body.types()
        carried = scan.carried
        self.carried = [value.name for value in self.body.inputs[:carried]]
        self.following = self.body.outputs[:carried]
        self.slices = self.body.outputs[carried : carried + len(scan.axes)]
        self.computed = [value.name for s in self.body.statements for value in defined(s)]
        self.own = {*self.carried, *self.computed}
        names = [value.name for value in self.body.inputs[carried:]]
        self.around = dict(zip(names, statement.operands[carried:], strict=True))
        self.rows = self._rows()
        depth = len(self.rows)
        self.local = {name: TensorType(self.types[name].dtype, self.types[name].shape[depth:]) for name in self.own}
        self.prefix = statement.targets[0].name
        self.scratch: list[Operand] = []
        self.once: set[str] = set()
        self.steps = [self._step(s) for s in self.body.statements if not _is_view(s)]
        self.replaced = self._replaced()
        self.stacked = {
            name: (target.name, axis)
            for name, target, axis in zip(self.slices, statement.targets[carried:], scan.axes, strict=True)
            if axis <= depth and self._is_straight(name)
        }
        views = [s for s in self.body.statements if isinstance(s, Primitive) and _is_view(s)]
        self.views = {s.targets[0].name: s.operands[0] for s in views}
        placed = {*self.replaced, *self.stacked, *self.views}
        self.kept = [name for name in self.computed if name not in placed]
        self.scratch += [Operand(self._outer(name), self.types[name]) for name in self.kept]

    def kernel(self) -> Kernel:
        cost = size(self.scan.extent) * sum(_total(step.work) for step in self.steps)
        dims = self.scan.extent.dims().union(*(step.work.dims for step in self.steps)) - {self.scan.step}
        scratch = tuple(self.scratch)
        return Kernel(f"{len(self.rows)} axes of rows", count(self.rows), cost, self.emit, scratch, dims=dims)

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _rows(self) -> tuple[Axis, ...]:
        """Leading axes along which every tensor of the body is read only where it is written; one axis stays inside."""
        extents = _separate(self.body, self.scan)
        inside = min(len(self.types[name].shape) for name in self.own) - 1
        return tuple(Axis(f"row{k}", extent) for k, extent in enumerate(extents[: max(0, inside)]))

    def _is_straight(self, name: str) -> bool:
        """Whether the axes of a slice have the order that they have where it is stacked."""
        order = self.orders.get(name, ())
        return order == tuple(range(len(order)))

    def _step(self, statement: Statement) -> _Step:
        types = {**self.types, **self.local}
        if isinstance(statement, Nest):
            problem = Problem(self._within_row(statement), types, {}, self.target)
            schedule = self._schedule(problem)
            if statement.target in self.following and not schedule.once:
                once = self._schedule(replace(problem, once=True))
                copy = COPY * size(elements(self.local[statement.target].shape))
                schedule = once if once.once and _total(once) <= _total(schedule) + copy else schedule
            if schedule.once:
                self.once.add(statement.target)
            outside = {name: self.types[name] for name in self.around}
            return _Step(schedule, ahead=() if self.target.is_cuda else of_reads(problem.nest, outside, self.scan.step))
        work = self.rule(statement, types)
        scratch = [Operand(self._outer(operand.name), operand.type) for operand in work.scratch]
        self.scratch += scratch
        return _Step(work, tuple((a.name, b.name) for a, b in zip(work.scratch, scratch, strict=True)))

    def _schedule(self, problem: Problem) -> Schedule:
        schedule = None if self.target.is_cuda else choose(problem)
        if schedule is None or schedule.before or schedule.constants or schedule.workspace:
            return generic.plan(problem, "inside of a scan")
        return schedule

    def _outer(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def _within_row(self, nest: Nest) -> Nest:
        """The nest of one row: the indices of its leading axes are those of the row."""
        depth = len(self.rows)
        places = {axis.name: IntExpr.var(row.name) for axis, row in zip(nest.axes, self.rows, strict=False)}

        def change(expr: Expr) -> Expr:
            own = isinstance(expr, Read) and expr.tensor in self.own
            return replace(expr, indices=expr.indices[depth:]) if own and isinstance(expr, Read) else expr

        body = substitute(transform(nest.body, change), places)
        return replace(nest, type=self.local[nest.target], axes=nest.axes[depth:], body=body)

    def _replaced(self) -> dict[str, str]:
        """Next values that are written over the carried ones."""
        found: dict[str, str] = {}
        for old, new in zip(self.carried, self.following, strict=True):
            users = [s for s in self.body.statements if old in read_names(s)]
            author = next((s for s in self.body.statements if any(v.name == new for v in defined(s))), None)
            if not isinstance(author, Nest) or old in self.body.outputs or new not in self.once:
                continue
            here = tuple(IntExpr.var(axis.name) for axis in author.axes)
            straight = all(read.indices == here for read in reads(author.body) if read.tensor == old)
            position = self.body.statements.index(author)
            if straight and all(self.body.statements.index(user) <= position for user in users):
                found[new] = old
        return found

    # --- code ---------------------------------------------------------------------------------------------------------

    def emit(self, scope: Scope, row: TirExpr) -> None:
        scan, targets = self.scan, [value.name for value in self.statement.targets]
        places = unravel(scope, self.rows, row)

        def part(outer: str, type: TensorType) -> Tensor:
            return Tensor(scope.tensors[outer].buffer, type, T.bind(row * scope.integer(elements(type.shape))))

        tensors = {name: scope.tensors[outer] for name, outer in self.around.items()}
        tensors |= {name: part(outer, self.local[name]) for name, outer in zip(self.carried, targets, strict=False)}
        tensors |= {name: part(self._outer(name), self.local[name]) for name in self.kept}
        tensors |= {there: scope.tensors[here] for step in self.steps for there, here in step.scratch}
        tensors |= {new: tensors[old] for new, old in self.replaced.items()}
        outside = Scope(tensors, dict(scope.dims), {}, {}).inside(self.rows, places)
        for name, operand in zip(self.carried, self.statement.operands, strict=False):
            _copy(outside, part(operand, self.local[name]), tensors[name])
        done = vm.registers(1, "bool")
        if scan.until:
            T.buffer_store(done, tirx.const(False, "bool"), [0])
        with T.serial(int64(0), scope.integer(scan.extent)) as step:

            def slice_of(name: str) -> Tensor:
                target, axis = self.stacked[name]
                inner = T.bind(scope.integer(count(self.rows[axis:])))
                before = T.truncdiv(row, inner) * scope.integer(scan.extent) + step
                start = (before * inner + T.truncmod(row, inner)) * scope.integer(elements(self.local[name].shape))
                return Tensor(scope.tensors[target].buffer, self.local[name], T.bind(start))

            if not scan.until:
                self._emit_step(scope, outside, step, {name: slice_of(name) for name in self.stacked})
                return
            with T.If(tirx.Not(done[0])):
                with T.Then():
                    inside = self._emit_step(scope, outside, step, {})
                    T.buffer_store(done, inside.load(inside.tensors[self.body.outputs[-1]], ZERO), [0])

    def _emit_step(self, scope: Scope, outside: Scope, step: TirExpr, slices: Mapping[str, Tensor]) -> Scope:
        stacked = {f"{target} stacked": scope.tensors[target] for _, target, _ in self._scattered()}
        tensors = {**outside.tensors, **slices, **stacked}
        for name, source in self.views.items():
            tensors[name] = replace(tensors[source], type=self.local[name])
        dims = {**outside.dims, self.scan.step: step}
        inside = replace(outside, tensors=tensors, dims=dims, done={}, outer=None)
        last = T.bind(scope.integer(self.scan.extent) - int64(1))
        later = replace(inside, dims={**dims, self.scan.step: T.bind(T.min(step + int64(1), last))})
        costs = [_total(each.work) for each in self.steps]
        aheads = [*(ahead for each in self.steps for ahead in each.ahead), *self._written()]
        for each, fetch in zip(self.steps, shares(aheads, costs), strict=True):
            fetch(later)
            with T.serial(int64(0), inside.integer(each.work.count)) as i:
                each.work.emit(replace(inside, done={}), i)
        for old, new in zip(self.carried, self.following, strict=True):
            if new != old and new not in self.replaced:
                _copy(inside, tensors[new], tensors[old])
        for name, target, axis in self._scattered():
            self._stack(inside, tensors[name], scope.tensors[target], self._places(name, axis))
        return inside

    def _written(self) -> list[Ahead]:
        """What slices that do not lie in one piece are written to."""
        found: list[Ahead] = []
        for name, target, axis in () if self.target.is_cuda else self._scattered():
            axes, places = self._places(name, axis)
            type = next(value.type for value in self.statement.targets if value.name == target)
            found += of_slice(f"{target} stacked", type, axes, places, self.scan.step)
        return found

    def _places(self, name: str, axis: int) -> tuple[list[Axis], list[IntExpr]]:
        """The axes of a slice of one row, and its indices where it is stacked."""
        axes = [Axis(f"s{k}", extent) for k, extent in enumerate(self.local[name].shape)]
        every = [IntExpr.var(each.name) for each in (*self.rows, *axes)]
        places = [every[k] for k in self.orders.get(name, range(len(every)))]
        return axes, [*places[:axis], IntExpr.dim(self.scan.step), *places[axis:]]

    def _scattered(self) -> Sequence[tuple[str, str, int]]:
        """Slices that do not lie in one piece: the name, where they are stacked, along which axis."""
        targets = self.statement.targets[len(self.carried) :]
        each = zip(self.slices, targets, self.scan.axes, strict=True)
        return [(name, target.name, axis) for name, target, axis in each if name not in self.stacked]

    def _stack(self, inside: Scope, slice_: Tensor, whole: Tensor, where: tuple[list[Axis], list[IntExpr]]) -> None:
        axes, places = where
        here = [IntExpr.var(axis.name) for axis in axes]

        def element(scope: Scope) -> None:
            scope.store(whole, flatten(places, whole.type), scope.load(slice_, flatten(here, slice_.type)))

        def line(scope: Scope) -> None:
            along(scope, axes[-1], self.target.lanes, (0, None), element)

        if axes and places[-1] == here[-1] and slice_.type.dtype is DType.F32 and not self.target.is_cuda:
            loops(inside, axes[:-1], line)
        else:
            loops(inside, axes, element)


ROWS = 8
"""So many rows are enough: cores share them, and a row stays long."""


def in_chunks(body: Nests, scan: Scan, target: Target) -> Nests:
    """The body with the first axis that would be no row made of two, chunks and the places in them, where it can be.

    Elements keep their place in memory. Unchanged when rows are enough already.
    """
    extents = _separate(body, scan)
    own = _own(body, scan)
    depth = min((body.types()[name].rank for name in own), default=0) - 1
    if not 0 <= depth < len(extents) or target.is_cuda or any(axis > depth for axis in scan.axes):
        return body
    rows, size = math.prod(extents[:depth], start=ONE), extents[depth]
    few = not rows.is_constant or rows.value < ROWS
    lengths = (
        [n for n in range(target.lanes, size.value, target.lanes) if size.value % n == 0] if size.is_constant else []
    )
    length = next((n for n in lengths if size.value // n <= ROWS), None)
    if not few or length is None:
        return body
    whole = IntExpr.constant(size.value // length), IntExpr.constant(length)

    def split(type: TensorType) -> TensorType:
        return replace(type, shape=(*type.shape[:depth], *whole, *type.shape[depth + 1 :]))

    def changed(nest: Nest) -> Nest:
        axis = nest.axes[depth]
        chunk, place = Axis(f"{axis.name}.chunk", whole[0]), Axis(f"{axis.name}.in", whole[1])
        pair = IntExpr.var(chunk.name), IntExpr.var(place.name)
        value = substitute(nest.body, {axis.name: pair[0] * length + pair[1]})

        def change(e: Expr) -> Expr:
            if not isinstance(e, Read) or e.tensor not in own:
                return e
            return replace(e, indices=(*e.indices[:depth], *pair, *e.indices[depth + 1 :]))

        axes = (*nest.axes[:depth], chunk, place, *nest.axes[depth + 1 :])
        return replace(nest, type=split(nest.type), axes=axes, body=transform(value, change))

    inputs = tuple(replace(v, type=split(v.type)) if v.name in own else v for v in body.inputs)
    return replace(body, inputs=inputs, statements=tuple(changed(s) for s in body.statements if isinstance(s, Nest)))


def rows_first(body: Nests, scan: Scan) -> Nests:
    """The body with the axes of slices that nothing reads in the order of the states that they are made of, where more
    axes are rows then."""
    own = _own(body, scan)
    used = {read.tensor for s in body.statements if isinstance(s, Nest) for read in reads(s.body)}
    free = set(body.outputs[scan.carried :]) - used - set(body.outputs[: scan.carried])

    def changed(statement: Statement) -> Statement:
        if not isinstance(statement, Nest) or statement.target not in free:
            return statement
        leading = [read.indices for read in reads(statement.body) if read.tensor in own]
        first: list[Axis] = []
        for k in range(min(map(len, leading), default=0)):
            indices = {each[k] for each in leading}
            found = [axis for axis in statement.axes if indices == {IntExpr.var(axis.name)} and axis not in first]
            if not found:
                break
            first += found
        axes = (*first, *(axis for axis in statement.axes if axis not in first))
        type = replace(statement.type, shape=tuple(axis.extent for axis in axes))
        return replace(statement, axes=axes, type=type)

    new = replace(body, statements=tuple(map(changed, body.statements)))
    return new if len(_separate(new, scan)) > len(_separate(body, scan)) else body


def _own(body: Nests, scan: Scan) -> set[str]:
    """Carried and computed tensors."""
    return {v.name for v in (*body.inputs[: scan.carried], *(v for s in body.statements for v in defined(s)))}


def _separate(body: Nests, scan: Scan) -> list[IntExpr]:
    """Extents of the leading axes along which every tensor of the body is read only where it is written."""
    nests, types, own = [s for s in body.statements if isinstance(s, Nest)], body.types(), _own(body, scan)
    if len(nests) != len(body.statements):
        return []
    found: list[IntExpr] = []
    shapes = [types[name].shape for name in own]
    for k in range(min(map(len, shapes), default=0)):
        same = {shape[k] for shape in shapes}
        straight = all(
            read.indices[k] == IntExpr.var(nest.axes[k].name)
            for nest in nests
            for read in reads(nest.body)
            if read.tensor in own
        )
        if len(same) > 1 or not straight:
            break
        found.append(same.pop())
    return found


def _total(work: Work) -> float:
    """Nanoseconds."""
    return work.cost * size(work.count)


def _is_view(statement: Statement) -> bool:
    return isinstance(statement, Primitive) and statement.name == "reshape"


def _copy(scope: Scope, source: Tensor, target: Tensor) -> None:
    with T.serial(int64(0), scope.integer(elements(target.type.shape))) as i:
        T.buffer_store(target.buffer, source.buffer[source.place(i)], [target.place(i)])


def _distinct_outputs(scan: Scan) -> Nests:
    """The body with outputs that are computed by a statement each, except for carried tensors that stay as they are."""
    body, types = scan.body, scan.body.types()
    carried = [value.name for value in body.inputs[: scan.carried]]
    computed = {value.name for s in body.statements if not _is_view(s) for value in defined(s)}
    statements, outputs = list(body.statements), list[str]()
    for number, name in enumerate(body.outputs):
        unchanged = number < scan.carried and name == carried[number]
        if not unchanged and (name not in computed or name in outputs):
            axes = tuple(Axis(f"i{k}", extent) for k, extent in enumerate(types[name].shape))
            read = Read(name, tuple(IntExpr.var(axis.name) for axis in axes), types[name].dtype)
            name = f"{name}.output{number}"
            statements.append(Nest(name, TensorType(read.dtype, tuple(a.extent for a in axes)), axes, read, ()))
        outputs.append(name)
    return replace(body, statements=tuple(statements), outputs=tuple(outputs))
