"""Reads of tensors: views and padding where the indices are affine, gathers elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mercer.backends.torch.code import Code
from mercer.backends.torch.functions import literal
from mercer.backends.torch.terms import Algebra, Label, Term, union
from mercer.ir.index import Const, Read
from mercer.ir.integers import ONE, ZERO, Computed, Dim, Extremum, IntExpr, Quotient, Remainder, Var
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
    """A tensor being read: each axis is a label, or the number of an axis that is still to be indexed."""

    code: Code
    axes: list[Label | int] = field(default_factory=list["Label | int"])


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
        indices, pad = expr.indices, expr.pad
        alone = [all(used.isdisjoint(u) for j, u in enumerate(free) if j != i) for i, used in enumerate(free)]
        windows = {i: w for i, index in enumerate(indices) if alone[i] and (w := _window(index, scope)) is not None}
        view = self._windows(_View(tensor), type, windows, pad)
        gathered = {i: index for i, index in enumerate(indices) if i not in windows}
        valid: list[Term] = []
        if gathered:
            terms = {i: self.algebra.tensor(integer(index)) for i, index in gathered.items()}
            if pad is not None:
                terms = {i: self._clamped(term, indices[i], type.shape[i], scope, valid) for i, term in terms.items()}
            view = self._gather(view, terms)
        labels = [axis for axis in view.axes if isinstance(axis, Label)]
        order = sorted(range(len(labels)), key=lambda i: labels[i])
        if order != sorted(order):
            view.code = self.block.postfix(f"{{}}.permute({', '.join(map(str, order))})", view.code)
        term = Term(view.code, tuple(sorted(labels)), type.dtype)
        if not valid or pad is None:
            return term
        inside = valid[0]
        for other in valid[1:]:
            inside = self.algebra.apply("and", [inside, other], DType.BOOL)
        outside = self.algebra.number(pad.number, type.dtype)
        return self.algebra.apply("where", [inside, term, outside], type.dtype)

    # --- affine indices -----------------------------------------------------------------------------------------------

    def _windows(self, view: _View, type: TensorType, windows: Mapping[int, Window], pad: Const | None) -> _View:
        margins: list[tuple[IntExpr, IntExpr]] = []
        slices: list[str] = []
        for axis, size in enumerate(type.shape):
            window = windows.get(axis)
            if window is None:
                margins.append((ZERO, ZERO))
                slices.append(":")
                view.axes.append(axis)
                continue
            start, stop = window.start, window.last + 1
            if pad is not None and not (nonnegative(start) and nonnegative(size - stop)):
                margins.append((-start, stop - size))
                start, stop, size = ZERO, stop - start, stop - start
            else:
                margins.append((ZERO, ZERO))
            slices.append(self._slice(window, start, stop, size))
            if window.steps:
                view.axes.append(window.steps[0][0])
        if any(before.terms or after.terms for before, after in margins):
            view.code = self._pad(view.code, margins, pad)
        if any(s != ":" for s in slices):
            view.code = self._subscript(view.code, slices)
        return self._flip(self._unfold(view, windows), windows)

    def _slice(self, window: Window, start: IntExpr, stop: IntExpr, size: IntExpr) -> str:
        if not window.steps:
            return self._text(start)
        step = window.steps[0][1] if len(window.steps) == 1 else 1
        low = self._text(start) if start.terms else ""
        high = self._text(stop) if stop != size else ""
        return f"{low}:{high}" + (f":{step}" if step > 1 else "")

    def _pad(self, code: Code, margins: Sequence[tuple[IntExpr, IntExpr]], pad: Const | None) -> Code:
        """Pad, or crop where a margin is negative."""
        first = next(i for i, margin in enumerate(margins) if any(m.terms for m in margin))
        amounts = ", ".join(self._text(m) for margin in reversed(margins[first:]) for m in margin)
        value = f", value={literal(pad.number)}" if pad is not None and pad.number else ""
        return self.block.code(f"F.pad({{}}, ({amounts}){value})", code, hint="padded")

    def _unfold(self, view: _View, windows: Mapping[int, Window]) -> _View:
        """Split the axis of a window over two labels: the second becomes the last axis."""
        dilations: list[int] = []
        for window in windows.values():
            if len(window.steps) < 2:
                continue
            (outer, step), (inner, dilation) = window.steps
            axis = view.axes.index(outer)
            length = self._text(dilation * (inner.extent - 1) + 1)
            view.code = self.block.postfix(f"{{}}.unfold({axis}, {length}, {step})", view.code, hint="windows")
            view.axes.append(inner)
            dilations.append(dilation)
        if any(d > 1 for d in dilations):
            view.code = self._subscript(view.code, ["...", *(f"::{d}" if d > 1 else ":" for d in dilations)], keep=True)
        return view

    def _flip(self, view: _View, windows: Mapping[int, Window]) -> _View:
        flipped = {label for window in windows.values() for label in window.flipped}
        axes = [i for i, axis in enumerate(view.axes) if axis in flipped]
        if axes:
            view.code = self.block.postfix(f"{{}}.flip({', '.join(map(str, axes))})", view.code)
        return view

    def _subscript(self, code: Code, items: Sequence[str], keep: bool = False) -> Code:
        items = list(items)
        while not keep and items[-1] == ":":
            items.pop()
        return self.block.postfix(f"{{}}[{', '.join(items)}]", code)

    def _text(self, value: IntExpr) -> str:
        return self.block.inline(self.algebra.count(value).code)

    # --- other indices ------------------------------------------------------------------------------------------------

    def _gather(self, view: _View, terms: Mapping[int, Term]) -> _View:
        """Index the remaining axes."""
        labels = union(terms.values())
        holes = [":" if isinstance(axis, Label) else "{}" for axis in view.axes]
        places = [i for i, hole in enumerate(holes) if hole == "{}"]
        operands = [self.algebra.align(terms[axis], labels) for axis in view.axes if not isinstance(axis, Label)]
        kept: list[Label | int] = [axis for axis in view.axes if isinstance(axis, Label)]
        adjacent = places == list(range(places[0], places[-1] + 1))
        position = places[0] if adjacent else 0  # where PyTorch puts the axes of the indices
        while holes[-1] == ":":
            holes.pop()
        code = self.block.postfix(f"{{}}[{', '.join(holes)}]", view.code, *operands, hint="gathered")
        return _View(code, [*kept[:position], *labels, *kept[position:]])

    def _clamped(
        self, term: Term, index: IntExpr, size: IntExpr, scope: Mapping[str, Label], valid: list[Term]
    ) -> Term:
        """The index moved into the tensor; adds to `valid` the conditions that are not known to hold."""
        algebra, known = self.algebra, bounds(index, scope)
        below = known.low is None or known.low < 0
        above = known.high is None or not nonnegative(size - known.high - 1)
        if isinstance(variable := index.single, Var):
            above = not nonnegative(size - scope[variable.name].extent)
        largest = algebra.count(size - 1)
        if below:
            valid.append(algebra.apply("ge", [term, algebra.number(0, DType.I64)], DType.BOOL))
        if above:
            valid.append(algebra.apply("le", [term, largest], DType.BOOL))
        limits = (["0"] if below else ["min=None"] if above else []) + (["{}"] if above else [])
        if not limits:
            return term
        template = f"{{}}.clamp({', '.join(limits)})".replace("min=None, {}", "max={}")
        code = self.block.postfix(template, term.code, *([largest.code] if above else []), hint="clamped")
        return Term(code, term.labels, DType.I64)


def _window(index: IntExpr, scope: Mapping[str, Label]) -> Window | None:
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


@dataclass(frozen=True)
class Bounds:
    """A range of integers, both ends included; None where nothing is known."""

    low: int | None
    high: int | None


def nonnegative(value: IntExpr) -> bool:
    """Whether the expression of dims is known to be 0 or more."""
    low = bounds(value, {}).low
    return low is not None and low >= 0


def bounds(value: IntExpr, scope: Mapping[str, Label]) -> Bounds:
    """What is known of an expression when dims are 0 or more and the indices lie in their loops."""
    low: int | None = 0
    high: int | None = 0
    for monomial, coefficient in value.terms:
        factor = Bounds(coefficient, coefficient)
        for atom in monomial:
            factor = _times(_atom_bounds(atom, scope), factor)
        low = None if low is None or factor.low is None else low + factor.low
        high = None if high is None or factor.high is None else high + factor.high
    return Bounds(low, high)


def _times(a: Bounds, b: Bounds) -> Bounds:
    """The product of a range known to be 0 or more with a range of one sign."""
    if a.low is None or a.low < 0 or b.low is None and b.high is None:
        return Bounds(None, None)
    if b.low is not None and b.low >= 0:
        return Bounds(a.low * b.low, None if a.high is None or b.high is None else a.high * b.high)
    if b.high is not None and b.high <= 0:
        return Bounds(None if a.high is None or b.low is None else a.high * b.low, a.low * b.high)
    return Bounds(None, None)


def _atom_bounds(atom: object, scope: Mapping[str, Label]) -> Bounds:
    match atom:
        case Dim():
            return Bounds(0, None)
        case Var(name):
            last = bounds(scope[name].extent - ONE, {}).high if name in scope else None
            return Bounds(0, last)
        case Quotient(numerator, denominator) if denominator.is_constant and denominator.value > 0:
            inner = bounds(numerator, scope)
            low, high = (None if b is None else b // denominator.value for b in (inner.low, inner.high))
            return Bounds(low, high)
        case Quotient(numerator, _):
            inner = bounds(numerator, scope)
            return Bounds(0 if inner.low is not None and inner.low >= 0 else None, None)
        case Remainder(_, denominator) if denominator.is_constant and denominator.value > 0:
            return Bounds(0, denominator.value - 1)
        case Extremum(kind, left, right):
            a, b = bounds(left, scope), bounds(right, scope)
            lows, highs = [v for v in (a.low, b.low) if v is not None], [v for v in (a.high, b.high) if v is not None]
            if kind == "min":
                return Bounds(min(lows) if len(lows) == 2 else None, min(highs, default=None))
            return Bounds(max(lows, default=None), max(highs) if len(highs) == 2 else None)
        case _:
            return Bounds(None, None)
