"""The gradient of an operator, from its definition; and of the primitives, each by its rule."""

from __future__ import annotations

from collections.abc import Sequence

from mercer.ir.index import Axis, Const, Expr, Index, Read, call
from mercer.ir.integers import ONE, ZERO, Computed, IntExpr
from mercer.ir.library import Instance
from mercer.ir.lower import read_names
from mercer.ir.nests import Primitive
from mercer.ir.partials import number
from mercer.ir.reverse import DerivativeError, Reverse, Rule, needed
from mercer.ir.reverse_scan import scan
from mercer.ir.types import TensorType


def gradient(
    operator: str, instance: Instance, operands: Sequence[TensorType], wrt: int, of: int, cotangent: TensorType
) -> Instance:
    """The gradient of an operator with respect to operand number `wrt`.

    The instance takes the operands and the cotangent of result number `of`, which has the type of the result or is one
    number for all of its elements; its result has the type of the operand. Raises DerivativeError.
    """
    operand, result = operands[wrt], instance.results[of]
    for what, type_ in (("operand", operand), ("result", result)):
        if not type_.dtype.rounds:
            message = f"`{operator}` has no derivative here: its {what} is {type_}"
            raise DerivativeError(message, "only real and complex numbers have derivatives")
    if cotangent.dtype is not result.dtype or cotangent.shape not in ((), result.shape):
        raise DerivativeError(f"the cotangent of `{operator}` is {cotangent}; its result is {result}")
    types = dict(zip(instance.operands, operands, strict=True)) | {c.name: c.type for c in instance.constants}
    walk = Reverse(operator, types, instance.statements, RULES)
    given = walk.fresh("cotangent")
    walk.types[given] = cotangent
    walk.run([instance.operands[wrt]], [(instance.outputs[of], given)])
    found = walk.summed(instance.operands[wrt])
    statements = needed((*walk.forward, *walk.backward), [found])
    read = {name for s in statements for name in read_names(s)}
    return Instance(
        (*instance.operands, given),
        (operand,),
        tuple(c for c in instance.constants if c.name in read),
        statements,
        (found,),
    )


# --- primitives -------------------------------------------------------------------------------------------------------


def _reshape(walk: Reverse, statement: Primitive) -> None:
    (target,), (operand,) = statement.targets, statement.operands
    made = walk.reshape(walk.summed(target.name), walk.types[operand].shape)
    walk.add(operand, walk.identity(made))


def _fourier(inverse: str, axis: int) -> Rule:
    """The adjoint of the transform F of length n is n times its inverse, that of the inverse is F/n."""

    def rule(walk: Reverse, statement: Primitive) -> None:
        (target,), (operand,) = statement.targets, statement.operands
        made = walk.primitive(inverse, (walk.summed(target.name),), walk.types[operand], f"{operand}.{inverse}")
        function = "div" if statement.name.startswith("i") else "mul"
        length = _count(walk.types[operand].shape[axis], walk.types[operand])
        walk.add(operand, call(function, walk.identity(made), length))

    return rule


def _real_fourier(walk: Reverse, statement: Primitive) -> None:
    """The real part of the sum of g[k] exp(2i pi jk/n): the inverse transform of n g, where 0 < k < h counts half."""
    (target,), (operand,) = statement.targets, statement.operands
    g = walk.identity(walk.summed(target.name))
    length = _count(walk.types[operand].shape[-1], target.type)
    axes = walk.axes(target.type)
    scaled = call("where", _at_ends(axes), call("mul", g, length), call("mul", g, call("mul", length, _half(g))))
    weighed = walk.emit(f"{target.name}.grad", axes, scaled)
    made = walk.primitive("irfft_last", (weighed,), walk.types[operand], f"{operand}.irfft")
    walk.add(operand, walk.identity(made))


def _inverse_real_fourier(walk: Reverse, statement: Primitive) -> None:
    """The transform of g over n; frequencies 0 < k < h, which stand for two, count twice."""
    (target,), (operand,) = statement.targets, statement.operands
    type_ = walk.types[operand]
    made = walk.primitive("rfft_last", (walk.summed(target.name),), type_, f"{operand}.rfft")
    once = call("div", walk.identity(made), _count(target.type.shape[-1], type_))
    walk.add(operand, call("where", _at_ends(walk.axes(type_)), once, call("add", once, once)))


def _at_ends(axes: tuple[Axis, ...]) -> Expr:
    """Whether the last index is the first or the last one."""
    last = Index(IntExpr.var(axes[-1].name))
    ends = (call("eq", last, Index(end)) for end in (ZERO, axes[-1].extent - ONE))
    return call("or", *ends)


def _half(like: Expr) -> Const:
    return number(0.5, like.dtype)


def _count(length: IntExpr, type_: TensorType) -> Expr:
    return call("cast", Index(length), dtype=type_.dtype)


def _scatter_add(walk: Reverse, statement: Primitive) -> None:
    (target,), (base, index, values) = statement.targets, statement.operands
    g = walk.summed(target.name)
    walk.add(base, walk.identity(g))
    type_ = walk.types[values]
    if type_.dtype.rounds:
        *around, column = (IntExpr.var(axis.name) for axis in walk.axes(type_))
        row = IntExpr.atom(Computed(Read(index, tuple(around), walk.types[index].dtype)))
        walk.add(values, Read(g, (*around[:-1], row, column), type_.dtype, number(0, type_.dtype)))


RULES: dict[str, Rule] = {
    "reshape": _reshape,
    "fft_last": _fourier("ifft_last", -1),
    "ifft_last": _fourier("fft_last", -1),
    "fft_inner": _fourier("ifft_inner", -2),
    "ifft_inner": _fourier("fft_inner", -2),
    "rfft_last": _real_fourier,
    "irfft_last": _inverse_real_fourier,
    "scatter_add": _scatter_add,
    "scan": scan,
}
"""What each primitive passes on to its operands. Those that give integers need none."""
