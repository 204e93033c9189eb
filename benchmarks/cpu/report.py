"""Results for people and programs: lines as they come, tables at the end, JSON."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.cpu.figures import (
    MERCER,
    best_peer,
    geometric_mean,
    milliseconds,
    rate,
    ratio,
    share,
)
from benchmarks.cpu.run import Measured, Row
from benchmarks.cpu.workloads import WORKLOADS
from mercer.runtime.profile import Roof

console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
Roofs = Mapping[int, Roof]


def print_head(roof: Roof, cores: Sequence[int]) -> None:
    """What the machine can do with so many threads."""
    sizes = ", ".join(f"{size >> 10} KiB {speed / 1e9:.0f}" for size, speed in roof.bandwidth)
    console.print(f"[bold]{counted(roof.threads)}[/] on core {', '.join(map(str, cores))}: ", end="")
    console.print(f"{roof.flops / 1e9:.1f} GFLOP/s; GB/s when reading {sizes}")


def print_row(row: Row, roof: Roof) -> None:
    """One line as soon as a row is done; below it what went wrong, and Mercer's kernels."""
    if row.missing:
        console.print(f"[red]{row.workload.name}[/] {escape(row.missing)}")
        return
    best, found, part = best_peer(row), ratio(row), share(row, roof)
    cells: list[str] = []
    for name, measured in row.measured.items():
        mark = "bold" if measured is best else "cyan" if name == MERCER else "dim"
        cells.append(f"[{mark}]{name} {milliseconds(measured.seconds)}[/]")
    verdict = "     –" if found is None else f"[{'green' if found >= row.workload.bar else 'red'}]{found:5.2f}×[/]"
    limit = "" if part is None else f"[dim]{rate(row, roof)}, {part:.0%} of the roof[/]"
    console.print(f"{row.workload.name:26} {row.threads}T {verdict} ms: {'  '.join(cells)}  {limit}", soft_wrap=True)
    for name, measured in row.measured.items():
        if measured.missing:
            console.print(f"    [dim]{name} –: {escape(measured.missing)}[/]", soft_wrap=True)
    own = row.measured.get(MERCER)
    if own is not None and own.kernels:
        console.print(f"    [dim]{escape('; '.join(dict.fromkeys(own.kernels)))}[/]", soft_wrap=True)


def print_tables(rows: Sequence[Row], roofs: Roofs) -> None:
    """A table per thread count with its footnotes, the geometric means, and the versions."""
    for threads, roof in roofs.items():
        mine = [row for row in rows if row.threads == threads]
        footnotes: dict[str, int] = {}
        console.print(_table(mine, roof, footnotes))
        for note, number in footnotes.items():
            console.print(f"[dim]{number}) {escape(note)}[/]", soft_wrap=True)
        console.print(_means(mine, threads))
    versions = {name: m.version for row in rows for name, m in row.measured.items() if m.version}
    console.print(", ".join(f"{name} {version}" for name, version in versions.items()))


def _table(rows: Sequence[Row], roof: Roof, footnotes: dict[str, int]) -> Table:
    peers = list(dict.fromkeys(name for row in rows for name in row.measured if name != MERCER))
    table = Table(title=f"{counted(roof.threads)}, milliseconds", header_style="bold", title_justify="left")
    table.add_column("workload", no_wrap=True)
    for name in (MERCER, *peers, "ratio", "bar", "rate", "roof"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Mercer's kernels", overflow="fold")
    for row in rows:
        best, found, part = best_peer(row), ratio(row), share(row, roof)
        cells: list[str] = []
        for name in (MERCER, *peers):
            measured = row.measured.get(name)
            text = milliseconds(measured.seconds if measured else None)
            if why := row.missing or (measured.missing if measured else ""):
                text += f" {footnotes.setdefault(f'{name}: {why}', len(footnotes) + 1)})"
            cells.append(f"[bold]{text}[/]" if measured is best and best is not None else text)
        met = found is not None and found >= row.workload.bar
        cells.append("–" if found is None else f"[{'green' if met else 'red'}]{found:.2f}×[/]")
        cells += [f"{row.workload.bar:g}", rate(row, roof), "–" if part is None else f"{part:.0%}"]
        own = row.measured.get(MERCER)
        families = [kernel.partition(" (")[0] for kernel in own.kernels] if own else []
        table.add_row(row.workload.name, *cells, ", ".join(dict.fromkeys(families)))
    return table


def _means(rows: Sequence[Row], threads: int) -> Table:
    title = f"{counted(threads)}: Mercer's speed against the best peer of each row"
    table = Table(title=title, header_style="bold", title_justify="left")
    table.add_column("family")
    for name in ("rows", "geometric mean", "least", "rows that meet their bar"):
        table.add_column(name, justify="right")
    families = [*dict.fromkeys(row.workload.family for row in rows), "all"]
    for family in families:
        found = [(value, row) for row in rows if family in ("all", row.workload.family) and (value := ratio(row))]
        mean = geometric_mean(value for value, _ in found)
        if mean is None:
            continue
        least, slowest = min(found, key=lambda pair: pair[0])
        met = sum(value >= row.workload.bar for value, row in found)
        table.add_row(family, str(len(found)), f"{mean:.2f}×", f"{least:.2f}× ({slowest.workload.name})", str(met))
    return table


def counted(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


# --- files ------------------------------------------------------------------------------------------------------------


def write_json(path: Path, rows: Sequence[Row], roofs: Roofs) -> None:
    """All figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": {"cpu": cpu_name(), "system": platform.platform(), "python": platform.python_version()},
        "roofs": {threads: asdict(roof) for threads, roof in roofs.items()},
        "rows": [as_json(row, roofs[row.threads]) for row in rows],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(paths: Sequence[Path]) -> tuple[list[Row], dict[int, Roof]]:
    """What runs have written, one after the other; the roofs are those of the last one."""
    rows: list[Row] = []
    roofs: dict[int, Roof] = {}
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        for threads, roof in content["roofs"].items():
            bandwidth = tuple((size, speed) for size, speed in roof["bandwidth"])
            roofs[int(threads)] = Roof(roof["threads"], roof["flops"], bandwidth)
        for row in content["rows"]:
            measured = {name: Measured(**system) for name, system in row["systems"].items()}
            workload = WORKLOADS[row["workload"]]
            rows.append(Row(workload, row["threads"], row["flops"], row["bytes"], measured, row["missing"]))
    return rows, roofs


def as_json(row: Row, roof: Roof) -> dict[str, Any]:
    best = best_peer(row)
    return {
        "workload": row.workload.name,
        "title": row.workload.title,
        "family": row.workload.family,
        "threads": row.threads,
        "flops": row.flops,
        "bytes": row.bytes,
        "bar": row.workload.bar,
        "ratio": ratio(row),
        "best": best.peer if best else None,
        "roof_share": share(row, roof),
        "missing": row.missing,
        "systems": {name: asdict(measured) for name, measured in row.measured.items()},
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()
