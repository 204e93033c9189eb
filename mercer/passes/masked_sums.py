"""Sums over the steps so far that are written with a mask, as in (q k^T below the diagonal) v."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mercer.ir.graph import Value
from mercer.ir.index import (
    Axis,
    Call,
    Const,
    Expr,
    Index,
    Read,
    Reduce,
    Reducer,
    call,
    parts,
    substitute,
    transform,
    variables,
)
from mercer.ir.integers import IntExpr
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests
from mercer.ir.types import DType, TensorType
from mercer.passes.running_sums import STATE, Recurrence, State, factors_of, product_of


@dataclass(frozen=True)
class Masked:
    """The recurrence of a nest, the nests of its initial states, and the nests that only it needed."""

    recurrence: Recurrence
    initial: tuple[Nest, ...]
    makers: tuple[Nest, ...]


def masked(reader: Nest, nests: Nests) -> Masked | None:
    """y[l] = sum[s] where(s <= l, sum[d] q[l, d] k[s, d], 0) v[s] as q[l] times the running sum of k[s] v[s].

    All sums of the nest over as many steps as it has itself along one axis have to be of this kind. Their weights may
    be made by nests that nothing else reads.
    """
    makers: dict[str, Nest] = {}
    body = _with_weights(reader, nests, makers)
    for along, axis in enumerate(reader.axes):
        rows = tuple(other for other in reader.axes if other != axis)
        sums = [e for e in parts(body) if isinstance(e, Reduce) and _over_steps(e, axis)]
        found = [_weighted(e, axis) for e in sums]
        known = [each for each in found if each is not None]
        if known and len(known) == len(sums):
            used = tuple(nest for name, nest in makers.items() if not _is_read(body, name))
            return _recurrence(reader, body, rows, along, known, nests, used)
    return None


def _with_weights(reader: Nest, nests: Nests, makers: dict[str, Nest]) -> Expr:
    """The body with what makes its weights written into it; those nests are added to `makers`."""
    known = {s.target: s for s in nests.statements if isinstance(s, Nest) and s.target not in nests.outputs}
    own = {axis.name for axis in reader.axes}
    taken, bodies = {*own, *_bound(reader.body)}, dict[str, Expr]()

    def change(e: Expr) -> Expr:
        if not isinstance(e, Read) or e.pad is not None or e.tensor not in known:
            return e
        maker, names = known[e.tensor], variables(e)
        masks = isinstance(maker.body, Call) and maker.body.function == "where"
        if not (masks or _bound(maker.body)) or names <= own or not names & own or maker.body.dtype is not e.dtype:
            return e
        if sum(e.tensor in read_names(statement) for statement in nests.statements) > 1:
            return e
        makers[e.tensor] = maker
        if e.tensor not in bodies:
            bodies[e.tensor] = _apart(maker.body, taken)
        places = dict(zip((axis.name for axis in maker.axes), e.indices, strict=True))
        return transform(substitute(bodies[e.tensor], places), change)

    return transform(reader.body, change)


def _bound(body: Expr) -> list[str]:
    return [axis.name for e in parts(body) if isinstance(e, Reduce) for axis in e.axes]


def _apart(body: Expr, taken: set[str]) -> Expr:
    """The body with indices of its sums that are not taken, which are taken then."""
    new: dict[str, str] = {}
    for name in dict.fromkeys(_bound(body)):
        new[name] = next(each for k in range(len(taken) + 1) if (each := f"{name}{k or ''}") not in taken)
        taken.add(new[name])

    def change(e: Expr) -> Expr:
        if not isinstance(e, Reduce):
            return e
        inside = {axis.name: IntExpr.var(new[axis.name]) for axis in e.axes}
        return Reduce(
            e.reducer, tuple(Axis(new[axis.name], axis.extent) for axis in e.axes), substitute(e.body, inside)
        )

    return transform(body, change)


def _is_read(body: Expr, tensor: str) -> bool:
    return any(isinstance(e, Read) and e.tensor == tensor for e in parts(body))


# --- sums with a mask -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Weighted:
    """`sum` over `step` <= `axis` of (sum over `inner` of query * key) * values: queries are read at `axis`, others at
    `step`."""

    sum: Reduce
    axis: Axis
    step: str
    inner: Axis
    query: tuple[Expr, ...]
    others: tuple[Expr, ...]


def _over_steps(e: Reduce, axis: Axis) -> bool:
    """Whether it is a sum over as many steps as the axis has, which depends on the axis."""
    return any(each.extent == axis.extent for each in e.axes) and axis.name in variables(e)


def _weighted(e: Reduce, axis: Axis) -> _Weighted | None:
    if e.reducer is not Reducer.SUM or len(e.axes) != 1 or e.dtype is not DType.F32:
        return None
    step = e.axes[0].name
    every = factors_of(e.body)
    masks = [(k, term) for k, factor in enumerate(every) if (term := _seen(factor, step, axis.name)) is not None]
    if len(masks) != 1:
        return None
    ((place, term),) = masks
    every = [*every[:place], *factors_of(term), *every[place + 1 :]]
    inner = [factor for factor in every if isinstance(factor, Reduce)]
    if len(inner) != 1 or inner[0].reducer is not Reducer.SUM or len(inner[0].axes) != 1:
        return None
    every = [*(factor for factor in every if factor != inner[0]), *factors_of(inner[0].body)]
    query = tuple(factor for factor in every if axis.name in variables(factor))
    others = tuple(factor for factor in every if axis.name not in variables(factor))
    if any(step in variables(factor) or any(isinstance(p, Reduce) for p in parts(factor)) for factor in query):
        return None
    if any(isinstance(part, Reduce) for factor in others for part in parts(factor)):
        return None
    return _Weighted(e, axis, step, inner[0].axes[0], query, others)


def _seen(factor: Expr, step: str, at: str) -> Expr | None:
    """The term of where(step <= at, term, 0)."""
    if not isinstance(factor, Call) or factor.function != "where":
        return None
    condition, then, otherwise = factor.arguments
    if not isinstance(condition, Call) or len(condition.arguments) != 2:
        return None
    left, right = condition.arguments
    if not isinstance(left, Index) or not isinstance(right, Index):
        return None
    difference = left.value - right.value
    below = {"le": difference, "lt": difference + 1, "ge": -difference, "gt": 1 - difference}.get(condition.function)
    if below is None:
        return None
    if _is_zero(then):
        below, then, otherwise = 1 - below, otherwise, then
    return then if _is_zero(otherwise) and below == IntExpr.var(step) - IntExpr.var(at) else None


def _is_zero(e: Expr) -> bool:
    return isinstance(e, Const) and e.number == 0


# --- as a recurrence --------------------------------------------------------------------------------------------------


def _recurrence(
    reader: Nest,
    body: Expr,
    axes: tuple[Axis, ...],
    along: int,
    sums: Sequence[_Weighted],
    nests: Nests,
    makers: tuple[Nest, ...],
) -> Masked:
    types = nests.types()
    taken = frozenset[str]().union(*(size.dims() for type in types.values() for size in type.shape))
    step = next(name for k in range(len(taken) + 1) if (name := f"t{k or ''}") not in taken)
    states: list[State] = []
    changed: dict[Expr, Expr] = {}
    initial: list[Nest] = []
    for number, each in enumerate(sums):
        term = substitute(product_of(each.others), {each.step: IntExpr.dim(step)})
        mine = _state_axes(each, axes, term)
        type = TensorType(DType.F32, tuple(axis.extent for axis in mine))
        start = Nest(f"{reader.target}.state{number}", type, mine, Const(0.0, DType.F32), reader.origins)
        final = Value(f"{reader.target}.state{number}.last", type)
        states.append(State(f"{STATE}{number}", type, mine, term, start.target, final))
        initial.append(start)
        state = Read(f"{STATE}{number}", tuple(IntExpr.var(axis.name) for axis in mine), DType.F32)
        changed[each.sum] = Reduce(Reducer.SUM, (each.inner,), call("mul", product_of(each.query), state))
    body = transform(body, lambda e: changed.get(e, e))
    body = substitute(body, {reader.axes[along].name: IntExpr.dim(step)})
    names = _names((body, *(state.term for state in states)))
    found = Recurrence(
        step=step,
        steps=reader.axes[along].extent,
        states=tuple(states),
        result=reader.target,
        type=reader.type,
        axes=axes,
        along=along,
        body=body,
        inputs=tuple(Value(name, types[name]) for name in names if name in types),
    )
    return Masked(found, tuple(initial), makers)


def _state_axes(each: _Weighted, axes: Sequence[Axis], term: Expr) -> tuple[Axis, ...]:
    """Those that queries have too, the inner one, those of the values."""
    names, shared = variables(term), variables(product_of(each.query))
    before = [axis for axis in axes if axis.name in names and axis.name in shared]
    after = [axis for axis in axes if axis.name in names and axis.name not in shared]
    return (*before, each.inner, *after)


def _names(bodies: Sequence[Expr]) -> Mapping[str, None]:
    return dict.fromkeys(e.tensor for body in bodies for e in parts(body) if isinstance(e, Read))
