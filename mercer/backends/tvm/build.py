"""From Nests to a shared library: one TIR function for each distinct nest, called in order by a Relax function."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from mercer.backends.tvm import cuda, function, vector_math as vm
from mercer.backends.tvm.demand import Demand
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.memory import MemoryPlan, repeated, storages, workspace
from mercer.backends.tvm.parts import Parts, joined, taken
from mercer.backends.tvm.pipeline import TIR_CONFIG, TIR_PIPELINE, in_order, machine_passes, memory_passes
from mercer.backends.tvm.plan import Call, Plan, View, planned
from mercer.backends.tvm.scalar import UnsupportedError, tir_type
from mercer.backends.tvm.schedules.choose import choose
from mercer.backends.tvm.schedules.common import Problem
from mercer.backends.tvm.target import Target, require_tools
from mercer.backends.tvm.tuning.database import UNTUNED, Tuned
from mercer.ir.graph import Value
from mercer.ir.integers import Dim
from mercer.ir.nests import Nests, Origin
from mercer.ir.spans import NOWHERE
from mercer.ir.types import Array, TensorType
from mercer.runtime.executors import PART

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
    the dimensions that stand nowhere alone, such as K of an input f32[N, 2*K]. It calls itself nothing but functions of
    TIR, or `part` for each of so many `parts` of a batch. `source` is the generated device code (CUDA) or None.
    """

    library: bytes
    entry: str
    arguments: tuple[str, ...]
    constants: tuple[tuple[str, Array], ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    memory: MemoryPlan
    symbols: tuple[str, ...] = ()
    parts: int = 1
    source: str | None = None


def compile_nests(nests: Nests, target: Target, tuned: Tuned = UNTUNED) -> Compiled:
    """Compile a program whose constants have data, with schedules that were `tuned` where there are any.

    Raises UnsupportedError for what this backend does not know and TargetError when a compiler is missing.
    """
    require_tools(target)
    return build(planned(nests, target, tuned))


def build(plan: Plan) -> Compiled:
    """Raises UnsupportedError where the data of a constant is not known."""
    used = {o.name for c in plan.calls if isinstance(c, Call) for o in c.operands}
    used |= {c.operand for c in plan.calls if isinstance(c, View)} | set(plan.outputs)
    constants = [c for c in plan.constants.values() if c.name in used]
    for constant in constants:
        if constant.data.array is None:
            raise UnsupportedError(f"constant %{constant.name} has no data: the IR was read without its weights")
    arguments = [v.name for v in (*plan.nests.inputs, *plan.nests.parameters)]
    sizes = [size for v in plan.nests.inputs for size in v.type.shape]
    alone = {size.single.name for size in sizes if isinstance(size.single, Dim)}
    symbols = sorted({d for size in sizes for d in size.dims()} - alone)
    module, steps, memory = _Program(plan, (*arguments, *(c.name for c in constants)), symbols).module()
    with tvm.transform.PassContext(config=TIR_CONFIG):
        executable = relax.build(module, plan.target.tvm(), relax_pipeline=None, tir_pipeline=TIR_PIPELINE)
    return Compiled(
        library=_export(executable),
        entry=ENTRY,
        arguments=tuple(arguments),
        constants=tuple((c.name, np.asarray(c.data.array, order="C")) for c in constants if c.data.array is not None),
        outputs=tuple(plan.nests.outputs),
        steps=tuple(steps),
        memory=memory,
        symbols=tuple(symbols),
        parts=1 if plan.parts is None else plan.parts.count,
        source=cuda.source_of(executable) if plan.target.is_cuda else None,
    )


class _Program:
    """A plan in Relax: a function that makes its calls in order; where that computes a part of a batch, one around it.

    `names` are the arguments, then the constants.
    """

    def __init__(self, plan: Plan, names: Sequence[str], symbols: Sequence[str]) -> None:
        self.plan, self.names, self.symbols = plan, names, symbols
        self.builder = relax.BlockBuilder()
        self.functions = _Functions(plan.target)
        types = plan.types.values()
        self.dims = {d: tirx.Var(d, "int64") for t in types for size in t.shape for d in sorted(size.dims())}

    def module(self) -> tuple[Any, list[Step], MemoryPlan]:
        plan, parts = self.plan, self.plan.parts
        inner = ENTRY if parts is None else PART
        function_of_calls, steps = self._calls(inner)
        if parts is not None:
            steps = self._around(function_of_calls, parts, steps)
        with plan.target.tvm():
            lowered = memory_passes()(self.builder.get())
            module = in_order(machine_passes()(lowered))
        kernels = frozenset(self.functions.entries)
        found = storages(lowered[inner], kernels)
        if parts is not None:
            found = repeated(found, storages(lowered[ENTRY], kernels | {PART}), parts.count, len(parts.inputs))
        each = max((workspace(call.work.workspace) for call in plan.calls if isinstance(call, Call)), default=0)
        # Added last: the passes would make public entries of them.
        module = tvm.IRModule({**module.functions, **self.functions.private}, attrs=module.attrs)
        return module, steps, MemoryPlan(found, each)

    def _calls(self, name: str) -> tuple[Any, list[Step]]:
        """The function of all calls, and their steps."""
        plan, builder = self.plan, self.builder
        values = self._parameters(plan.types)
        parameters = list(values.values())
        if self.symbols:
            parameters.append(relax.Var("symbols", relax.ShapeType([self.dims[d] for d in self.symbols])))
        steps: list[Step] = []
        with builder.function(name, parameters, private=name != ENTRY):
            with builder.dataflow():
                for call in plan.calls:
                    if isinstance(call, View):
                        shape = [function.extent(size, self.dims) for size in call.type.shape]
                        values[call.target] = builder.emit(relax.op.reshape(values[call.operand], shape))
                        continue
                    extra = [self.dims[d] for d in function.dims_of(call.types, call.work)]
                    values |= self._emit(call, values, extra)
                    steps.append(self._step(call, plan.demands[call.results[0].name]))
                result = builder.emit_output(_tuple([values[output] for output in plan.outputs]))
            return builder.emit_func_output(result), steps

    def _around(self, part: Any, parts: Parts, steps: Sequence[Step]) -> list[Step]:
        """The entry: every part of the inputs is taken and computed, the results are joined. The steps of all."""
        builder, types = self.builder, self.plan.types | {v.name: v.type for v in parts.inputs}
        values = self._parameters(types)
        takes = [_take(v, self.plan.types[v.name], self.plan.target) for v in parts.inputs]
        joins = [_join(name, self.plan.types[name], parts.count, self.plan.target) for name in self.plan.outputs]
        with builder.function(ENTRY, list(values.values())):
            computed: dict[str, Any] = {}
            for k in range(parts.count):
                given = dict(values)
                for v, call in zip(parts.inputs, takes, strict=True):
                    (given[v.name],) = self._emit(call, values, [tirx.IntImm("int64", k)]).values()
                found = builder.emit(tvm.ir.Call(part, [given[name] for name in self.names]))
                for i, join in enumerate(joins):
                    value = builder.emit(relax.TupleGetItem(found, i)) if len(joins) > 1 else found
                    computed[join.operands[k].name] = value
            results = [value for join in joins for value in self._emit(join, computed, []).values()]
            builder.emit_func_output(_tuple(results))
        first = [self._step(call, Demand.of_copy(call.results[0].type)) for call in takes]
        last = [self._step(call, Demand.of_copy(call.results[0].type)) for call in joins]
        return [*(replace(step, demand=step.demand.times(parts.count)) for step in (*first, *steps)), *last]

    def _parameters(self, types: Mapping[str, TensorType]) -> dict[str, Any]:
        return {name: relax.Var(f"v{i}", self._tensor(types[name])) for i, name in enumerate(self.names)}

    def _tensor(self, type: TensorType) -> Any:
        return relax.TensorType([function.extent(size, self.dims) for size in type.shape], tir_type(type.dtype))

    def _emit(self, call: Call, values: Mapping[str, Any], extra: Sequence[Any]) -> dict[str, Any]:
        """The results of a call by name; `extra` are its symbolic dims."""
        args = [*(values[o.name] for o in call.operands), *extra]
        outs = [self._tensor(o.type) for o in call.results]
        callee = self.functions.declare(self.builder, self.functions.get(call))
        if len(outs) == 1:
            return {call.results[0].name: self.builder.emit(relax.call_tir(callee, args, out_ty=outs[0]))}
        found = self.builder.emit(relax.call_tir(callee, args, out_ty=outs))
        return {o.name: self.builder.emit(relax.TupleGetItem(found, k)) for k, o in enumerate(call.results)}

    def _step(self, call: Call, must: Demand) -> Step:
        first = call.results[0].name
        return Step(self.functions.get(call), first, call.family, call.detail, call.origins, must, call.tuned)


def _tuple(values: Sequence[Any]) -> Any:
    return relax.Tuple(values) if len(values) > 1 else values[0]


def _take(value: Value, type: TensorType, target: Target) -> Call:
    """A part of an input; the number of the part is a symbolic dim."""
    nest = taken(value, Value(f"{value.name}.{PART}", type))
    schedule = choose(Problem(nest, {value.name: value.type, nest.target: type}, {}, target))
    detail = f"{type.shape[0]} of {value.type.shape[0]} samples at a time: {schedule.detail}"
    operands, results = (Operand(value.name, value.type),), (Operand(nest.target, type),)
    content = PART, value.type, type
    return Call(schedule, operands, results, schedule.family, detail, nest.origins, content)


def _join(name: str, type: TensorType, count: int, target: Target) -> Call:
    """A result, of all its parts."""
    operands = tuple(Operand(f"{name}.{k}", type) for k in range(count))
    whole = Operand(name, replace(type, shape=(type.shape[0] * count, *type.shape[1:])))
    work = joined(operands, whole, target)
    origins = (Origin("join", name, NOWHERE),)
    return Call(work, operands, (whole,), "join", work.detail, origins, (PART, type, count))


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
        taken = set(self.by_content.values()) | {ENTRY, PART}
        names = (base if i == 0 else f"{base}_{i}" for i in range(len(taken) + 1))
        return next(name for name in names if name not in taken)


def _export(executable: Any) -> bytes:
    with tempfile.TemporaryDirectory(prefix="mercer-") as folder:
        path = Path(folder) / "model.so"
        executable.export_library(str(path))
        return path.read_bytes()
