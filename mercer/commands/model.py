"""What `mercer check`, `mercer ir` and `mercer ops` say about models and the standard library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from mercer.backends.tvm.target import parse as parse_target
from mercer.commands.show import show_table, size_text
from mercer.compiler import TARGETS, Program, UsageError
from mercer.frontend.library import default_library
from mercer.ir.analysis import Cost, cost
from mercer.ir.graph import Graph
from mercer.ir.lower import lower
from mercer.ir.nests import Nests
from mercer.ir.types import Array
from mercer.passes.cost import elements, size
from mercer.passes.manager import Pass, PassContext, run_passes
from mercer.passes.pipeline import INFERENCE
from mercer.runtime.errors import nearest


def describe_model(program: Program) -> dict[str, Any]:
    """Signature, parameters, operators and cost (before any pass, every symbolic dim 1), ready for JSON."""
    types = program.nests.types()
    nodes = Counter(node.operator for node in program.graph.nodes)
    costs = dict.fromkeys(nodes, Cost())
    for statement in program.nests.statements:
        costs[statement.origins[0].operator] += cost(statement, types)
    total = sum(costs.values(), Cost())
    dims = dict.fromkeys(sorted(name for v in types.values() for extent in v.shape for name in extent.dims()), 1)
    return {
        "model": program.name,
        "signature": str(program.signature),
        "parameters": [
            {
                "name": p.name,
                "type": str(p.type),
                "count": elements(p.type.shape),
                "initializer": str(p.initializer),
                "trainable": p.trainable,
            }
            for p in program.parameters
        ],
        "operators": [{"name": n, "nodes": nodes[n], **_counts(costs[n].at(dims))} for n in sorted(nodes)],
        "trainable": sum(elements(p.type.shape) for p in program.parameters if p.trainable),
        "parameter_bytes": sum(size(p.type) for p in program.parameters),
        "dims": list(dims),
        **_counts(total.at(dims)),
        "formula": str(total.flops),
    }


def _counts(cost: Cost) -> dict[str, int]:
    return {
        "operations": cost.flops.value,
        "transcendental": cost.transcendental.value,
        "bytes_moved": cost.bytes.value,
    }


def show_model(summary: Mapping[str, Any]) -> None:
    """Print what `describe_model` found."""
    print(f"{summary['model']}{summary['signature']}")
    if summary["parameters"]:
        rows = [
            (
                p["name"],
                p["type"],
                f"{p['count']:,}",
                p["initializer"] if p["trainable"] else f"{p['initializer']}, fixed",
            )
            for p in summary["parameters"]
        ]
        show_table(("parameter", "type", ">count", "starts as"), rows)
    if summary["operators"]:
        rows = [
            (o["name"], o["nodes"], f"{o['operations']:,}", f"{o['transcendental']:,}", size_text(o["bytes_moved"]))
            for o in summary["operators"]
        ]
        show_table(("operator", ">nodes", ">operations", ">exp, sin, …", ">moved"), rows)
    print(f"{summary['trainable']:,} trainable numbers, {size_text(summary['parameter_bytes'])} of parameters")
    where = f" at {' = '.join(summary['dims'])} = 1" if summary["dims"] else ""
    moved = size_text(summary["bytes_moved"])
    print(f"{summary['operations']:,} operations (a multiply-add is two){where}, {moved} moved, before any pass")
    if summary["dims"]:
        print(f"operations = {summary['formula']}")


# --- IR ---------------------------------------------------------------------------------------------------------------


def ir_after(
    program: Program,
    level: Literal["graph", "nests"] | None,
    after: str | None,
    target: str | None,
    weights: Mapping[str, Array] | None,
) -> Graph | Nests:
    """The IR of a program at a level: unchanged, after the last pass called `after`, or after all passes of `target`.

    Without a level it is the one that the passes leave. Raises UsageError.
    """
    passes = _passes(after, target)
    context = PassContext(program.library, weights=program.initial() if weights is None else weights)
    if target is not None and target.startswith("cpu"):
        context.features = frozenset(parse_target(target).features)
    graph: Graph | Nests = program.graph
    ir: Graph | Nests = graph
    for each in passes:
        ir = run_passes(ir, (each,), context)
        graph = ir if isinstance(ir, Graph) else graph
    if level == "nests" and isinstance(ir, Graph):
        return lower(ir, program.library)
    if level == "graph" and isinstance(ir, Nests):
        if after is not None:
            raise UsageError(
                f"after `{after}` there is no graph any more", "leave out --level, or name an earlier pass"
            )
        return graph
    return ir


def _passes(after: str | None, target: str | None) -> tuple[Pass, ...]:
    if target is not None and target.partition(":")[0] not in TARGETS:
        near = nearest(target.partition(":")[0], TARGETS)
        raise UsageError(
            f"there is no target `{target}`", f"did you mean `{near}`?" if near else f"one of {', '.join(TARGETS)}"
        )
    pipeline = () if target is not None and target.startswith("torch") else INFERENCE
    if after is None:
        return () if target is None else pipeline
    names = [each.name for each in pipeline]
    if after not in names:
        near = nearest(after, names)
        listed = ", ".join(dict.fromkeys(names)) or "no pass: the torch target keeps the model as it is"
        raise UsageError(f"there is no pass `{after}`", f"did you mean `{near}`?" if near else f"there are: {listed}")
    last = len(names) - names[::-1].index(after)
    return pipeline[:last]


# --- the library ------------------------------------------------------------------------------------------------------


def definitions() -> list[dict[str, str]]:
    """Kind, name and first sentence of everything in the standard library."""
    library = default_library()
    found = (library.definition(name) for name in library.names())
    rows = [{"kind": d.kind, "name": d.name.name, "what": _summary(d.doc)} for d in found if d is not None]
    return sorted(rows, key=lambda row: (row["kind"], row["name"].lower()))


def _summary(doc: str) -> str:
    text = " ".join(doc.split())
    return text.split(". ")[0].rstrip(".")
