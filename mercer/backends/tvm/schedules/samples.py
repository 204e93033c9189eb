"""What a nest that samples a tensor at computed positions consists of: channels, pixels, taps, and a sum of terms.

A sample reads a tensor at a position that is computed from data, on an axis that the position does not depend on: the
channels. `find` brings a nest into the form

    finish(sum over taps of (sum over terms of weight * tensor[position, channel]))

or, for integers of 16 bits that a matrix multiplies, with a function of that sum of terms in its place,

where weights and positions are those of a pixel and a tap, and every tensor has its channels last and room for all
positions, so that a sample is a contiguous vector without a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mercer.backends.tvm.analysis import (
    free,
    free_in_integer,
    is_computed,
    stride,
)
from mercer.backends.tvm.schedules.common import Problem, Refusal, size
from mercer.backends.tvm.schedules.normalize import all_axes, is_flat
from mercer.backends.tvm.schedules.sample_terms import FAMILY, Term, blend_of, matrix_of, root_of, terms_of
from mercer.ir.evaluate import evaluate_statement
from mercer.ir.graph import Constant
from mercer.ir.index import Axis, Const, Expr, Index, Read, Reduce, Reducer, call, children, reads, rebuild, walk
from mercer.ir.integers import ONE, ZERO, Atom, Computed, Extremum, IntExpr, Quotient, Remainder, Var
from mercer.ir.nests import Nest
from mercer.ir.types import Data, DType, TensorType

PIXEL = "pixel"
"""The axis that stands for all pixels of a plane."""


@dataclass(frozen=True)
class Samples:
    """A nest over (outer axes, pixel, result axis), in the order of its result.

    `channel` is the result axis itself, or, where `matrix` is not None, an axis of the reduction: then the samples of
    a pixel are multiplied by it, a read of tap and channel and the result axis. `root` is the part of the body that is
    that sum. `sample`, where there is one, is what the sum of the terms at a tap, read as `BLEND`, becomes.
    """

    nest: Nest
    root: Expr
    outer: tuple[Axis, ...]
    pixel: Axis
    result: Axis
    channel: Axis
    taps: tuple[Axis, ...]
    terms: tuple[Term, ...]
    matrix: Read | None
    sample: Expr | None = None

    @property
    def channels_last(self) -> bool:
        return self.nest.axes[-1] == self.result


def find(problem: Problem) -> Samples | Refusal:
    """The samples of a nest in normal form."""
    nest = problem.nest
    gathered = [read for read in dict.fromkeys(reads(nest.body)) if any(map(is_computed, read.indices))]
    if not any(isinstance(e, Read) for read in gathered for part in children(read) for e in walk(part)):
        return Refusal(FAMILY, "no read at a position computed from data")
    real = nest.type.dtype is DType.F32 and all(read.dtype is DType.F32 for read in gathered)
    if not real and all(read.dtype is not DType.I16 for read in gathered):
        return Refusal(FAMILY, "neither of float32 nor of int16")
    around = [e for e in dict.fromkeys(walk(nest.body)) if isinstance(e, Reduce) and set(reads(e)) & set(gathered)]
    if len(around) > 1 or any(e.reducer is not Reducer.SUM for e in around):
        return Refusal(FAMILY, "more than one reduction, or not a sum")
    reduced = around[0].axes if around else ()
    if any(not axis.extent.is_constant for axis in reduced):
        return Refusal(FAMILY, "a reduction of unknown length")
    why = "every axis moves the positions"
    for axis in sorted((*nest.axes, *reduced), key=lambda axis: -size(axis.extent)):
        if not axis.extent.is_constant or axis.extent.value < 3:
            continue
        for candidate in (axis, _members(nest, axis)):
            found = None if candidate is None else _along(nest, axis, candidate)
            if isinstance(found, Samples):
                return found
            why = found.reason if found is not None else why
    return Refusal(FAMILY, why)


# --- channels in groups -----------------------------------------------------------------------------------------------


def _members(nest: Nest, channel: Axis) -> Axis | None:
    """The channels of a group, where positions are those of the group channel // extent."""
    name, extent = Var(channel.name), channel.extent.value
    found: set[int] = set()
    for value in _integers(nest.body):
        for atom in value.atoms():
            if isinstance(atom, Quotient) and atom.numerator == IntExpr.atom(name) and atom.denominator.is_constant:
                found.add(atom.denominator.value)
    share = found.pop() if len(found) == 1 else 0
    if not 3 <= share < extent or extent % share:
        return None
    return Axis(f"{channel.name}.in", IntExpr.constant(share))


