"""What `mercer explain` says about an artifact."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from mercer.commands.show import note, show_table, size_text, time_text
from mercer.passes.ledger import LayerError, Ledger, LedgerEntry
from mercer.runtime.artifact import Artifact, free_symbols
from mercer.runtime.executors import physical_cores
from mercer.runtime.memory import planned


def describe_artifact(artifact: Artifact) -> dict[str, Any]:
    """Everything that the manifest says, ready for JSON. Raises ArtifactError when the ledger cannot be read."""
    manifest = artifact.manifest
    ledger = read_ledger(artifact)
    return {
        "target": manifest.target,
        "version": manifest.version,
        "cpu_features": list(manifest.cpu_features),
        "signature": repr(manifest.signature),
        "exactness": ledger.exactness().value,
        "error": ledger.error(),
        "rewrites": [row for row in ledger.to_json() if row["kind"] == "rewrite"],
        "layers": [row for row in ledger.to_json() if row["kind"] == "layer"],
        "warnings": [row for row in ledger.to_json() if row["kind"] == "warning"],
        "steps": list(manifest.entry.get("steps", ())),
        "memory": _memory(artifact),
        "design": _json_member(artifact, "fpga/report.json"),
        "implementation": _json_member(artifact, "fpga/implementation.json"),
        "members": [
            {"name": name, "bytes": m.bytes, "sha256": m.sha256} for name, m in sorted(manifest.members.items())
        ],
    }


def _json_member(artifact: Artifact, name: str) -> Any:
    return json.loads(artifact.member(name)) if name in artifact.members else None


def _memory(artifact: Artifact) -> dict[str, Any]:
    """Bytes of a run on all cores when every symbolic dim is 1, and 64; without a plan those of the weights alone."""
    signature = artifact.manifest.signature
    symbols = sorted({name for spec in signature.inputs for dim in spec.shape for name in free_symbols(str(dim))})
    runs = {
        str(n): planned(artifact, dict.fromkeys(symbols, n), physical_cores()) for n in ((1, 64) if symbols else (1,))
    }
    return {
        "weights": artifact.manifest.members["weights.safetensors"].bytes,
        "symbols": symbols,
        "runs": {n: {**asdict(memory), "total": memory.total} for n, memory in runs.items() if memory is not None},
    }


def read_ledger(artifact: Artifact) -> Ledger:
    """The ledger of an artifact. Raises ArtifactError."""
    from mercer.runtime.errors import ArtifactError

    try:
        return Ledger.from_json(artifact.manifest.ledger)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{artifact.origin}: its ledger cannot be read ({error})", "compile it again") from error


def show_compiled(summary: Mapping[str, Any]) -> None:
    """Print in short what was compiled: `describe_artifact` with the file, its bytes and the seconds it took."""
    file, size = summary["file"], size_text(summary["bytes"])
    taken = sum(row["fired"] for row in summary["rewrites"])
    refused = len(summary["rewrites"]) - taken
    print(f"{file}  {size}  {summary['target']}  compiled in {summary['seconds']:.1f} s")
    print(f"{taken} rewrites taken, {refused} refused; exactness: {summary['exactness']}; see `mercer explain {file}`")
    for warning in summary["warnings"]:
        note(f"warning: {warning['subject']}: {warning['message']}", style="yellow")


def show_artifact(summary: Mapping[str, Any]) -> None:
    """Print what `describe_artifact` found."""
    needs = f", needs {', '.join(summary['cpu_features'])}" if summary["cpu_features"] else ""
    print(f"{summary['file']}: {summary['target']}, Mercer {summary['version']}{needs}")
    print(f"{summary['signature']}\n")
    ledger = Ledger.from_json([*summary["rewrites"], *summary["layers"], *summary["warnings"]])
    if ledger.fired():
        rows = [row for group in _groups(ledger.fired()) for row in _taken(group)]
        columns = ("pass", "rewrite", "exactness", "operator", "node", "line", ">operations", ">after")
        show_table(columns, rows, title="Rewrites taken")
    if ledger.refused():
        rows = [(e.pass_name, e.rewrite, e.operator, e.node, _place(e), e.reason or "") for e in ledger.refused()]
        show_table(("pass", "rewrite", "operator", "node", "line", "why not"), rows, title="Rewrites refused")
    if ledger.layers:
        layers = [(e.node, e.operator, _place(e), f"{e.bits}", f"{e.error:.2e}") for e in ledger.layers]
        columns = ("layer", "operator", "line", ">bits", ">relative error")
        show_table(columns, layers, title="Quantized layers, against real numbers on the calibration data")
    print(_exactness(ledger))
    for warning in ledger.warnings:
        print(f"warning: {warning.subject}: {warning.message}")
    print()
    if summary["steps"]:
        _show_steps(summary["steps"], summary.get("times"))
    if summary["design"] is not None:
        _show_design(summary["design"])
        if summary["implementation"] is not None:
            _show_implementation(summary["implementation"], summary["design"]["cycles_per_sample"])
    memory = summary["memory"]
    if not memory["runs"]:
        print(f"Memory: {size_text(memory['weights'])} of weights")
    for n, run in memory["runs"].items():
        parts = [f"{size_text(run[part])} of {part}" for part in ("weights", "inputs", "tensors", "workspace")]
        print(f"Memory of a run{_dims(memory['symbols'], n)}: {size_text(run['total'])}: {', '.join(parts)}")
    print()
    rows = [(m["name"], size_text(m["bytes"]), m["sha256"][:16]) for m in summary["members"]]
    show_table(("member", ">size", "sha256"), rows, title="Members")


def _chosen(step: Mapping[str, Any]) -> str:
    return f"{step['detail']}; {step['tuned']}" if step.get("tuned") else step["detail"]


def _show_steps(steps: Sequence[Mapping[str, Any]], times: Mapping[str, Any] | None) -> None:
    """What runs, with the time of each step where `step_times.measure` found it."""
    chosen = [(s["family"], _chosen(s), s["source"]) for s in steps]
    measured: Sequence[Mapping[str, Any]] = times["steps"] if times is not None else ()
    if times is None or not measured:
        rows = [(s["function"], *rest) for s, rest in zip(steps, chosen, strict=True)]
        show_table(("function", "schedule", "chosen", "line"), rows, title="What runs, in order")
        if times is not None:
            print(f"No times: {times['missing']}\n")
        return
    sizes = "".join(f" at {name} = {size}" for name, size in times["sizes"].items())
    title = f"What runs, in order{sizes}, threads: {times['threads']}"
    rests = [("" if m["roof"] is None else f"{m['roof']:.0%}", *rest) for m, rest in zip(measured, chosen, strict=True)]
    rows = [
        (s["function"], time_text(m["microseconds"]), f"{m['share']:.1%}", _rate(m), *rest)
        for s, m, rest in zip(steps, measured, rests, strict=True)
    ]
    other = times["other_microseconds"]
    rows.append(("(other)", time_text(other), f"{other / (times['microseconds'] or 1.0):.1%}", "", "", "", "", ""))
    show_table(("function", ">time", ">share", ">rate", ">of roof", "schedule", "chosen", "line"), rows, title=title)
    roof = times["roof"]
    line = f"A call takes {time_text(times['microseconds'])}"
    if roof is not None:
        reads = ", ".join(f"{speed / 1e9:.0f} of {size >> 10} KiB" for size, speed in roof["bandwidth"])
        line += f"; the roof is {roof['flops'] / 1e9:.1f} GFLOP/s and, read again and again, GB/s {reads}"
    print(f"{line}\n")


def _rate(measured: Mapping[str, Any]) -> str:
    """Of what binds."""
    amount, unit = (measured["flops"], "GFLOP/s") if measured["binds"] == "operations" else (measured["bytes"], "GB/s")
    return f"{amount / measured['microseconds'] / 1e3:.1f} {unit}" if measured["microseconds"] else ""


def _show_design(design: Mapping[str, Any]) -> None:
    """Cycles, and what each stage and queue of an FPGA design is."""
    per_sample, latency = design["cycles_per_sample"], design["latency"]
    clock = design["clock"]
    rate = f"{clock * 1e6 / per_sample:,.0f} samples per second at {clock} MHz"
    print(f"A sample per {per_sample:,} cycles ({rate}), {latency:,} cycles from its first to its last word\n")
    rows = [
        (
            stage["name"],
            stage["module"],
            f"{stage['cycles']:,}",
            f"{stage['cycles'] / per_sample:.0%}",
            *_counts(stage["estimate"]),
            ", ".join(f"{name} {stage['parameters'][name]}" for name in _FOLDING if name in stage["parameters"]),
        )
        for stage in design["stages"]
    ]
    rows.append(("(queues)", "mercer_fifo", "", "", *_counts(design["queues_estimate"]), ""))
    columns = ("stage", "module", ">cycles", ">busy", ">LUT", ">FF", ">DSP", ">BRAM", "folding")
    show_table(columns, rows, title="Stages of the design, in the order of the data")
    words = sum(queue["width"] * queue["depth"] for queue in design["queues"])
    deepest = max(design["queues"], key=lambda queue: queue["depth"])
    print(f"Queues: {len(design['queues'])} with {words:,} bits; the deepest, {deepest['depth']} words, is before")
    print(f"{deepest['to']}. The schematic is the member fpga/schematic.svg")
    known = [entry for stage in design["stages"] if (entry := stage["estimate"])] + [design["queues_estimate"] or {}]
    lut, ff, dsp, bram = (sum(entry.get(kind, 0) for entry in known) for kind in _COUNTED)
    print(f"About {lut:,} LUT4, {ff:,} flip-flops, {dsp:,} multipliers, {bram:,} block RAMs of an ECP5, as in Yosys\n")


def _show_implementation(made: Mapping[str, Any], per_sample: int) -> None:
    """What synthesis and routing found."""
    counts = ", ".join(f"{made['counts'][kind]:,} {name}" for kind, name in zip(_COUNTED, _COUNTED_NAMES, strict=True))
    print(f"Yosys: {counts}")
    if made["clock"] is not None:
        rate = f"{made['clock'] * 1e6 / per_sample:,.0f} samples per second"
        used = ", ".join(f"{n:,} of {most:,} {cell}" for cell, (n, most) in sorted(made["utilization"].items()) if n)
        print(f"nextpnr: {made['clock']:.1f} MHz ({rate}); {used}; the bits are the member fpga/design.bit\n")


_FOLDING = ("PE", "SIMD", "LANES")
_COUNTED = ("lut", "ff", "dsp", "bram")
_COUNTED_NAMES = ("LUT4", "flip-flops", "multipliers", "block RAMs")


def _counts(estimate: Mapping[str, int] | None) -> tuple[str, ...]:
    return tuple(f"{estimate[kind]:,}" if estimate else "" for kind in _COUNTED)


def _dims(symbols: Iterable[str], size: str) -> str:
    names = ", ".join(symbols)
    return f" at {names} = {size}" if names else ""


def _groups(entries: Iterable[LedgerEntry]) -> Iterable[list[LedgerEntry]]:
    """Neighbours that did the same thing for the same line of text."""

    def key(e: LedgerEntry) -> tuple[str, str, str, str]:
        return e.pass_name, e.rewrite, e.exactness.value, _place(e)

    return (list(group) for _, group in groupby(entries, key))


def _taken(group: list[LedgerEntry]) -> list[tuple[object, ...]]:
    first = group[0]
    cost = [e for e in group if e.cost_before is not None and e.cost_after is not None]
    before = f"{sum(e.cost_before.flops for e in cost if e.cost_before):,}" if cost else ""
    after = f"{sum(e.cost_after.flops for e in cost if e.cost_after):,}" if cost else ""
    total = sum(e.error or 0.0 for e in group)
    error = f" {total:.1e}{' measured' if any(e.measured for e in group) else ''}" if total else ""
    operators = ", ".join(dict.fromkeys(e.operator for e in group))
    nodes = first.node if len(group) == 1 else f"{first.node} and {len(group) - 1} more"
    return [
        (
            first.pass_name,
            first.rewrite,
            f"{first.exactness.value}{error}",
            operators,
            nodes,
            _place(first),
            before,
            after,
        )
    ]


def _place(entry: LedgerEntry | LayerError) -> str:
    return f"{entry.span.file}:{entry.span.line}" if entry.span.line else ""


def _exactness(ledger: Ledger) -> str:
    meaning = {
        "bit": "every rewrite keeps all bits",
        "real": "equal over the real numbers; rounding may differ",
        "approx": f"approximate, errors add up to {ledger.error():.2e} (relative L2)",
    }[ledger.exactness().value]
    counts = f"{len(ledger.fired())} rewrites taken, {len(ledger.refused())} refused"
    return f"Exactness {ledger.exactness().value}: {meaning} ({counts})"
