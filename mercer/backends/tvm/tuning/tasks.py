"""The kernels of a program, each as a program of its own that can be compiled with any of its candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mercer.backends.tvm.build import Compiled, build
from mercer.backends.tvm.plan import Call, Plan, planned
from mercer.backends.tvm.row_tiles import RowTiles
from mercer.backends.tvm.rows import Rows
from mercer.backends.tvm.schedules.choose import candidates
from mercer.backends.tvm.schedules.common import Choice, Problem
from mercer.backends.tvm.target import Target
from mercer.backends.tvm.tuning.database import Tuned, W
from mercer.backends.tvm.tuning.kernel import Kernel, kernel_of
from mercer.ir.graph import Constant, Value
from mercer.ir.index import reads
from mercer.ir.nests import Nest, Nests
from mercer.ir.types import TensorType


@dataclass(frozen=True)
class Task:
    """A kernel that a program calls `calls` times; `choices` are its candidates, that of the cost model first."""

    operators: str
    kernel: Kernel
    nests: Nests
    source: Nest | Rows
    target: Target
    choices: tuple[Choice, ...]
    calls: int = 1

    def compile(self, choice: Choice | None = None) -> Compiled:
        """With the candidate `choice`, else with that of the cost model."""
        plan = Plan(self.nests, self.target, _Given(self.kernel, choice))
        plan.outputs = list(self.nests.outputs)
        if isinstance(self.source, Rows):
            plan.add_rows(self.source)
        else:
            plan.add(self.source)
        return build(plan)


class _Given(Tuned):
    """A choice for one kernel."""

    def __init__(self, kernel: Kernel, choice: Choice | None) -> None:
        super().__init__()
        self.kernel, self.choice = kernel, choice

    def choose(self, kernel: Callable[[], Kernel], make: Callable[[Choice | None], W]) -> tuple[W, str]:
        return make(self.choice if kernel() == self.kernel else None), ""


def tasks(nests: Nests, target: Target) -> list[Task]:
    """The distinct kernels of a program for which there is a choice, in the order of their first call."""
    plan = planned(nests, target)
    found: dict[Kernel, Task] = {}
    for call in plan.calls:
        if not isinstance(call, Call) or call.source is None:
            continue
        kernel = kernel_of(_members(call.source), plan.types, plan.constants)
        if kernel in found:
            found[kernel] = replace(found[kernel], calls=found[kernel].calls + 1)
            continue
        choices = _choices(call, plan)
        if len(choices) > 1:
            operators = " ".join(dict.fromkeys(origin.operator for origin in call.origins)) or call.family
            alone = _alone(call.source, plan.types, plan.constants)
            found[kernel] = Task(operators, kernel, alone, call.source, target, choices)
    return list(found.values())


def _members(source: Nest | Rows) -> tuple[Nest, ...]:
    return source.members if isinstance(source, Rows) else (source,)


def _choices(call: Call, plan: Plan) -> tuple[Choice, ...]:
    if not isinstance(call.work, RowTiles):
        assert isinstance(call.source, Nest)
        return tuple(candidates(Problem(call.source, plan.types, plan.constants, plan.target)))
    options = call.work.options
    first = options.choices[options.taken]
    return (first, *(choice for choice in options.choices if choice != first))


def _alone(source: Nest | Rows, types: Mapping[str, TensorType], constants: Mapping[str, Constant]) -> Nests:
    """What the kernel reads as inputs, except for constants."""
    members = _members(source)
    own = {member.target for member in members}
    names = dict.fromkeys(read.tensor for member in members for read in reads(member.body) if read.tensor not in own)
    inputs = tuple(Value(name, types[name]) for name in names if name not in constants)
    known = tuple(constants[name] for name in names if name in constants)
    outputs = [m.target for m in members if not isinstance(source, Rows) or m.target not in source.inner]
    return Nests("kernel", inputs, (), known, members, tuple(outputs))
