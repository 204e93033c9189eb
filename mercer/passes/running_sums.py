"""Running sums as a scan carries them, and the products that a net makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
    children,
    parts,
    substitute,
    transform,
    variables,
)
from mercer.ir.integers import IntExpr, Var
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests, Primitive, Scan
from mercer.ir.types import DType, TensorType
from mercer.passes.rewrite import Refusal

STATE = "chunk_scan.state"
"""What the carried tensors are called within a scan, before their number."""


# --- what a running sum is --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """A running sum: state[t] = state[t - 1] + term[t], the term over `axes`; the step is a dim."""

    name: str
    type: TensorType
    axes: tuple[Axis, ...]
    term: Expr
    initial: str
    final: Value


@dataclass(frozen=True)
class Recurrence:
    """result[..., t, ...] = `body` over `axes`, which are those of the result without `along`, for steps t.

    It reads the states after the step by their names; the step is a dim.
    """

    step: str
    steps: IntExpr
    states: tuple[State, ...]
    result: str
    type: TensorType
    axes: tuple[Axis, ...]
    along: int
    body: Expr
    inputs: tuple[Value, ...]


def recurrence(statement: Primitive, scan: Scan, nests: Nests) -> Recurrence | None:
    """A scan that carries running sums, with the tensor that is made of them at every step."""
    body, carried = scan.body, scan.carried
    if not carried or scan.until or len(scan.axes) != 1:
        return None
    found = _flat(body)
    if len(set(body.outputs)) < len(body.outputs) or any(name not in found for name in body.outputs):
        return None
    outer = dict(zip((v.name for v in body.inputs[carried:]), statement.operands[carried:], strict=True))
    old = {value.name for value in body.inputs[:carried]}
    states: list[State] = []
    for number, value in enumerate(body.inputs[:carried]):
        update = found[body.outputs[number]]
        term = _grown(update, value)
        if term is None or any(_mentions(term, name) for name in {*old, *body.outputs}):
            return None
        states.append(
            State(
                name=f"{STATE}{number}",
                type=value.type,
                axes=update.axes,
                term=_renamed(term, outer),
                initial=statement.operands[number],
                final=statement.targets[number],
            )
        )
    emitted = found[body.outputs[-1]]
    if any(_mentions(emitted.body, name) for name in old):
        return None
    types = nests.types()
    after = {name: state.name for name, state in zip(body.outputs, states, strict=False)}
    whole = Recurrence(
        step=scan.step,
        steps=scan.extent,
        states=tuple(states),
        result=statement.targets[-1].name,
        type=statement.targets[-1].type,
        axes=emitted.axes,
        along=scan.axes[0],
        body=_renamed(emitted.body, {**outer, **after}),
        inputs=tuple(Value(name, types[name]) for name in statement.operands[carried:]),
    )
    own = tuple(IntExpr.var(axis.name) for axis in emitted.axes)
    if whole.body == Read(states[0].name, own, states[0].type.dtype):
        return _with_reader(whole, nests) if carried == 1 else None
    return whole


def _flat(body: Nests) -> dict[str, Nest]:
    """The nests by what they assign, with all others but the states written into them."""
    states = body.outputs[: len(body.outputs) - 1]
    found: dict[str, Nest] = {}
    for statement in body.statements:
        if not isinstance(statement, Nest):
            return {}

        def inlined(e: Expr) -> Expr:
            maker = found.get(e.tensor) if isinstance(e, Read) and e.tensor not in states else None
            if maker is None or not isinstance(e, Read) or e.pad is not None or maker.body.dtype is not e.dtype:
                return e
            places = dict(zip((axis.name for axis in maker.axes), e.indices, strict=True))
            bound = {axis.name for part in parts(maker.body) if isinstance(part, Reduce) for axis in part.axes}
            captured = any(bound & variables(Index(place)) for place in places.values())
            return e if captured else substitute(maker.body, places)

        new = transform(statement.body, inlined)
        nested = any(isinstance(e, Reduce) and any(isinstance(p, Reduce) for p in parts(e.body)) for e in parts(new))
        found[statement.target] = statement if nested else replace(statement, body=new)
    names = {nest.target for nest in found.values()} - set(states)
    made = [found.get(name) for name in body.outputs]  # None: it is an input, carried on as it is
    whole = all(nest is not None and not any(_mentions(nest.body, other) for other in names) for nest in made)
    return found if whole else {}


def _grown(update: Nest, value: Value) -> Expr | None:
    """What is added to a carried tensor."""
    here = tuple(IntExpr.var(axis.name) for axis in update.axes)
    old = Read(value.name, here, value.type.dtype)
    if not isinstance(update.body, Call) or update.body.function != "add" or old not in update.body.arguments:
        return None
    left, right = update.body.arguments
    return right if left == old else left


def _with_reader(sum: Recurrence, nests: Nests) -> Recurrence | None:
    """A cumsum together with the nest that multiplies it: what is summed and what is made of it, step by step."""
    (state,) = sum.states
    readers = [s for s in nests.statements if state.final.name in read_names(s)]
    if readers or {sum.result, state.final.name} & set(nests.outputs):
        return None
    readers = [s for s in nests.statements if sum.result in read_names(s)]
    reader = readers[0] if len(readers) == 1 else None
    if not isinstance(reader, Nest):
        return None
    reads = {e for e in parts(reader.body) if isinstance(e, Read) and e.tensor == sum.result}
    place = next(iter(reads)).indices[sum.along].single if len(reads) == 1 else None
    along = [k for k, axis in enumerate(reader.axes) if isinstance(place, Var) and axis.name == place.name]
    if not along:
        return None
    here = IntExpr.dim(sum.step)

    def stepped(e: Expr) -> Expr:
        if isinstance(e, Read) and e.tensor == sum.result:
            return replace(e, tensor=state.name, indices=(*e.indices[: sum.along], *e.indices[sum.along + 1 :]))
        return e

    body = substitute(transform(reader.body, stepped), {reader.axes[along[0]].name: here})
    makers = {s.target: s for s in nests.statements if isinstance(s, Nest)}

    def inlined(e: Expr) -> Expr:
        if not isinstance(e, Read) or e.pad is not None or e.tensor not in makers:
            return e
        maker = makers[e.tensor]
        if not isinstance(maker.body, Call) or maker.body.function != "mul" or maker.body.dtype is not e.dtype:
            return e
        return substitute(maker.body, {axis.name: k for axis, k in zip(maker.axes, e.indices, strict=True)})

    term = transform(state.term, inlined)
    types = nests.types()
    names = dict.fromkeys(e.tensor for part in (term, body) for e in parts(part) if isinstance(e, Read))
    return replace(
        sum,
        states=(replace(state, term=term),),
        result=reader.target,
        type=reader.type,
        axes=tuple(axis for k, axis in enumerate(reader.axes) if k != along[0]),
        along=along[0],
        body=body,
        inputs=tuple(Value(name, types[name]) for name in names if name != state.name),
    )


def with_makers(found: Recurrence, nests: Nests) -> Recurrence:
    """Elementwise producers that nothing else reads are computed chunk by chunk too."""
    readers: dict[str, int] = {}
    for statement in nests.statements:
        for name in read_names(statement):
            readers[name] = readers.get(name, 0) + 1
    makers = {
        s.target: s
        for s in nests.statements
        if isinstance(s, Nest) and readers.get(s.target) == 1 and s.target not in nests.outputs
        if s.target in {value.name for value in found.inputs} and s.body.dtype is s.type.dtype
        if not any(isinstance(e, Reduce) or (isinstance(e, Read) and children(e)) for e in parts(s.body))
    }

    def change(e: Expr) -> Expr:
        if not isinstance(e, Read) or e.pad is not None or e.tensor not in makers:
            return e
        maker = makers[e.tensor]
        return substitute(maker.body, {axis.name: k for axis, k in zip(maker.axes, e.indices, strict=True)})

    states = tuple(replace(state, term=transform(state.term, change)) for state in found.states)
    body = transform(found.body, change)
    types, own = nests.types(), {state.name for state in states}
    every = [e.tensor for part in (body, *(state.term for state in states)) for e in parts(part) if isinstance(e, Read)]
    inputs = tuple(Value(name, types[name]) for name in dict.fromkeys(every) if name not in own)
    return replace(found, states=states, body=body, inputs=inputs)


def _mentions(body: Expr, tensor: str) -> bool:
    return any(isinstance(e, Read) and e.tensor == tensor for e in parts(body))


def _renamed(body: Expr, names: Mapping[str, str]) -> Expr:
    def change(e: Expr) -> Expr:
        return replace(e, tensor=names.get(e.tensor, e.tensor)) if isinstance(e, Read) else e

    return transform(body, change)


# --- its factors ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """The `product` in the body of a result is sum over `inner` of query * state; the term is key * value.

    Queries and keys do not depend on what only values have, values not on `inner`. All are over the axes of the result.
    """

    product: Reduce
    inner: Axis
    state: Read
    query: Expr
    key: Expr
    value: Expr | None


def parted(found: Recurrence) -> tuple[Parts, ...] | Refusal:
    """The parts for every state, in order; at least one state is an outer product."""
    whole: list[Parts] = []
    for state in found.states:
        each = _parts_of(found, state)
        if isinstance(each, Refusal):
            return each
        whole.append(each)
    if all(each.value is None for each in whole):
        return Refusal("the summand is not a product of two vectors")
    return tuple(whole)


def same_inner(found: Recurrence) -> Recurrence:
    """All sums over states of one extent have the same index, so that equal factors are equal."""
    first: dict[IntExpr, str] = {}

    def change(e: Expr) -> Expr:
        if not isinstance(e, Reduce) or len(e.axes) != 1:
            return e
        (axis,) = e.axes
        name = first.setdefault(axis.extent, axis.name)
        if name == axis.name or name in variables(e):
            return e
        body = substitute(e.body, {axis.name: IntExpr.var(name)})
        return Reduce(e.reducer, (Axis(name, axis.extent),), body)

    return replace(found, body=transform(found.body, change))


def _parts_of(found: Recurrence, summed: State) -> Parts | Refusal:
    reads = [e for e in parts(found.body) if isinstance(e, Read) and e.tensor == summed.name]
    sums = [e for e in parts(found.body) if isinstance(e, Reduce) and _mentions(e, summed.name)]
    if len(reads) != 1 or len(sums) != 1 or sums[0].reducer is not Reducer.SUM or len(sums[0].axes) != 1:
        return Refusal("the state is not summed over one axis")
    product, state, inner = sums[0], reads[0], sums[0].axes[0]
    queries = factors_of(product.body)
    if queries.count(state) != 1:
        return Refusal("the state is not a factor of the sum")
    queries.remove(state)
    places = {axis.name: index for axis, index in zip(summed.axes, state.indices, strict=True)}
    names = [index.single.name for index in state.indices if isinstance(index.single, Var)]
    if len(set(names)) < len(state.indices) or inner.name not in names:
        return Refusal("the state is not read once")
    factors = factors_of(substitute(summed.term, places))
    keys = [f for f in factors if inner.name in variables(f)]
    values = [f for f in factors if inner.name not in variables(f)]
    if not keys or any(_mentions(product.body, other.name) for other in found.states if other != summed):
        return Refusal("the summand is not a product of two vectors")
    query, key = product_of(queries), product_of(keys)
    if not values:
        free = variables(key) | variables(query)
        return Parts(product, inner, state, query, key, None) if set(names) <= free else Refusal("not of two vectors")
    if not variables(product_of(values)) - variables(key) - variables(query):
        return Refusal("the summand is not a product of two vectors")
    return Parts(product, inner, state, query, key, product_of(values))


def factors_of(body: Expr) -> list[Expr]:
    if isinstance(body, Call) and body.function == "mul":
        return [factor for argument in body.arguments for factor in factors_of(argument)]
    return [body]


def product_of(factors: Sequence[Expr]) -> Expr:
    total: Expr = factors[0] if factors else Const(1.0, DType.F32)
    for factor in factors[1:]:
        total = call("mul", total, factor)
    return total
