"""What makes two kernels the same: formulas with names removed, the types of what they read, the sizes in them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mercer.ir.index import Axis, Expr, Read, Reduce, dims, reads, substitute, transform
from mercer.ir.integers import IntExpr
from mercer.ir.nests import Nest
from mercer.ir.printer import print_statement, type_text
from mercer.ir.types import TensorType

_FLOAT = re.compile(r"(?<![\w$.%`])(\d+\.\d*(e[+-]?\d+)?|\d+e[+-]?\d+)")
_SIZE = re.compile(r"(?<![\w$.%`])\d+(?![\w.])")


@dataclass(frozen=True)
class Kernel:
    """`structure` is a digest of the formula without its sizes; `sizes` are all of them, in the order of the text."""

    structure: str
    sizes: tuple[int, ...]

    def distance(self, other: Kernel) -> float:
        """Of the same structure: the largest ratio of two sizes; infinite where only one of the two is zero."""
        pairs = zip(self.sizes, other.sizes, strict=True)
        return max((_ratio(a, b) for a, b in pairs), default=1.0)


def _ratio(a: int, b: int) -> float:
    if a == b:
        return 1.0
    return max(a, b) / min(a, b) if min(a, b) > 0 else math.inf


def kernel_of(nests: Sequence[Nest], types: Mapping[str, TensorType], known: Collection[str]) -> Kernel:
    """The kernel that computes `nests` in one piece; `known` are the constants."""
    text = kernel_text(nests, types, known)
    sizes = tuple(int(found.group()) for found in _SIZE.finditer(text))
    structure = _SIZE.sub("#", text)
    return Kernel(hashlib.sha256(structure.encode()).hexdigest()[:16], sizes)


def kernel_text(nests: Sequence[Nest], types: Mapping[str, TensorType], known: Collection[str]) -> str:
    """The nests with canonical names and without values of constants in formulas, after the types of what they read."""
    targets = {nest.target: f"t{k}" for k, nest in enumerate(nests)}
    operands = [name for nest in nests for name in dict.fromkeys(read.tensor for read in reads(nest.body))]
    given = [name for name in dict.fromkeys(operands) if name not in targets]
    names = targets | {name: f"{'c' if name in known else 'x'}{k}" for k, name in enumerate(given)}
    lines = [f"{names[name]}: {type_text(types[name])}" for name in given]
    lines += [print_statement(_renamed(nest, names)) for nest in nests]
    text = _FLOAT.sub("F", "\n".join(lines))
    symbols = {name for nest in nests for name in dims(nest.body) | _dims(nest.type)}
    symbols |= {name for operand in given for name in _dims(types[operand])}
    for k, symbol in enumerate(sorted(symbols)):
        text = re.sub(rf"(?<![\w.%`]){re.escape(symbol)}(?![\w.`])", f"N{k}", text)
    return text


def _renamed(nest: Nest, names: Mapping[str, str]) -> Nest:
    """Tensors by `names`; axes of the result are a0, a1, …, those of reductions r0, r1, …"""
    count = 0

    def change(expr: Expr) -> Expr:
        nonlocal count
        if isinstance(expr, Read):
            return replace(expr, tensor=names[expr.tensor])
        if not isinstance(expr, Reduce):
            return expr
        places: dict[str, IntExpr] = {}
        axes: list[Axis] = []
        for axis in expr.axes:
            axes.append(Axis(f"r{count}", axis.extent))
            places[axis.name] = IntExpr.var(f"r{count}")
            count += 1
        return replace(expr, axes=tuple(axes), body=substitute(expr.body, places))

    body = transform(nest.body, change)
    body = substitute(body, {axis.name: IntExpr.var(f"a{k}") for k, axis in enumerate(nest.axes)})
    axes = tuple(Axis(f"a{k}", axis.extent) for k, axis in enumerate(nest.axes))
    return replace(nest, target=names[nest.target], axes=axes, body=body, origins=())


def _dims(type: TensorType) -> frozenset[str]:
    return frozenset(name for extent in type.shape for name in extent.dims())
