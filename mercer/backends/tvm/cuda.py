"""CUDA: one thread for each output element, reductions serial, any number of elements by a strided loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.analysis import elements, flatten
from mercer.backends.tvm.function import Work, argument, dims_of, scope_of
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, int64
from mercer.backends.tvm.schedules.common import Problem, Schedule, at_outer, operations
from mercer.backends.tvm.schedules.normalize import normalize
from mercer.backends.tvm.vector_math import REGISTERS, TirExpr
from mercer.ir.integers import IntExpr

THREADS = 256
"""Threads of a block."""

MAX_BLOCKS = 65535


def plan(problem: Problem) -> Schedule:
    nest = normalize(problem.nest, problem.types)
    place = flatten([IntExpr.var(axis.name) for axis in nest.axes], nest.type)

    def emit(scope: Scope, at: TirExpr) -> None:
        inside = at_outer(scope, nest.axes, at)
        inside.store(inside.tensors[nest.target], place, inside.value(nest.body))

    return Schedule(
        "threads", "one thread for each element", nest, elements(nest.type.shape), operations(nest.body), emit
    )


def build(name: str, work: Work, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> dict[Any, Any]:
    """The entry as in `function.build`; nothing is launched for an empty output."""
    token = REGISTERS.set("local")
    try:
        return {tvm.ir.GlobalVar(name): _kernel(name, work, inputs, outputs)}
    finally:
        REGISTERS.reset(token)


def _kernel(name: str, work: Work, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Any:
    dims = dims_of([o.type for o in (*inputs, *outputs)], work)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=False):
            T.func_name(name)
            T.func_attr({"global_symbol": name, "tirx.noalias": True})
            sizes = {d: tirx.Var(d, "int64") for d in dims}
            empty = Scope({}, sizes, {}, {})
            buffers: list[Any] = [T.arg(f"p{i}", argument(sizes, o.type)) for i, o in enumerate(inputs)]
            for d in dims:
                T.arg(d, sizes[d])
            buffers += [T.arg(f"out{i}", argument(sizes, o.type)) for i, o in enumerate(outputs)]
            named = [*inputs, *outputs]
            total = empty.integer(work.count)
            blocks = tirx.min(T.truncdiv(total + int64(THREADS - 1), int64(THREADS)), int64(MAX_BLOCKS))
            with T.launch_thread("blockIdx.x", tirx.max(blocks, int64(1))) as block:
                with T.launch_thread("threadIdx.x", int64(THREADS)) as thread:
                    pointers = {o.name: (b.data, o.type) for o, b in zip(named, buffers, strict=True)}
                    scope = scope_of(pointers, sizes)
                    first = T.bind(block * int64(THREADS) + thread)
                    grid = T.bind(tirx.max(blocks, int64(1)) * int64(THREADS))
                    with T.serial(int64(0), T.truncdiv(total - first + grid - int64(1), grid)) as step:
                        work.emit(scope, T.bind(first + step * grid))
    return builder.get()


def source_of(executable: Any) -> str:
    """The CUDA C of all kernels."""
    pending, found = [executable.mod], list[str]()
    while pending:
        module = pending.pop()
        if module.kind == "cuda":
            found.append(module.inspect_source())
        pending.extend(module.imports)
    return "\n".join(found)
