"""Reads of tensors: views where the indices are affine, `index_select` and `gather` elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mercer.backends.torch.bounds import bounds, nonnegative
from mercer.backends.torch.code import Code, Level
from mercer.backends.torch.functions import literal
from mercer.backends.torch.terms import Algebra, Label, Term, union
from mercer.ir.index import Const, Read
from mercer.ir.integers import ONE, ZERO, Computed, IntExpr, Var
from mercer.ir.types import DType, TensorType


@dataclass(frozen=True)
class Window:
    """An affine index: `start + sum of step * label`, every step positive after the `flipped` labels are reversed."""

    start: IntExpr
    steps: tuple[tuple[Label, int], ...]
    flipped: frozenset[Label]

    @property
    def last(self) -> IntExpr:
        return self.start + sum((step * (label.extent - 1) for label, step in self.steps), start=ZERO)


@dataclass
class _View:
    """A tensor being read: each axis runs over a label, or is an axis of the tensor (by number) still to be indexed."""

    code: Code
    axes: list[Label | int]

    def position(self, axis: Label | int) -> int:
        return self.axes.index(axis)


@dataclass
class _Reading:
    """One read: how each axis is indexed, and how much padding it needs."""

    type: TensorType
    pad: Const | None
    windows: dict[int, Window]
    batch: dict[int, Label]
    terms: dict[int, Term]
    margins: list[tuple[IntExpr, IntExpr]]

    def size(self, axis: int) -> IntExpr:
        """The extent of an axis after padding."""
        before, after = self.margins[axis]
        return self.type.shape[axis] + before + after


class Reader:
    """Writes reads into a block."""

    def __init__(self, algebra: Algebra) -> None:
        self.algebra = algebra
        self.block = algebra.block

    def read(
        self,
        tensor: Code,
        type: TensorType,
        expr: Read,
        free: Sequence[frozenset[str]],
        scope: Mapping[str, Label],
        integer: Callable[[IntExpr], Term],
    ) -> Term:
        """The elements that `expr` reads of `tensor`.

        `free` are the loop indices that each of its indices uses, `integer` lowers an index to an i64 term.
        """
        reading = self._plan(type, expr, free, scope, integer)
        view = _View(tensor, [])
        if any(before.terms or after.terms for before, after in reading.margins):
            view.code = self.padded(tensor, reading.margins, expr.pad)
        self._slice(view, reading)
        self._unfold(view, reading)
        self._flip(view, reading)
        for axis, term in list(reading.terms.items()):
            others = [t for other, t in reading.terms.items() if other != axis]
            alone = {*union(others), *reading.batch.values()}.isdisjoint(term.labels)
            if term.labels and alone:
                self._select(view, axis, reading.terms.pop(axis))
        if reading.terms:
            self._gather(view, reading)
        labels = [axis for axis in view.axes if isinstance(axis, Label)]
        return Term(self._ordered(view.code, labels), tuple(sorted(labels)), type.dtype)

    # --- planning -----------------------------------------------------------------------------------------------------

    def _plan(
        self,
        type: TensorType,
        expr: Read,
        free: Sequence[frozenset[str]],
        scope: Mapping[str, Label],
        integer: Callable[[IntExpr], Term],
    ) -> _Reading:
        reading = _Reading(type, expr.pad, {}, {}, {}, [(ZERO, ZERO)] * type.rank)
        shared: dict[int, IntExpr] = {}
        for axis, index in enumerate(expr.indices):
            alone = all(free[axis].isdisjoint(used) for other, used in enumerate(free) if other != axis)
            window = window_of(index, scope) if alone else None
            if window is None:
                shared[axis] = index
                continue
            reading.windows[axis] = window
            if expr.pad is not None:
                before, after = -window.start, window.last + 1 - type.shape[axis]
                if not (nonnegative(-before) and nonnegative(-after)):
                    reading.margins[axis] = (before, after)
        for axis, index in shared.items():
            variable = index.single
            label = scope[variable.name] if isinstance(variable, Var) else None
            computed = len(shared) - len(reading.batch) > 1
            if (
                label
                and computed
                and label not in reading.batch.values()
                and self._fits(label, type.shape[axis], expr.pad)
            ):
                reading.batch[axis] = label
            else:
                reading.terms[axis] = self._index(index, axis, reading, scope, integer)
        return reading

    def _fits(self, label: Label, size: IntExpr, pad: Const | None) -> bool:
        return pad is None or nonnegative(size - label.extent)

    def _index(
        self,
        index: IntExpr,
        axis: int,
        reading: _Reading,
        scope: Mapping[str, Label],
        integer: Callable[[IntExpr], Term],
    ) -> Term:
        """The index as a tensor, moved into the padded axis; one element of padding stands for all places outside."""
        size = reading.type.shape[axis]
        if reading.pad is None:
            return self.algebra.tensor(integer(index))
        known = bounds(index, scope)
        below = known.low is None or known.low < 0
        above = known.high is None or not nonnegative(size - known.high - 1)
        if isinstance(variable := index.single, Var):
            above = not nonnegative(size - scope[variable.name].extent)
        reading.margins[axis] = (ONE if below else ZERO, ONE if above else ZERO)
        term = self.algebra.tensor(integer(index + ONE if below else index))
        low = self.block.leaf("0") if below and known.low != -1 else None
        last = reading.size(axis) - 1
        high = self.algebra.count(last).code if above and not self._reaches(known.high, below, last) else None
        match low, high:
            case None, None:
                return term
            case None, _:
                code = self.block.postfix("{}.clamp(max={})", term.code, high, hint="index")
            case _, None:
                code = self.block.postfix("{}.clamp(min={})", term.code, low, hint="index")
            case _:
                code = self.block.postfix("{}.clamp({}, {})", term.code, low, high, hint="index")
        return Term(code, term.labels, DType.I64)

    def _reaches(self, high: int | None, below: bool, last: IntExpr) -> bool:
        """Whether the largest index is the padding itself."""
        return high is not None and nonnegative(last - (high + below))

    # --- affine indices -----------------------------------------------------------------------------------------------

    def padded(self, code: Code, margins: Sequence[tuple[IntExpr, IntExpr]], pad: Const | None) -> Code:
        """Pad, or crop where a margin is negative; padding comes first where it may take both to fit."""
        wider = [tuple(m if nonnegative(m) else ZERO for m in margin) for margin in margins]
        if any(low.terms and nonnegative(low) != nonnegative(high) and high.terms for low, high in margins):
            code = self.padded(code, [(low, high) for low, high in wider], pad)
            cropped = [(low - more[0], high - more[1]) for (low, high), more in zip(margins, wider, strict=True)]
            return self.padded(code, cropped, None)
        first = next(i for i, margin in enumerate(margins) if any(m.terms for m in margin))
        amounts = ", ".join(self._text(m) for margin in reversed(margins[first:]) for m in margin)
        number = 0 if pad is None else pad.number
        if isinstance(number, complex):  # F.pad takes a real value
            if number.imag:
                values = {"real": literal(number.real), "imag": literal(number.imag)}
                parts = [f"F.pad({{}}.{part}, ({amounts}), value={value})" for part, value in values.items()]
                return self.block.code(
                    f"torch.complex({', '.join(parts)})", code, code, needs=(Level.ATOM, Level.ATOM), hint="padded"
                )
            number = number.real
        value = f", value={literal(number)}" if number else ""
        return self.block.code(f"F.pad({{}}, ({amounts}){value})", code, hint="padded")

    def _slice(self, view: _View, reading: _Reading) -> None:
        """Cut what the windows see out of their axes; an index without labels takes its axis away."""
        items: list[str] = []
        for axis, size in enumerate(reading.type.shape):
            window = reading.windows.get(axis)
            if window is None:
                items.append(":")
                view.axes.append(reading.batch.get(axis, axis))
                if axis in reading.batch and reading.batch[axis].extent != size:
                    items[-1] = f":{self._text(reading.batch[axis].extent)}"
                continue
            start, stop = window.start, window.last + 1
            if any(m.terms for m in reading.margins[axis]):
                start, stop, size = ZERO, stop - start, stop - start
            if not window.steps:
                items.append(self._text(start))
                continue
            view.axes.append(window.steps[0][0])
            step = window.steps[0][1] if len(window.steps) == 1 else 1
            low, high = self._text(start) if start.terms else "", self._text(stop) if stop != size else ""
            items.append(f"{low}:{high}" + (f":{step}" if step > 1 else ""))
        while items and items[-1] == ":":
            items.pop()
        if items:
            view.code = self.block.postfix(f"{{}}[{', '.join(items)}]", view.code)

    def _unfold(self, view: _View, reading: _Reading) -> None:
        """Split the axis of a window over two labels: the second becomes the last axis."""
        dilations: list[int] = []
        for window in reading.windows.values():
            if len(window.steps) < 2:
                continue
            (outer, step), (inner, dilation) = window.steps
            length = self._text(dilation * (inner.extent - 1) + 1)
            view.code = self.block.postfix(
                f"{{}}.unfold({view.position(outer)}, {length}, {step})", view.code, hint="windows"
            )
            view.axes.append(inner)
            dilations.append(dilation)
        if any(d > 1 for d in dilations):
            items = ", ".join(["...", *(f"::{d}" if d > 1 else ":" for d in dilations)])
            view.code = self.block.postfix(f"{{}}[{items}]", view.code)

    def _flip(self, view: _View, reading: _Reading) -> None:
        flipped = {label for window in reading.windows.values() for label in window.flipped}
        axes = [i for i, axis in enumerate(view.axes) if axis in flipped]
        if axes:
            view.code = self.block.postfix(f"{{}}.flip({', '.join(map(str, axes))})", view.code)

    # --- other indices ------------------------------------------------------------------------------------------------

    def _select(self, view: _View, axis: int, index: Term) -> None:
        """Index one axis by labels that nothing else uses."""
        position = view.position(axis)
        if len(index.labels) == 1:
            code = self.block.postfix(f"{{}}.index_select({position}, {{}})", view.code, index.code, hint="selected")
        else:
            code = self.block.postfix(f"{{}}[{':, ' * position}{{}}]", view.code, index.code, hint="selected")
        view.code = code
        view.axes[position : position + 1] = index.labels

    def _gather(self, view: _View, reading: _Reading) -> None:
        """Index the remaining axes together, as one flat axis; batch axes go along with their labels."""
        axes = list(reading.terms)
        index = functools.reduce(functools.partial(self._flat, reading), axes[1:], reading.terms[axes[0]])
        batch = sorted(reading.batch.values())
        kept = [axis for axis in view.axes if axis not in batch and axis not in axes]
        fresh = [label for label in index.labels if label not in batch]
        present = [label for label in batch if label in index.labels]
        source = self._permuted(view.code, view.axes, [*batch, *kept, *axes])
        if len(axes) > 1:
            source = self.block.postfix(f"{{}}.flatten({len(batch) + len(kept)})", source, hint="flat")
        places = self._permuted(index.code, index.labels, [*present, *fresh])
        shape = [self._text(label.extent) if label in present else "1" for label in batch]
        count = functools.reduce(IntExpr.__mul__, (label.extent for label in fresh), ONE)
        if kept or present != batch or len(fresh) != 1:
            shape += ["1"] * len(kept) + [self._text(count)]
            places = self.block.postfix(f"{{}}.reshape({', '.join(shape)})", places, hint="places")
        sizes = ["-1" if label in present else self._text(label.extent) for label in batch]
        sizes += [self._text(axis.extent if isinstance(axis, Label) else reading.size(axis)) for axis in kept]
        if any(size != "-1" for size in sizes):
            places = self.block.postfix(f"{{}}.expand({', '.join(sizes)}, -1)", places, hint="places")
        code = self.block.postfix(f"{{}}.gather({len(sizes)}, {{}})", source, places, hint="gathered")
        if len(fresh) != 1:
            shape = [self._text(axis.extent) for axis in (*batch, *kept, *fresh) if isinstance(axis, Label)]
            code = self.block.postfix(f"{{}}.reshape({', '.join(shape) or '()'})", code, hint="gathered")
        view.code, view.axes = code, [*batch, *kept, *fresh]

    def _flat(self, reading: _Reading, index: Term, axis: int) -> Term:
        """Row-major: `index * size + next index`."""
        scaled = self.algebra.apply("mul", [index, self.algebra.count(reading.size(axis))], DType.I64)
        return self.algebra.apply("add", [scaled, reading.terms[axis]], DType.I64)

    def _permuted(self, code: Code, axes: Sequence[Label | int], wanted: Sequence[Label | int]) -> Code:
        order = [list(axes).index(axis) for axis in wanted]
        if order == sorted(order):
            return code
        return self.block.postfix(f"{{}}.permute({', '.join(map(str, order))})", code)

    def _ordered(self, code: Code, labels: Sequence[Label]) -> Code:
        return self._permuted(code, labels, sorted(labels))

    def _text(self, value: IntExpr) -> str:
        return self.block.inline(self.algebra.count(value).code)


def window_of(index: IntExpr, scope: Mapping[str, Label]) -> Window | None:
    """The index as a window over at most two labels, or None."""
    names = {atom.name for atom in index.atoms() if isinstance(atom, Var)}
    if len(names) > 2 or any(isinstance(atom, Computed) for atom in index.atoms()):
        return None
    start, steps, flipped = index, list[tuple[Label, int]](), set[Label]()
    for name in sorted(names, key=scope.__getitem__):
        label, factor = scope[name], index.coefficient(Var(name))
        if factor is None or not factor.is_constant or not factor.terms:
            return None
        start = start - factor.value * IntExpr.var(name)
        if factor.value < 0:
            start = start + factor.value * (label.extent - 1)
            flipped.add(label)
        steps.append((label, abs(factor.value)))
    if any(isinstance(atom, Var) for atom in start.atoms()):
        return None
    return Window(start, tuple(steps), frozenset(flipped))
