"""Which kernels compute a program: its statements, scheduled in order, with what is known about every tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mercer.backends.tvm import cuda, function, primitives, row_tiles
from mercer.backends.tvm.complex_pairs import split
from mercer.backends.tvm.demand import Demand, demand
from mercer.backends.tvm.factors import with_factors
from mercer.backends.tvm.fft import with_tables
from mercer.backends.tvm.fft_nests import expanded
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.parts import Parts, in_parts
from mercer.backends.tvm.rows import Rows, grouped
from mercer.backends.tvm.sampled import with_samples
from mercer.backends.tvm.schedules.choose import choose
from mercer.backends.tvm.schedules.common import Problem, Schedule
from mercer.backends.tvm.split_axes import without_splits
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.tuning.database import UNTUNED, Tuned
from mercer.backends.tvm.tuning.kernel import kernel_of
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Expr, Read, reads, rebuild
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest, Nests, Origin, Primitive, Statement, defined
from mercer.ir.types import Data, TensorType


@dataclass(frozen=True)
class View:
    """`target` is `operand` in another shape."""

    target: str
    operand: str
    type: TensorType


@dataclass(frozen=True)
class Call:
    """`work` computes the first results from `operands`, as `source` says; the other results are its scratch.

    Calls of equal `content` share one function.
    """

    work: function.Work
    operands: tuple[Operand, ...]
    results: tuple[Operand, ...]
    family: str
    detail: str
    origins: tuple[Origin, ...]
    content: Any
    parts: tuple[str, ...] = ()
    source: Nest | Rows | None = None
    tuned: str = ""

    @property
    def types(self) -> list[TensorType]:
        return [o.type for o in (*self.operands, *self.results)]


def families(nests: Nests, target: Target) -> tuple[str, ...]:
    """How a program would be computed, in order: the families of its schedules and the names of its primitives."""
    calls = [call for call in planned(nests, target).calls if isinstance(call, Call)]
    return tuple(family for call in calls for family in call.parts or (call.family,))


def planned(nests: Nests, target: Target, tuned: Tuned = UNTUNED) -> Plan:
    """The calls of a program, scheduled."""
    parts = None if target.is_cuda else in_parts(nests)
    if parts is not None:
        nests = parts.nests
    if target.is_cuda:
        nests = split(expanded(nests))
    else:
        nests = with_factors(with_samples(with_tables(split(nests, target.lanes), target), target), target)
    plan = Plan(nests, target, tuned, parts)
    statements = plan.outputs_computed(nests)
    if target.is_cuda:
        for statement in statements:
            plan.add(statement)
        return plan
    units, alone = grouped(without_splits(statements, plan.outputs, plan.types), plan.outputs, plan.types)
    for unit in units:
        if isinstance(unit, Rows):
            plan.add_rows(unit)
        else:
            plan.add(unit, alone.get(defined(unit)[0].name, ""))
    return plan


class Plan:
    """Scheduled statements, with what is known about every tensor so far."""

    def __init__(self, nests: Nests, target: Target, tuned: Tuned = UNTUNED, parts: Parts | None = None) -> None:
        self.nests, self.target, self.tuned, self.parts = nests, target, tuned, parts
        self.types = nests.types()
        self.constants = {c.name: c for c in nests.constants}
        self.demands: dict[str, Demand] = {}
        self.calls: list[View | Call] = []

    def outputs_computed(self, nests: Nests) -> list[Statement]:
        """All statements; an output that shares memory with an argument or another output gets a copy of its own."""
        taken = {v.name for v in (*nests.inputs, *nests.parameters, *nests.constants)}
        statements = list(nests.statements)
        views = [s for s in statements if isinstance(s, Primitive) and s.name == "reshape"]
        root = {view.targets[0].name: view.operands[0] for view in views}
        self.outputs: list[str] = []
        for name in nests.outputs:
            memory = name
            while memory in root:
                memory = root[memory]
            if memory in taken:
                copy = f"{name}.output{len(self.outputs)}"
                statements.append(_copy(copy, name, self.types[name]))
                self.types[copy] = self.types[name]
                name = copy
            taken.add(memory)
            self.outputs.append(name)
        return statements

    def add(self, statement: Statement, alone: str = "") -> None:
        """`alone` is why a nest was not grouped with what reads it."""
        if isinstance(statement, Primitive):
            self._add_primitive(statement)
            return
        problem = Problem(statement, self.types, self.constants, self.target)
        schedule, tuned = self._schedule(problem)
        for constant in schedule.constants:
            self.constants[constant.name] = constant
            self.types[constant.name] = constant.type
        for nest in schedule.before:
            if nest.target not in self.types:
                self.types[nest.target] = nest.type
                self.add(nest)
        operands = function.operands(schedule, self.types)
        result = Operand(statement.target, statement.type)
        self.demands[result.name] = demand([statement], operands, [result], self.types)
        name = schedule.nest.target
        content = schedule.family, schedule.detail, _content((schedule.nest,), operands, (name,)), statement.type
        detail = f"{schedule.detail}; by itself: {alone}" if alone else schedule.detail
        self.calls.append(
            Call(
                schedule,
                operands,
                (result,),
                schedule.family,
                detail,
                statement.origins,
                content,
                source=statement,
                tuned=tuned,
            )
        )

    def _schedule(self, problem: Problem) -> tuple[Schedule, str]:
        """With what measurement chose it."""
        if self.target.is_cuda:
            return cuda.plan(problem), ""
        return self.tuned.choose(
            lambda: kernel_of((problem.nest,), self.types, self.constants),
            lambda choice: choose(replace(problem, choice=choice)),
        )

    def add_rows(self, group: Rows) -> None:
        """A tile of rows at a time through all nests of the group."""
        work, tuned = self.tuned.choose(
            lambda: kernel_of(group.members, self.types, self.constants),
            lambda choice: row_tiles.plan(group, self.types, self.constants, self.target, choose, choice),
        )
        self.constants |= {constant.name: constant for constant in work.constants}
        self.types |= {constant.name: constant.type for constant in work.constants}
        for nest in work.before:
            if nest.target not in self.types:
                self.types[nest.target] = nest.type
                self.add(nest)
        own = set(work.inside)
        names = dict.fromkeys(read.tensor for nest in work.nests for read in reads(nest.body) if read.tensor not in own)
        operands = tuple(Operand(name, self.types[name]) for name in names)
        outer = [member.target for member in group.members if member.target not in group.inner]
        results = tuple(Operand(name, self.types[name]) for name in outer)
        self.demands[results[0].name] = demand(group.members, operands, results, self.types)
        origins = tuple(dict.fromkeys(origin for member in group.members for origin in member.origins))
        content = work.detail, _content(work.nests, operands, work.inside), tuple(result.type for result in results)
        call = Call(work, operands, results, "rows", work.detail, origins, content, work.families, group, tuned)
        self.calls.append(call)

    def _add_primitive(self, statement: Primitive) -> None:
        if statement.name == "reshape":
            self._add_view(statement)
            return
        kernel = primitives.kernel(statement, self.types, self.target)
        operands = tuple(Operand(name, self.types[name]) for name in dict.fromkeys(statement.operands))
        results = tuple(Operand(value.name, value.type) for value in statement.targets)
        self.types |= {operand.name: operand.type for operand in kernel.scratch}
        self.demands[results[0].name] = demand([statement], operands, results, self.types)
        outputs = (*results, *kernel.scratch)
        content = statement if statement.scan is not None else _what(statement, self.types)
        self.calls.append(Call(kernel, operands, outputs, statement.name, kernel.detail, statement.origins, content))

    def _add_view(self, statement: Primitive) -> None:
        (operand,), (value,) = statement.operands, statement.targets
        known = self.constants.get(operand)
        if known is not None and known.data.array is not None:
            array = known.data.array.reshape([size.value for size in value.type.shape])
            self.constants[value.name] = Constant(value.name, value.type, Data(array))
        else:
            self.calls.append(View(value.name, operand, value.type))


def _content(nests: Sequence[Nest], operands: Sequence[Operand], inside: Sequence[str]) -> Any:
    """Equal for nests that compute the same of operands of the same types; `inside` are all other tensors in them."""
    names = {operand.name: f"p{i}" for i, operand in enumerate(operands)}
    names |= {name: f"t{i}" for i, name in enumerate(inside)}

    def renamed(expr: Expr) -> Expr:
        if expr not in done:
            new = rebuild(expr, renamed)
            done[expr] = replace(new, tensor=names[new.tensor]) if isinstance(new, Read) else new
        return done[expr]

    done: dict[Expr, Expr] = {}
    types = tuple(operand.type for operand in operands)
    return types, tuple((names[nest.target], nest.axes, renamed(nest.body)) for nest in nests)


def _what(statement: Primitive, types: dict[str, TensorType]) -> Any:
    """Equal for primitives that do the same with operands of the same types."""
    same = tuple(statement.operands.index(name) for name in statement.operands)
    operands = tuple(types[name] for name in statement.operands)
    return statement.name, statement.attributes, same, operands, tuple(value.type for value in statement.targets)


def _copy(target: str, source: str, type: TensorType) -> Nest:
    axes = tuple(Axis(f"i{k}", size) for k, size in enumerate(type.shape))
    body = Read(source, tuple(IntExpr.var(axis.name) for axis in axes), type.dtype)
    return Nest(target, type, axes, body, ())
