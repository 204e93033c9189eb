"""From Nests to a shared library: one TIR function for each distinct nest, called in order by a Relax function."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from mercer.backends.tvm import cuda, function, primitives, row_tiles, vector_math as vm
from mercer.backends.tvm.complex_pairs import split
from mercer.backends.tvm.demand import Demand, demand
from mercer.backends.tvm.factors import with_factors
from mercer.backends.tvm.fft import with_tables
from mercer.backends.tvm.fft_nests import expanded
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.memory import MemoryPlan, storages, workspace
from mercer.backends.tvm.pipeline import TIR_CONFIG, TIR_PIPELINE, in_order, machine_passes, memory_passes
from mercer.backends.tvm.rows import Rows, grouped
from mercer.backends.tvm.sampled import with_samples
from mercer.backends.tvm.scalar import UnsupportedError, tir_type
from mercer.backends.tvm.schedules.choose import choose
from mercer.backends.tvm.schedules.common import Problem, Schedule
from mercer.backends.tvm.target import Target, require_tools
from mercer.backends.tvm.tuning.database import UNTUNED, Tuned
from mercer.backends.tvm.tuning.kernel import kernel_of
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Expr, Read, reads, rebuild
from mercer.ir.integers import Dim, IntExpr
from mercer.ir.nests import Nest, Nests, Origin, Primitive, Statement, defined
from mercer.ir.types import Array, Data, TensorType

ENTRY = "main"


@dataclass(frozen=True)
class Step:
    """One call of the binary, in order: the function, how it is scheduled, where it came from, what it must do.

    `tuned` says which measurement chose the schedule, "" where the cost model did.
    """

    function: str
    target: str
    family: str
    detail: str
    origins: tuple[Origin, ...]
    demand: Demand
    tuned: str = ""

    def to_json(self) -> dict[str, str]:
        """As artifacts keep it; `source` is the line of the text."""
        return {
            "function": self.function,
            "tensor": self.target,
            "family": self.family,
            "detail": self.detail,
            "tuned": self.tuned,
            "source": str(self.origins[-1].span) if self.origins else "",
            "flops": str(self.demand.flops),
            "bytes": str(self.demand.bytes),
        }


@dataclass(frozen=True)
class Compiled:
    """A shared library for TVM's virtual machine.

    The function `entry` takes the arrays `arguments` (inputs, then parameters that were left open), then `constants`,
    in order, then the values of `symbols` as one shape if there are any, and gives a tuple of `outputs`. Symbols are
    the dimensions that stand nowhere alone, such as K of an input f32[N, 2*K]. `source` is the generated device code
    (CUDA) or None.
    """

    library: bytes
    entry: str
    arguments: tuple[str, ...]
    constants: tuple[tuple[str, Array], ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    memory: MemoryPlan
    symbols: tuple[str, ...] = ()
    source: str | None = None


@dataclass(frozen=True)
class _View:
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


def compile_nests(nests: Nests, target: Target, tuned: Tuned = UNTUNED) -> Compiled:
    """Compile a program whose constants have data, with schedules that were `tuned` where there are any.

    Raises UnsupportedError for what this backend does not know and TargetError when a compiler is missing.
    """
    require_tools(target)
    return planned(nests, target, tuned).build()


def families(nests: Nests, target: Target) -> tuple[str, ...]:
    """How a program would be computed, in order: the families of its schedules and the names of its primitives."""
    calls = [call for call in planned(nests, target).calls if isinstance(call, Call)]
    return tuple(family for call in calls for family in call.parts or (call.family,))


def planned(nests: Nests, target: Target, tuned: Tuned = UNTUNED) -> Plan:
    """The calls of a program, scheduled."""
    if target.is_cuda:
        nests = split(expanded(nests))
    else:
        nests = with_factors(with_samples(with_tables(split(nests, target.lanes), target), target), target)
    plan = Plan(nests, target, tuned)
    statements = plan.outputs_computed(nests)
    if target.is_cuda:
        for statement in statements:
            plan.add(statement)
        return plan
    units, alone = grouped(statements, plan.outputs, plan.types)
    for unit in units:
        if isinstance(unit, Rows):
            plan.add_rows(unit)
        else:
            plan.add(unit, alone.get(defined(unit)[0].name, ""))
    return plan


class Plan:
    """Scheduled statements, with what is known about every tensor so far."""

    def __init__(self, nests: Nests, target: Target, tuned: Tuned = UNTUNED) -> None:
        self.nests, self.target, self.tuned = nests, target, tuned
        self.types = nests.types()
        self.constants = {c.name: c for c in nests.constants}
        self.demands: dict[str, Demand] = {}
        self.calls: list[_View | Call] = []

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
            self.calls.append(_View(value.name, operand, value.type))

    # --- to TVM -------------------------------------------------------------------------------------------------------

    def build(self) -> Compiled:
        used = {o.name for c in self.calls if isinstance(c, Call) for o in c.operands}
        used |= {c.operand for c in self.calls if isinstance(c, _View)} | set(self.outputs)
        constants = [c for c in self.constants.values() if c.name in used]
        for constant in constants:
            if constant.data.array is None:
                raise UnsupportedError(f"constant %{constant.name} has no data: the IR was read without its weights")
        arguments = [v.name for v in (*self.nests.inputs, *self.nests.parameters)]
        sizes = [size for v in self.nests.inputs for size in v.type.shape]
        alone = {size.single.name for size in sizes if isinstance(size.single, Dim)}
        symbols = sorted({d for size in sizes for d in size.dims()} - alone)
        module, steps, memory = self._module(arguments, [c.name for c in constants], symbols)
        with tvm.transform.PassContext(config=TIR_CONFIG):
            executable = relax.build(module, self.target.tvm(), relax_pipeline=None, tir_pipeline=TIR_PIPELINE)
        return Compiled(
            library=_export(executable),
            entry=ENTRY,
            arguments=tuple(arguments),
            constants=tuple(
                (c.name, np.asarray(c.data.array, order="C")) for c in constants if c.data.array is not None
            ),
            outputs=tuple(self.nests.outputs),
            steps=tuple(steps),
            memory=memory,
            symbols=tuple(symbols),
            source=cuda.source_of(executable) if self.target.is_cuda else None,
        )

    def _module(
        self, arguments: list[str], constants: list[str], symbols: list[str]
    ) -> tuple[Any, list[Step], MemoryPlan]:
        builder = relax.BlockBuilder()
        dims = {
            d: tirx.Var(d, "int64") for type in self.types.values() for size in type.shape for d in sorted(size.dims())
        }

        def tensor_type(type: TensorType) -> Any:
            return relax.TensorType([function.extent(size, dims) for size in type.shape], tir_type(type.dtype))

        parameters = [relax.Var(f"v{i}", tensor_type(self.types[n])) for i, n in enumerate((*arguments, *constants))]
        values: dict[str, Any] = dict(zip((*arguments, *constants), parameters, strict=True))
        if symbols:
            parameters.append(relax.Var("symbols", relax.ShapeType([dims[d] for d in symbols])))
        functions = _Functions(self.target)
        steps: list[Step] = []
        with builder.function(ENTRY, parameters):
            with builder.dataflow():
                for call in self.calls:
                    if isinstance(call, _View):
                        shape = [function.extent(size, dims) for size in call.type.shape]
                        values[call.target] = builder.emit(relax.op.reshape(values[call.operand], shape))
                        continue
                    name = functions.get(call)
                    extra = [dims[d] for d in function.dims_of(call.types, call.work)]
                    args = [*(values[o.name] for o in call.operands), *extra]
                    outs = [tensor_type(o.type) for o in call.results]
                    out_ty = outs if len(outs) > 1 else outs[0]
                    found = builder.emit(relax.call_tir(functions.declare(builder, name), args, out_ty=out_ty))
                    for k, result in enumerate(call.results):
                        values[result.name] = builder.emit(relax.TupleGetItem(found, k)) if len(outs) > 1 else found
                    first = call.results[0].name
                    must = self.demands[first]
                    steps.append(Step(name, first, call.family, call.detail, call.origins, must, call.tuned))
                results = [values[name] for name in self.outputs]
                result = builder.emit_output(relax.Tuple(results) if len(results) > 1 else results[0])
            builder.emit_func_output(result)
        with self.target.tvm():
            planned = memory_passes()(builder.get())
            module = in_order(machine_passes()(planned))
        memory = MemoryPlan(storages(planned[ENTRY], frozenset(functions.entries)), self._workspace())
        # Added last: the passes would make public entries of them.
        return tvm.IRModule({**module.functions, **functions.private}, attrs=module.attrs), steps, memory

    def _workspace(self) -> int:
        """Most bytes that a thread needs for one step."""
        return max((workspace(call.work.workspace) for call in self.calls if isinstance(call, Call)), default=0)


class _Functions:
    """TIR functions by what they compute, so that equal nests share one."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.by_content: dict[Any, str] = {}
        self.entries: dict[str, Any] = {}
        self.declared: dict[str, Any] = {}
        self.private: dict[Any, Any] = {}

    def get(self, call: Call) -> str:
        """Name of the function that computes `call`."""
        if call.content not in self.by_content:
            name = self.by_content[call.content] = self._name(call.origins)
            build = cuda.build if self.target.is_cuda else function.build
            token = vm.FUSED.set("fma" in self.target.features)
            try:
                functions = build(name, call.work, call.operands, call.results)
            finally:
                vm.FUSED.reset(token)
            for global_var, code in functions.items():
                if global_var.name_hint == name:
                    self.entries[name] = code
                else:
                    self.private[global_var] = code
        return self.by_content[call.content]

    def declare(self, builder: Any, name: str) -> Any:
        if name not in self.declared:
            self.declared[name] = builder.add_func(self.entries[name], name)
        return self.declared[name]

    def _name(self, origins: Sequence[Origin]) -> str:
        operators = list(dict.fromkeys(re.sub(r"\W", "_", origin.operator) for origin in origins))[:4]
        base = "_".join(operators) or "nest"
        taken = set(self.by_content.values()) | {ENTRY}
        names = (base if i == 0 else f"{base}_{i}" for i in range(len(taken) + 1))
        return next(name for name in names if name not in taken)


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


def _export(executable: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="mercer-") as folder:
        path = Path(folder) / "model.so"
        executable.export_library(str(path))
        return path.read_bytes()
