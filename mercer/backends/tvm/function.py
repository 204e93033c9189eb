"""Scheduled work as TIR functions: a body that does a range of outer iterations, and an entry that spreads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from mercer.backends.tvm.analysis import elements
from mercer.backends.tvm.kernel import Operand
from mercer.backends.tvm.lower import Scope, Tensor, int64
from mercer.backends.tvm.scalar import memory_type, tir_type
from mercer.backends.tvm.schedules.common import Schedule
from mercer.backends.tvm.vector_math import TirExpr
from mercer.ir.index import reads
from mercer.ir.integers import Dim, IntExpr
from mercer.ir.types import TensorType

GRAIN = 4000.0
"""Nanoseconds of estimated work below which a thread is not worth waking."""

EVEN = 4
"""The number of tasks is a multiple of this, so that two or four threads get equally many."""


class Work(Protocol):
    """Code for `count` independent units; one takes about `cost` nanoseconds."""

    @property
    def count(self) -> IntExpr: ...

    @property
    def cost(self) -> float: ...

    @property
    def dims(self) -> frozenset[str]: ...

    @property
    def workspace(self) -> tuple[Operand, ...]:
        """Memory of static size that every thread has for itself."""
        ...

    @property
    def emit(self) -> Callable[[Scope, TirExpr], None]: ...


def operands(schedule: Schedule, types: dict[str, TensorType]) -> tuple[Operand, ...]:
    """What the nest reads, in order of first use."""
    names = dict.fromkeys(read.tensor for read in reads(schedule.nest.body))
    return tuple(Operand(name, types[name]) for name in names)


def dims_of(types: Sequence[TensorType], work: Work) -> tuple[str, ...]:
    """The symbolic dims that the work needs, in alphabetic order."""
    found = {name for type in types for size in type.shape for name in size.dims()}
    return tuple(sorted(found | work.count.dims() | work.dims))


def scope_of(buffers: dict[str, tuple[Any, TensorType]], dims: dict[str, TirExpr]) -> Scope:
    """A scope without loop indices over flat views of the given data pointers."""
    empty = Scope({}, dims, {}, {})
    tensors: dict[str, Tensor] = {}
    for name, (data, type) in buffers.items():
        flat = T.decl_buffer((empty.integer(elements(type.shape)),), memory_type(type.dtype), data=data, layout=None)
        tensors[name] = Tensor(flat, type)
    return Scope(tensors, dims, {}, {})


def build(name: str, work: Work, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> dict[Any, Any]:
    """The functions of a piece of CPU work by global name; the entry is called `name`.

    The entry takes the inputs, then the symbolic dims in alphabetic order as int64, then the outputs.
    """
    dims = dims_of([o.type for o in (*inputs, *outputs)], work)
    body = tvm.ir.GlobalVar(f"{name}_body")
    entry = tvm.ir.GlobalVar(name)
    return {
        body: _body(name, work, [*inputs, *outputs], dims),
        entry: _entry(name, body, work, inputs, outputs, dims),
    }


def _body(name: str, work: Work, named: Sequence[Operand], dims: Sequence[str]) -> Any:
    with IRBuilder() as builder:
        with T.prim_func(is_private=True, s_tir=False):
            T.func_name(f"{name}_body")
            T.func_attr({"tirx.noalias": True})
            named = [*named, *work.workspace]
            pointers = [T.arg(f"p{i}", T.ptr(memory_type(o.type.dtype))) for i, o in enumerate(named)]
            sizes = {d: T.arg(d, tirx.Var(d, "int64")) for d in dims}
            first, end = (T.arg(n, tirx.Var(n, "int64")) for n in ("first", "end"))
            scope = scope_of({o.name: (p, o.type) for o, p in zip(named, pointers, strict=True)}, sizes)
            with ExitStack() as unaligned:  # else TVM takes any pointer to lie where a vector register likes it
                for pointer, operand in zip(pointers, named, strict=True):
                    size = operand.type.dtype.numpy.itemsize
                    unaligned.enter_context(T.attr(pointer, "storage_alignment", tirx.IntImm("int32", size)))
                with T.serial(first, end) as i:
                    work.emit(scope, i)
    return builder.get()


def _entry(
    name: str, body: Any, work: Work, inputs: Sequence[Operand], outputs: Sequence[Operand], dims: Sequence[str]
) -> Any:
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

            def call(low: TirExpr, high: TirExpr) -> None:
                own = [_allocated(o.type) for o in work.workspace]
                fixed = [b.data for b in (*buffers, *own)] + [sizes[d] for d in dims]
                T.evaluate(_call(body, [*fixed, low, high]))

            _spread(empty.integer(work.count), work, call)
    return builder.get()


def _allocated(type: TensorType) -> Any:
    size = math.prod(extent.value for extent in type.shape)
    return T.alloc_buffer((max(1, size),), memory_type(type.dtype), scope="global", layout=None)


def _call(callee: Any, arguments: Sequence[TirExpr]) -> Any:
    return tvm.ir.Call(callee, arguments, ret_ty=tvm.ir.TupleType([]))


def argument(sizes: Mapping[str, Any], type: TensorType) -> Any:
    """Aligned as its elements are: arrays of users lie anywhere."""
    shape = [extent(size, sizes) for size in type.shape]
    return T.buffer(shape, tir_type(type.dtype), align=tvm.DataType(tir_type(type.dtype)).itemsize, layout=None)


def extent(size: IntExpr, dims: Mapping[str, Any]) -> Any:
    """A dimension in the head of a function, where nothing can be computed first: one int64 expression."""

    def long(value: Any) -> Any:
        return tirx.IntImm("int64", value) if isinstance(value, int) else value

    found = size.evaluate(
        lambda atom: dims[atom.name] if isinstance(atom, Dim) else None,
        lambda a, b: tirx.min(long(a), long(b)),
        lambda a, b: tirx.max(long(a), long(b)),
    )
    return long(found)


def _spread(total: TirExpr, work: Work, call: Any) -> None:
    """Call the body once when the work is small, else in tasks of nearly equal size on all threads."""
    chunk = max(1, round(GRAIN / max(work.cost, 1e-3)))
    if work.count.is_constant and work.count.value <= chunk:
        call(int64(0), total)
        return
    with T.If(total <= int64(chunk)):
        with T.Then():
            call(int64(0), total)
        with T.Else():
            tasks = T.truncdiv(total + int64(EVEN * chunk - 1), int64(EVEN * chunk)) * int64(EVEN)
            tasks = T.bind(tirx.min(tasks, total))
            with T.parallel(int64(0), tasks) as task:
                call(T.truncdiv(task * total, tasks), T.truncdiv((task + int64(1)) * total, tasks))