def _grouped(nest: Nest, channel: Axis, members: Axis) -> Nest:
    """The nest with an axis of groups and one of members in place of the channels."""
    groups = Axis(f"{channel.name}.group", channel.extent // members.extent)
    whole = IntExpr.var(groups.name) * members.extent + IntExpr.var(members.name)

    def change(atom: Atom) -> IntExpr | None:
        match atom:
            case Var(name) if name == channel.name:
                return whole
            case Quotient(top, bottom) if top == IntExpr.var(channel.name) and bottom == members.extent:
                return IntExpr.var(groups.name)
            case Remainder(top, bottom) if top == IntExpr.var(channel.name) and bottom == members.extent:
                return IntExpr.var(members.name)
            case _:
                return None

    def split(axes: Sequence[Axis]) -> tuple[Axis, ...]:
        return tuple(part for axis in axes for part in ((groups, members) if axis == channel else (axis,)))

    body = _with_integers(nest.body, lambda value: _atoms_changed(value, change))
    body = _with_reductions(body, lambda e: replace(e, axes=split(e.axes)))
    axes = split(nest.axes)
    return replace(nest, axes=axes, body=body, type=TensorType(nest.type.dtype, tuple(a.extent for a in axes)))


# --- pixels -----------------------------------------------------------------------------------------------------------


def _along(nest: Nest, axis: Axis, channel: Axis) -> Samples | Refusal:
    """The samples with the given channels, which are `axis` or the members of its groups."""
    if channel != axis:
        nest = _grouped(nest, axis, channel)
    everywhere = [read for read in dict.fromkeys(reads(nest.body)) if any(map(is_computed, read.indices))]
    gathered = [read for read in everywhere if channel.name in free(read)]
    if not gathered or not all(_is_sample(read, channel) for read in gathered):
        return Refusal(FAMILY, f"positions depend on {axis.name}")
    root = root_of(nest.body, gathered)
    if root is None:
        return Refusal(FAMILY, "samples of several sums")
    inner = root.body if isinstance(root, Reduce) else root
    sample: Expr | None = None
    if gathered[0].dtype is DType.F32:
        terms = terms_of(inner, frozenset(gathered), channel.name)
    else:
        blend = blend_of(root, gathered, channel)
        terms, sample = (None, None) if blend is None else blend
    if terms is None:
        return Refusal(FAMILY, "not linear in the samples")
    matrix: Read | None = None
    result, taps = channel, root.axes if isinstance(root, Reduce) else ()
    if channel not in nest.axes:
        taps = tuple(other for other in taps if other != channel)
        split = matrix_of(terms, nest, channel, taps)
        if isinstance(split, Refusal):
            return split
        result, matrix, terms = split
    elif sample is not None:
        return Refusal(FAMILY, "integers without a matrix")
    if sample is not None and result.name in free(sample):
        return Refusal(FAMILY, f"samples depend on {result.name}")
    place = nest.axes.index(result)
    last = place == len(nest.axes) - 1
    pixels = nest.axes[:place] if last else nest.axes[place + 1 :]
    outer = () if last else nest.axes[:place]
    if not pixels or any(not pixel.extent.is_constant for pixel in pixels[1:]):
        return Refusal(FAMILY, "pixels on several axes of unknown extent")
    names = {pixel.name for pixel in pixels}
    if any(names & free_in_integer(a.extent) for a in all_axes(nest)):
        return Refusal(FAMILY, "a reduction whose extent depends on an index")
    joined, flat = _joined(nest, pixels)
    rename = _Renamed(pixels, joined)
    return Samples(
        nest=flat,
        root=rename.expr(root),
        outer=outer,
        pixel=joined,
        result=result,
        channel=channel,
        taps=taps,
        terms=tuple(rename.term(term) for term in terms),
        matrix=matrix,
        sample=None if sample is None else rename.expr(sample),
    )


def _joined(nest: Nest, pixels: Sequence[Axis]) -> tuple[Axis, Nest]:
    extent = ONE
    for pixel in pixels:
        extent = extent * pixel.extent
    joined = Axis(PIXEL, extent)
    axes = [axis for axis in nest.axes if axis not in pixels]
    axes.insert(nest.axes.index(pixels[0]), joined)
    body = _Renamed(pixels, joined).expr(nest.body)
    type = TensorType(nest.type.dtype, tuple(axis.extent for axis in axes))
    return joined, replace(nest, axes=tuple(axes), body=body, type=type)


class _Renamed:
    """Expressions over one joined axis of pixels instead of several."""

    def __init__(self, pixels: Sequence[Axis], joined: Axis) -> None:
        self.pixels, self.joined = pixels, IntExpr.var(joined.name)
        self.done: dict[Expr, Expr] = {}
        self.steps: list[int] = []
        step = 1
        for pixel in reversed(pixels):
            self.steps.insert(0, step)
            step = step * pixel.extent.value if pixel.extent.is_constant else 0

    def expr(self, expr: Expr) -> Expr:
        return _with_integers(expr, self.integer, self.done)

    def term(self, term: Term) -> Term:
        sample = self.expr(term.sample)
        assert isinstance(sample, Read)
        return Term(tuple(map(self.expr, term.weights)), tuple(map(self.expr, term.vectors)), sample)

    def integer(self, value: IntExpr) -> IntExpr:
        names = [pixel.name for pixel in self.pixels]
        if not {atom.name for atom in value.atoms() if isinstance(atom, Var)} & set(names):
            return value
        plain = without_computed(value)
        strides = [stride(plain, name) for name in names]
        unit = strides[-1]
        if unit and all(s == unit * step for s, step in zip(strides, self.steps, strict=True)):
            places = [ZERO] * (len(names) - 1) + [self.joined]
        else:
            places = [self.joined // step for step in self.steps]
            places[1:] = [p % pixel.extent for p, pixel in zip(places[1:], self.pixels[1:], strict=True)]
        new = dict(zip(names, places, strict=True))
        return value.substitute(lambda atom: new.get(atom.name) if isinstance(atom, Var) else None)


def _is_sample(read: Read, channel: Axis) -> bool:
    """Whether one index moves with the channel, by one, and all others do not depend on it."""
    with_channel = [index for index in read.indices if channel.name in free_in_integer(index)]
    if len(with_channel) != 1 or is_computed(with_channel[0]):
        return False
    return stride(with_channel[0], channel.name) == 1


# --- copies -----------------------------------------------------------------------------------------------------------


class Copies:
    """Copies in another layout: of constants at compile time, of other tensors by nests to run before."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.types = dict(problem.types)
        self.nests: dict[str, Nest] = {}
        self.constants: dict[str, Constant] = {}

    def of(self, name: str, axes: Sequence[Axis], body: Expr, zeros: int = 0) -> str:
        """The name of the tensor `body` over axes, its last axis prolonged by zeros."""
        if name in self.types:
            return name
        used = {read.tensor for read in reads(body)}
        shape = tuple(axis.extent for axis in axes)
        shape = (*shape[:-1], shape[-1] + zeros)
        type = TensorType(body.dtype, shape)
        if all(tensor in self.problem.constants for tensor in used) and all(s.is_constant for s in shape):
            self.constants[name] = self._constant(name, axes, body, zeros)
        else:
            if zeros:
                last = axes[-1]
                inside = call("lt", Index(IntExpr.var(last.name)), Index(last.extent))
                nearest = {last.name: IntExpr.var(last.name).minimum(last.extent - 1)}
                body = call("where", inside, moved(body, nearest), Const(0.0 if body.dtype.is_float else 0, body.dtype))
                axes = (*axes[:-1], Axis(last.name, last.extent + zeros))
            self.nests[name] = Nest(name, type, tuple(axes), body, self.problem.nest.origins)
        self.types[name] = type
        return name

    def _constant(self, name: str, axes: Sequence[Axis], body: Expr, zeros: int) -> Constant:
        flat = {tensor: self.problem.constants[tensor].data.array for tensor in {read.tensor for read in reads(body)}}
        arrays = {tensor: array for tensor, array in flat.items() if array is not None}

        def unflattened(e: Expr) -> Expr:
            """Reads of the reference have one index per axis."""
            e = rebuild(e, unflattened)
            if isinstance(e, Read) and is_flat(e, self.problem.types[e.tensor]):
                arrays[f"{e.tensor}.flat"] = arrays[e.tensor].reshape(-1)
                return replace(e, tensor=f"{e.tensor}.flat")
            return e

        type = TensorType(body.dtype, tuple(axis.extent for axis in axes))
        (array,) = evaluate_statement(Nest(name, type, tuple(axes), unflattened(body), ()), arrays)
        array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, zeros)])
        return Constant(name, TensorType.of(array), Data(np.ascontiguousarray(array)))


def moved(body: Expr, places: Mapping[str, IntExpr]) -> Expr:
    def change(value: IntExpr) -> IntExpr:
        return value.substitute(lambda atom: places.get(atom.name) if isinstance(atom, Var) else None)

    return _with_integers(body, change)


# --- expressions ------------------------------------------------------------------------------------------------------


def _integers(expr: Expr) -> list[IntExpr]:
    found: dict[IntExpr, None] = {}
    for e in walk(expr):
        for value in e.indices if isinstance(e, Read) else (e.value,) if isinstance(e, Index) else ():
            found[value] = None
    return list(found)


def without_computed(value: IntExpr) -> IntExpr:
    """The value with 0 for everything computed."""
    return value.substitute(lambda atom: ZERO if isinstance(atom, Computed) else None)


def _with_integers(expr: Expr, change: Callable[[IntExpr], IntExpr], done: dict[Expr, Expr] | None = None) -> Expr:
    """The expression with changed integers, those inside of computed positions included."""
    known: dict[Expr, Expr] = {} if done is None else done

    def visit(e: Expr) -> Expr:
        if e not in known:
            new = rebuild(e, visit)
            if isinstance(new, Index):
                new = Index(change(new.value))
            elif isinstance(new, Read):
                new = replace(new, indices=tuple(map(change, new.indices)))
            known[e] = new
        return known[e]

    return visit(expr)


def _with_reductions(expr: Expr, change: Callable[[Reduce], Reduce]) -> Expr:
    new = rebuild(expr, lambda e: _with_reductions(e, change))
    return change(new) if isinstance(new, Reduce) else new


def _atoms_changed(value: IntExpr, change: Callable[[Atom], IntExpr | None]) -> IntExpr:
    """Like `IntExpr.substitute`, for compound atoms too."""
    total = ZERO
    for monomial, coefficient in value.terms:
        product = IntExpr.constant(coefficient)
        for atom in monomial:
            new = change(atom)
            if new is None:
                match atom:
                    case Quotient(a, b):
                        new = _atoms_changed(a, change) // _atoms_changed(b, change)
                    case Remainder(a, b):
                        new = _atoms_changed(a, change) % _atoms_changed(b, change)
                    case Extremum(kind, a, b):
                        left, right = _atoms_changed(a, change), _atoms_changed(b, change)
                        new = left.minimum(right) if kind == "min" else left.maximum(right)
                    case _:
                        new = IntExpr.atom(atom)
            product = product * new
        total = total + product
    return total
