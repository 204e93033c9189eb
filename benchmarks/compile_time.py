"""Cold compile time: every run is a new process, from the import of Mercer to a ready artifact.

python benchmarks/compile_time.py [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
MODELS = (HERE.parent / "examples" / "digits.mer", HERE / "fifty.mer")
COMPILE = "import mercer, sys; p = mercer.parse(sys.argv[1]); print(len(p.graph.nodes)); mercer.compile(p, 'cpu')"


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"{'model':12} {'nodes':>5} {'median s':>9} {'least s':>8}   of {runs} cold runs")
    for model in MODELS:
        seconds: list[float] = []
        nodes = ""
        for _ in range(runs):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", COMPILE, str(model)], check=True, capture_output=True, text=True
            )
            seconds.append(time.perf_counter() - start)
            nodes = done.stdout.strip()
        print(f"{model.stem:12} {nodes:>5} {statistics.median(seconds):9.2f} {min(seconds):8.2f}")


if __name__ == "__main__":
    main()
