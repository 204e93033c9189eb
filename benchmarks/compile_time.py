"""Compile time: every run is a new process, from the import of Mercer to a ready artifact.

python benchmarks/compile_time.py [RUNS]

`cold` compiles, `cached` finds the artifact in the cache, of which `compile` is the call alone, after parsing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
MODELS = (HERE.parent / "examples" / "digits.mer", HERE / "fifty.mer")
COMPILE = """
import mercer, sys, time
p = mercer.parse(sys.argv[1])
start = time.perf_counter()
mercer.compile(p, "cpu")
print(len(p.graph.nodes), time.perf_counter() - start)
"""


def timed(model: Path, cache: str) -> tuple[str, float, float]:
    """The number of nodes, seconds of the process, and of the call of `compile`."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(model)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"MERCER_CACHE": cache},
    )
    nodes, seconds = done.stdout.split()
    return nodes, time.perf_counter() - start, float(seconds)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(
        f"{'model':12} {'nodes':>5} {'cold s':>7} {'least':>6} {'cached s':>9} {'compile':>8}   median of {runs} runs"
    )
    with tempfile.TemporaryDirectory(prefix="mercer-") as cache:
        for model in MODELS:
            cold = [timed(model, "off") for _ in range(runs)]
            nodes, *_ = timed(model, cache)
            warm = [timed(model, cache) for _ in range(runs)]
            whole = statistics.median(seconds for _, seconds, _ in cold)
            least = min(seconds for _, seconds, _ in cold)
            cached = (statistics.median(row[k] for row in warm) for k in (1, 2))
            print(f"{model.stem:12} {nodes:>5} {whole:7.2f} {least:6.2f}", *(f"{s:9.3f}" for s in cached))


if __name__ == "__main__":
    main()
