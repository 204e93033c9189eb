"""The factors of integer sums, and where they lie."""

from __future__ import annotations

from collections.abc import Callable, Collection

from mercer.ir.convolution import Convolution, recognize
from mercer.ir.index import Axis, Call, Expr, Read, Reduce, variables
from mercer.ir.integers import ZERO, IntExpr
from mercer.ir.nests import Nest, Nests, Statement
from mercer.ir.packed import packed_factors
from mercer.ir.types import DType, TensorType
from mercer.passes.integer_bounds import Integers, exchange_sums
from mercer.passes.ledger import Cost


def exchange_products(
    nests: Nests,
    state: Integers,
    attempt: Callable[[Nest, Reduce, Read, Read], Expr | str],
    record: Callable[[Statement, str | None, tuple[Cost, Cost] | None], None],
) -> Nests:
    """Every sum of products of i32 with a constant becomes what `attempt` gives for it, its data and its constant, or
    stays for the reason that it gives."""

    def of_sum(nest: Nest, e: Reduce) -> Expr | str:
        factors = factors_of(e, state)
        return factors if isinstance(factors, str) else attempt(nest, e, *factors)

    return exchange_sums(nests, state, of_sum, record)


def factors_of(e: Reduce, state: Integers) -> tuple[Read, Read] | str:
    """(data, constant) of a sum of products, or the reason why it is none."""
    if packed := packed_factors(e.body):
        return f"its products are those of {packed[0].dtype}"
    match e.body:
        case Call("mul", (left, right)) if (a := plain_read(left)) is not None and (b := plain_read(right)) is not None:
            constants = [read.pad is None and state.array(read.tensor) is not None for read in (a, b)]
            if any(constants) and not all(constants):
                return (b, a) if constants[0] else (a, b)
        case _:
            pass
    return "it is no sum of products with a constant"


def convolution_of(nest: Nest, e: Reduce, weights: Collection[str], state: Integers) -> Convolution | None:
    """The convolution of i32 with one of the `weights` that a sum is, whatever its nest does with it."""
    alone = Nest(nest.target, nest.type, nest.axes, e, nest.origins)
    found = recognize(alone, state.types, weights, DType.I32)
    return None if isinstance(found, str) else found


def plain_read(e: Expr) -> Read | None:
    """What a factor reads, by way of i32 or not."""
    match e:
        case Read() | Call("cast", (Read(),)) if e.dtype is DType.I32:
            read = e if isinstance(e, Read) else e.arguments[0]
            return read if isinstance(read, Read) and read.dtype.is_integer else None
        case _:
            return None


def lies_in_groups(count: int, nest: Nest, e: Reduce, factors: tuple[Read, Read], type: TensorType, lanes: int) -> bool:
    """Whether `count` neighbours in the data's memory are multiplied by the weights of at least so many outputs."""
    data, weight = factors
    if data.pad is not None:
        return False
    place = ZERO
    for index, size in zip(data.indices, type.shape, strict=True):
        place = place * size + index
    steps = [axis for axis in e.axes if _is_step(place, axis) and axis.name in variables(weight)]
    if not any((count == 2 and len(e.axes) == 1) or axis.extent.value % count == 0 for axis in steps):
        return False
    outputs = [axis for axis in nest.axes if axis.name in variables(weight) - variables(data)]
    return any(axis.extent.is_constant and axis.extent.value >= lanes for axis in outputs)


def lies_in_rows(found: Convolution, most: int) -> bool:
    """Whether neighbours in the rows of windows of one channel are the groups, in windows of at most so many terms."""
    row = found.windows[-1]
    fits = len(found.windows) == 2 and 1 < row.size <= found.taps <= most
    return fits and found.channels == 1 < found.groups and row.stride <= 2 and row.dilation == 1


def _is_step(place: IntExpr, axis: Axis) -> bool:
    """Whether the place in memory grows by one with the index."""
    rest = place - IntExpr.var(axis.name)
    return axis.name not in variables(Read("", (rest,), DType.I32))
