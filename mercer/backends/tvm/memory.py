"""The memory plan of a program: what the virtual machine allocates, read off the lowered Relax function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx

from mercer.backends.tvm.kernel import Operand

PAGE = 4096
"""Bytes in whose multiples a thread's workspace is taken."""


@dataclass(frozen=True)
class Storage:
    """Memory that is allocated for the step `first` and needed up to the step `last`; `bytes` is over symbolic dims."""

    bytes: str
    first: int
    last: int


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of one run beside weights and inputs; `workspace` are bytes of each thread."""

    storages: tuple[Storage, ...]
    workspace: int


def storages(function: Any, kernels: frozenset[str]) -> tuple[Storage, ...]:
    """Of a Relax function after memory planning; calls of `kernels` are its steps. What is never killed is returned."""
    found: list[tuple[str, int]] = []
    root: dict[Any, int] = {}
    last: dict[int, int] = {}
    step = 0
    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            name = _callee(value)
            if name == "relax.memory.alloc_storage":
                root[binding.var] = len(found)
                found.append((_text(value.args[0].values[0]), step))
            elif name in ("relax.memory.kill_storage", "relax.memory.kill_tensor"):
                last[root.pop(value.args[0], -1)] = step - 1
            elif name in kernels:
                step += 1
            elif (source := _memory_of(value, root)) is not None:
                root[binding.var] = root[source]
    kept = set(root.values())
    return tuple(Storage(size, first, step if k in kept else last[k]) for k, (size, first) in enumerate(found))


def repeated(part: Sequence[Storage], around: Sequence[Storage], count: int, before: int) -> tuple[Storage, ...]:
    """Of a function that calls another `count` times, each time after `before` steps of its own, whose storages are
    `part`: what that returns is needed to the end, as is what its caller returns."""
    inner = max((storage.last for storage in part), default=0)
    each, end = before + inner, count * (before + inner)
    found: list[Storage] = []
    for k in range(count):
        for storage in part:
            first, last = k * each + before + storage.first, k * each + before + storage.last
            found.append(Storage(storage.bytes, first, end if storage.last == inner else last))
    for storage in around:
        turn, step = divmod(storage.first, before + 1)
        first = turn * each + step
        found.append(Storage(storage.bytes, first, (turn + 1) * each - 1 if turn < count else end))
    return tuple(found)


def _callee(value: Any) -> str:
    return str(getattr(value.op, "name_hint", getattr(value.op, "name", ""))) if isinstance(value, tvm.ir.Call) else ""


def _memory_of(value: Any, root: Mapping[Any, int]) -> Any:
    """The variable whose memory the value has: a view's, a tensor's, that of another name."""
    if _callee(value) in ("relax.memory.alloc_tensor", "relax.reshape"):
        value = value.args[0]
    return value if isinstance(value, relax.Var) and value in root else None


def _text(size: Any) -> str:
    """A size as `mercer.runtime.artifact.evaluate_dim` reads it."""
    match size:
        case tirx.IntImm():
            return str(int(size))
        case tirx.Var():
            return str(size.name)
        case tirx.Cast():
            return _text(size.value)
        case tirx.Add() | tirx.Sub() | tirx.Mul() | tirx.FloorDiv() | tirx.FloorMod() | tirx.Div() | tirx.Mod():
            sign = _SIGNS[type(size).__name__]
            return f"({_text(size.a)} {sign} {_text(size.b)})"
        case tirx.Min() | tirx.Max():
            return f"{type(size).__name__.lower()}({_text(size.a)}, {_text(size.b)})"
        case _:
            raise AssertionError(f"a size {size}")


_SIGNS = {"Add": "+", "Sub": "-", "Mul": "*", "FloorDiv": "//", "Div": "//", "FloorMod": "%", "Mod": "%"}


def workspace(operands: tuple[Operand, ...]) -> int:
    """Bytes of one thread for one step."""
    sizes = (math.prod(e.value for e in o.type.shape) * o.type.dtype.numpy.itemsize for o in operands)
    return sum(-(-size // PAGE) * PAGE for size in sizes)
