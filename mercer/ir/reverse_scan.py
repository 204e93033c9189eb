"""The derivative of a scan: a scan that runs backward.

The states before each step are computed again and kept where the derivative of a step reads them. Going back from the
last step, the cotangents of the carried tensors are carried; those of a tensor around the scan are summed up, or
stacked where every step reads a slice of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mercer.ir.bounds import extents, in_bounds
from mercer.ir.graph import Value
from mercer.ir.index import Axis, Const, Expr, Index, Read, Reduce, call, reads, transform
from mercer.ir.integers import ONE, Computed, Dim, IntExpr, Var
from mercer.ir.lower import read_names
from mercer.ir.nests import Nest, Nests, Primitive, Scan, Statement, defined
from mercer.ir.partials import number
from mercer.ir.reverse import DerivativeError, Reverse, dependents, fresh, needed
from mercer.ir.types import TensorType


@dataclass(frozen=True)
class Slice:
    """What a step reads of a tensor: only the position `index` of an axis, which depends on nothing but the step."""

    axis: int
    index: IntExpr
    pad: Const | None

    def of(self, shape: tuple[IntExpr, ...]) -> tuple[IntExpr, ...]:
        """Indices or extents without the axis."""
        return (*shape[: self.axis], *shape[self.axis + 1 :])

    def at(self, indices: tuple[IntExpr, ...], index: IntExpr) -> tuple[IntExpr, ...]:
        """The indices with one more for the axis."""
        return (*indices[: self.axis], index, *indices[self.axis :])


def scan(walk: Reverse, statement: Primitive) -> None:
    """The rule of the primitive `scan`."""
    assert statement.scan is not None
    if statement.scan.until:
        message = f"`{walk.operator}` has no derivative: its `iterate` may end after any step"
        raise DerivativeError(message, "`scan` takes the same number of steps always, and has a derivative")
    _Backward(walk, statement, statement.scan).run()


class _Backward:
    """Makes the scan that runs backward; its steps count from the last one."""

    def __init__(self, walk: Reverse, statement: Primitive, forward: Scan) -> None:
        self.walk, self.statement, self.forward = walk, statement, forward
        body, count = forward.body, forward.carried
        self.carried, self.around = body.inputs[:count], body.inputs[count:]
        self.outer = dict(zip((v.name for v in body.inputs), statement.operands, strict=True))
        self.back = forward.extent - ONE - IntExpr.dim(forward.step)
        self.statements = tuple(_at_step(s, forward.step, self.back) for s in body.statements)
        self.active = self.dependents()
        self.slices = {v.name: part for v in self.around if v.name in self.active and (part := self.slice(v))}
        types = {v.name: v.type for v in body.inputs}
        names = {*types, *(value.name for s in self.statements for value in defined(s))}
        self.now = {name: fresh(f"{name}.now", names) for name in self.slices}
        types |= {
            self.now[name]: TensorType(types[name].dtype, part.of(types[name].shape))
            for name, part in self.slices.items()
        }
        inner = tuple(self.sliced(s) for s in self.statements)
        symbols = (forward.step, *forward.extent.dims())
        self.inside = Reverse(walk.operator, types, inner, walk.rules, symbols)

    def run(self) -> None:
        walk, inside, forward = self.walk, self.inside, self.forward
        states = [v for v in self.carried if v.name in self.active]
        before = {v.name: self.input(f"{v.name}.grad", v.type) for v in states}
        outputs = dict(zip((v.name for v in self.carried), forward.body.outputs, strict=False))
        seeds = [(outputs[name], given) for name, given in before.items()]
        cotangents: dict[str, str] = {}
        emitted = forward.body.outputs[forward.carried :]
        stacks = self.statement.targets[forward.carried :]
        for output, target, axis in zip(emitted, stacks, forward.axes, strict=True):
            if target.name in walk.parts and target.type.dtype.rounds:
                name = self.input(f"{target.name}.grad", target.type)
                cotangents[name] = walk.summed(target.name)
                axes = inside.axes(inside.types[output])
                indices = tuple(IntExpr.var(a.name) for a in axes)
                part = Read(name, (*indices[:axis], self.back, *indices[axis:]), target.type.dtype)
                seeds.append((output, inside.emit(f"{output}.grad", axes, part)))
        inside.run([self.now.get(name, name) for name in self.active], seeds)
        summed = [v for v in self.around if v.name in inside.parts and v.name in self.active]
        stacked = [v for v in self.around if self.now.get(v.name) in inside.parts]
        totals = {v.name: self.input(f"{v.name}.total", v.type) for v in summed}
        results = [inside.summed(v.name) for v in states]
        for v in summed:
            new = call("add", inside.identity(totals[v.name]), inside.identity(inside.summed(v.name)))
            results.append(inside.emit(f"{v.name}.total", inside.axes(v.type), new))
        results += [inside.summed(self.now[v.name]) for v in stacked]
        kept = {v.name: self.input(f"{v.name}.before", self.history(v.type)) for v in self.carried}
        own = [*before.values(), *totals.values()]
        statements = needed((*self.slicing(), *self.restoring(kept), *inside.forward, *inside.backward), results)
        self.outer |= cotangents | self.saved({v.name for s in statements for v in defined(s)}, kept)
        known = {*own, *(v.name for s in statements for v in defined(s))}
        read = dict.fromkeys(name for s in statements for name in sorted(read_names(s)))
        around = [name for name in dict.fromkeys((*read, *results)) if name not in known]
        body = Nests(
            "scan",
            tuple(Value(name, inside.types[name]) for name in (*own, *around)),
            (),
            (),
            statements,
            tuple(results),
        )
        zeros = [walk.emit(f"{v.name}.zero", walk.axes(v.type), number(0, v.type.dtype)) for v in summed]
        first = [walk.summed(t.name) for v, t in zip(self.carried, self.statement.targets, strict=False) if v in states]
        hints = [f"{self.outer[v.name]}.grad" for v in (*states, *summed, *stacked)]
        types = [v.type for v in (*states, *summed)]
        types += [self.stack(v) for v in stacked]
        names = self.emit(
            hints,
            types,
            (*first, *zeros, *(self.outer[name] for name in around)),
            Scan(forward.step, forward.extent, body, tuple(self.slices[v.name].axis for v in stacked)),
        )
        for v, name in zip((*states, *summed), names, strict=False):
            walk.add(self.outer[v.name], walk.identity(name))
        for v, name in zip(stacked, names[len(states) + len(summed) :], strict=True):
            walk.add(self.outer[v.name], self.unstacked(v, name))

    def dependents(self) -> frozenset[str]:
        """The inputs of a step that depend on what is differentiated for, now or in a later step."""
        inputs, outputs = self.forward.body.inputs, self.forward.body.outputs
        found = {v.name for v in inputs if self.outer[v.name] in self.walk.active and v.type.dtype.rounds}
        while True:
            reached = dependents(found, self.statements)
            pairs = zip(self.carried, outputs, strict=False)
            grown = found | {v.name for v, output in pairs if output in reached and v.type.dtype.rounds}
            if grown == found:
                return frozenset(found)
            found = grown

    def input(self, hint: str, type_: TensorType) -> str:
        name = self.inside.fresh(hint)
        self.inside.types[name] = type_
        return name

    def emit(self, hints: list[str], types: list[TensorType], operands: tuple[str, ...], made: Scan) -> list[str]:
        """Add a scan to the statements of the walk; its targets."""
        targets = tuple(Value(self.walk.fresh(hint), type_) for hint, type_ in zip(hints, types, strict=True))
        self.walk.types |= {value.name: value.type for value in targets}
        self.walk.backward.append(Primitive("scan", targets, operands, (), (), made))
        return [value.name for value in targets]

    # --- states before each step --------------------------------------------------------------------------------------

    def history(self, type_: TensorType) -> TensorType:
        return TensorType(type_.dtype, (self.forward.extent, *type_.shape))

    def restoring(self, kept: dict[str, str]) -> list[Statement]:
        """Nests for the carried tensors as they were before the step."""
        made: list[Statement] = []
        for v in self.carried:
            axes = self.inside.axes(v.type)
            part = Read(kept[v.name], (self.back, *(IntExpr.var(a.name) for a in axes)), v.type.dtype)
            made.append(Nest(v.name, v.type, axes, part, ()))
        return made

    def saved(self, wanted: set[str], kept: dict[str, str]) -> dict[str, str]:
        """The tensors outside for the histories of the wanted carried tensors, from a second run of the scan."""
        states = [v for v in self.carried if v.name in wanted]
        if not states:
            return {}
        body, count = self.forward.body, self.forward.carried
        outputs = (*body.outputs[:count], *(v.name for v in states))
        program = replace(body, statements=needed(body.statements, outputs), outputs=outputs)
        hints = [f"{v.name}.last" for v in self.carried] + [f"{v.name}.before" for v in states]
        types = [v.type for v in self.carried] + [self.history(v.type) for v in states]
        made = Scan(self.forward.step, self.forward.extent, program, (0,) * len(states))
        names = self.emit(hints, types, self.statement.operands, made)
        return {kept[v.name]: name for v, name in zip(states, names[count:], strict=True)}

    # --- slices -------------------------------------------------------------------------------------------------------

    def slice(self, value: Value) -> Slice | None:
        """The slice that all reads of a tensor around the scan have in common."""
        found: set[Slice] | None = None
        for statement in self.statements:
            if isinstance(statement, Primitive):
                if value.name in statement.operands:
                    return None
                continue
            for read in reads(statement.body):
                if read.tensor == value.name:
                    here = {Slice(k, e, read.pad) for k, e in enumerate(read.indices) if self.follows_step(e)}
                    found = here if found is None else found & here
        if not found or value.name in self.forward.body.outputs:
            return None
        return min(found, key=lambda part: part.axis)

    def follows_step(self, index: IntExpr) -> bool:
        factor = index.coefficient(Dim(self.forward.step))
        free = not any(isinstance(atom, Var | Computed) for atom in index.atoms())
        return free and factor is not None and factor.is_constant and abs(factor.value) == 1

    def sliced(self, statement: Statement) -> Statement:
        """With reads of the slices in place of the tensors."""
        if isinstance(statement, Primitive):
            return statement

        def change(expr: Expr) -> Expr:
            if isinstance(expr, Read) and expr.tensor in self.slices:
                part = self.slices[expr.tensor]
                return replace(expr, tensor=self.now[expr.tensor], indices=part.of(expr.indices))
            return expr

        return replace(statement, body=transform(statement.body, change))

    def slicing(self) -> list[Statement]:
        """Nests for the slices."""
        made: list[Statement] = []
        for name, part in self.slices.items():
            type_ = self.inside.types[self.now[name]]
            axes = self.inside.axes(type_)
            indices = part.at(tuple(IntExpr.var(a.name) for a in axes), part.index)
            made.append(Nest(self.now[name], type_, axes, Read(name, indices, type_.dtype, part.pad), ()))
        return made

    def stack(self, value: Value) -> TensorType:
        part = self.slices[value.name]
        return TensorType(value.type.dtype, part.at(part.of(value.type.shape), self.forward.extent))

    def unstacked(self, value: Value, stack: str) -> Expr:
        """The cotangent of a tensor from those of its slices: each at the step that read it."""
        part = self.slices[value.name]
        axes = self.walk.axes(value.type)
        step = Dim(self.forward.step)
        factor = part.index.coefficient(step)
        assert factor is not None
        rest = part.index - IntExpr.atom(step) * factor
        at = (IntExpr.var(axes[part.axis].name) - rest) * factor
        inside = in_bounds(at, self.forward.extent, extents(axes))
        pad = None if inside else number(0, value.type.dtype)
        indices = part.at(part.of(tuple(IntExpr.var(a.name) for a in axes)), at)
        return Read(stack, indices, value.type.dtype, pad)


def _at_step(statement: Statement, step: str, value: IntExpr) -> Statement:
    """The statement at another step."""

    def integer(old: IntExpr) -> IntExpr:
        return old.substitute(lambda atom: value if atom == Dim(step) else None)

    def axes(old: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(Axis(axis.name, integer(axis.extent)) for axis in old)

    def change(expr: Expr) -> Expr:
        match expr:
            case Index(old):
                return Index(integer(old))
            case Read(_, indices):
                return replace(expr, indices=tuple(map(integer, indices)))
            case Reduce():
                return replace(expr, axes=axes(expr.axes))
            case _:
                return expr

    if isinstance(statement, Nest):
        return replace(statement, axes=axes(statement.axes), body=transform(statement.body, change))
    if statement.scan is None or statement.scan.step == step:
        return statement
    body = statement.scan.body
    body = replace(body, statements=tuple(_at_step(s, step, value) for s in body.statements))
    return replace(statement, scan=replace(statement.scan, extent=integer(statement.scan.extent), body=body))
