"""Speed and error of the elementary functions in generated CPU code, on float32 vectors in cache.

python benchmarks/vector_math.py [FUNCTION ...]

Errors are in units in the last place of the correctly rounded result, over the samples of the tests.
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np
from rich.console import Console
from rich.table import Table

import mercer
from mercer.backends.tvm.vector_math import FAST
from tests.backends.test_tvm_math import CASES

ROWS, COLUMNS, PASSES = 64, 4096, 16
"""PASSES calls with different arguments for every element that is read: memory is not what is measured."""


def seconds(text: str, x: np.ndarray) -> float:
    program = mercer.parse_text(f"model M(x: f32[{ROWS}, {COLUMNS}]) -> f32[{ROWS}, {COLUMNS}] {{ return {text} }}")
    executable = mercer.compile(program)
    best = float("inf")
    for _ in range(30):
        start = time.process_time()
        executable(x)
        best = min(best, time.process_time() - start)
    return best


def worst(function: str) -> float:
    """Largest error in ulp over all samples."""
    exact, _, samples = CASES[function]
    program = mercer.parse_text(f"model M(x: f32[N]) -> f32[N] {{ return {function}(x) }}")
    executable = mercer.compile(program)
    error = 0.0
    for x in samples:
        with np.errstate(over="ignore"):
            expected = exact(x.astype(np.float64))
            unit = np.spacing(np.abs(expected.astype(np.float32))).astype(np.float64)
        found = np.asarray(executable(x)).astype(np.float64)
        error = max(error, float(np.max(np.where(np.isfinite(unit), np.abs(found - expected) / unit, 0))))
    return error


def main() -> None:
    table = Table("function", "largest error (ulp)", "10⁹ elements/s")
    x = np.random.default_rng(0).uniform(0.1, 0.9, (ROWS, COLUMNS)).astype(np.float32)
    copy = seconds("x + 1", x)
    for function in sys.argv[1:] or [name for name in FAST if name in CASES]:
        calls = " + ".join(f"{function}({1 - k / 32} * x)" for k in range(PASSES))
        rate = x.size * PASSES / max(seconds(calls, x) - copy, 1e-9) / 1e9
        table.add_row(function, f"{worst(function):.2f}", f"{rate:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
