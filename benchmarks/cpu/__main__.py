"""python -m benchmarks.cpu [NAMES...] [--threads 1,2] [--peers torch,ort,...] [--family F] [--quick] [--list]

    python -m benchmarks.cpu --show JSON... [--svg FILE]

Names may hold `*`. Without names and without --quick, everything is measured.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import time
from pathlib import Path

from benchmarks.cpu import plot, report
from benchmarks.cpu.peers import PEERS
from benchmarks.cpu.processes import roof_of
from benchmarks.cpu.run import Row, Settings, held, measure
from benchmarks.cpu.workload import Workload
from benchmarks.cpu.workloads import WORKLOADS
from mercer.backends.tvm.target import parse
from mercer.runtime.profile import Roof


def main() -> None:
    options = _parser().parse_args()
    if options.show:
        _finish(options, *report.read_json(options.show))
        return
    workloads = _chosen(options)
    if options.list:
        for workload in workloads:
            print(f"{workload.name:28} {workload.family:18} {workload.title}")
        return
    if options.save:
        options.json, options.svg = (options.save / f"cpu-{parse('cpu').level}.{kind}" for kind in ("json", "svg"))
    cores = tuple(sorted(os.sched_getaffinity(0)))
    others = tuple(map(int, options.compile_cores.split(","))) if options.compile_cores else cores
    threads = tuple(map(int, options.threads.split(","))) if options.threads else tuple(sorted({1, len(cores)}))
    peers = ("mercer", *(options.peers.split(",") if options.peers else PEERS))
    settings = Settings(
        peers=tuple(dict.fromkeys(peers)),
        threads=threads,
        cores=cores,
        other_cores=others,
        rounds=options.rounds,
        limit=options.limit,
        lock=options.lock,
        verbose=options.verbose,
    )
    roofs: dict[int, Roof] = {}
    for count in threads:
        with held(options.lock):
            roofs[count] = roof_of(count, cores[-count:])
        report.print_head(roofs[count], cores[-count:])
    rows: list[Row] = []
    start = time.monotonic()
    for number, workload in enumerate(workloads, 1):
        if time.monotonic() - start > 60 * options.minutes:
            left = ", ".join(each.name for each in workloads[number - 1 :])
            report.console.print(f"[red]{options.minutes:g} minutes are over; not measured: {left}[/]")
            break
        for row in measure(workload, settings):
            rows.append(row)
            report.print_row(row, roofs[row.threads])
        report.console.print(f"[dim]    {number} of {len(workloads)}, {time.monotonic() - start:.0f} s[/]")
        if options.json:
            report.write_json(options.json, rows, roofs)
    _finish(options, rows, roofs)


def _finish(options: argparse.Namespace, rows: list[Row], roofs: dict[int, Roof]) -> None:
    report.print_tables(rows, roofs)
    if options.svg:
        plot.write_svg(options.svg, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("names", nargs="*", help="workloads; `*` stands for anything")
    parser.add_argument("--family", help="only the workloads of families that contain this")
    parser.add_argument("--quick", action="store_true", help="a choice of workloads, in less than ten minutes")
    parser.add_argument("--list", action="store_true", help="print the workloads")
    parser.add_argument("--threads", help="thread counts, such as 1,2; by default 1 and all cores")
    parser.add_argument("--peers", help=f"of {', '.join(PEERS)}; all by default, Mercer always")
    parser.add_argument("--rounds", type=int, default=9, help="rounds in which the systems take turns")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a system may take to compile")
    parser.add_argument("--minutes", type=float, default=60.0, help="start no workload after so many minutes")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--show", type=Path, nargs="+", metavar="JSON", help="only print what runs have written")
    parser.add_argument("--svg", type=Path, help="write a bar plot there")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write both there, named after the CPU level")
    parser.add_argument("--compile-cores", help="cores for everything but timing; all by default")
    parser.add_argument("--lock", type=Path, help="a file to lock while timing")
    parser.add_argument("--verbose", action="store_true", help="print what the systems print")
    return parser


def _chosen(options: argparse.Namespace) -> list[Workload]:
    for name in options.names:
        if not fnmatch.filter(WORKLOADS, name):
            sys.exit(f"there is no workload {name}; --list prints them")
    for name in (options.peers or "").split(","):
        if name and name not in PEERS:
            sys.exit(f"there is no peer {name}; they are {', '.join(PEERS)}")
    chosen = [
        workload
        for name, workload in WORKLOADS.items()
        if (not options.names or any(fnmatch.fnmatch(name, pattern) for pattern in options.names))
        and (not options.family or options.family in workload.family)
        and (not options.quick or workload.quick)
    ]
    return sorted(chosen, key=lambda workload: workload.batch)


if __name__ == "__main__":
    main()
