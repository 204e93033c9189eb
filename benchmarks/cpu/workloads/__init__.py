"""The workloads, one file per group of families."""

from __future__ import annotations

from benchmarks.cpu.workload import Workload
from benchmarks.cpu.workloads import (
    convolution,
    depthwise,
    equivariant,
    fields,
    gather,
    grids,
    neighbours,
    nets,
    sequence,
    spectral,
)

WORKLOADS: dict[str, Workload] = {}
for _group in (convolution, nets, depthwise, gather, fields, grids, sequence, neighbours, spectral, equivariant):
    for _row in _group.WORKLOADS:
        if _row.name in WORKLOADS:
            raise ValueError(f"there are two workloads {_row.name}")
        WORKLOADS[_row.name] = _row
