"""Convolutions by every algorithm that computes them: what the cost model chooses, and what a clock says.

python -m benchmarks.algorithms [--threads N] [--quick]

Convolutions of every channel by itself: the sum, or Fourier transforms. Windows of 3 x 3 over all channels: the sum,
Winograd's F(2x2, 3x3), or F(4x4, 3x3).
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mercer.passes.manager import Pass

IMAGES = [(56, k) for k in (3, 5, 7, 9, 11, 13, 15, 31, 55)] + [(14, 7), (28, 13), (112, 13), (224, 13), (224, 31)]
LINES = [(16384, k) for k in (32, 64, 128, 256, 1024, 4096)]
DENSE = [(8, 112), (16, 112), (32, 56), (64, 56), (128, 28), (256, 14), (512, 7), (256, 7), (64, 14), (64, 7), (24, 9)]
"""Channels, of inputs and of outputs, and pixels of a side."""
QUICK = [(56, 7), (56, 11), (56, 31)], [(16384, 64), (16384, 256)], [(16, 112), (64, 56), (512, 7)]

NAMES = {"fft": "fft", "winograd2": "F(2x2)", "winograd4": "F(4x4)"}
"""What the ledger calls an algorithm, and what the table does."""
CLOSE = 0.1
"""The part of the time by which a choice may be slower than the best and count as right."""


def forced() -> dict[str, dict[str, Pass]]:
    """Of every column, the passes that take the place of those with their names."""
    from mercer.passes.fft_convolution import FftConvolution
    from mercer.passes.winograd import Winograd

    never, always = float("inf"), float("-inf")
    return {
        "sum": {"fft_convolution": FftConvolution(never), "winograd": Winograd(saving=never)},
        "fft": {"fft_convolution": FftConvolution(0.0)},
        "F(2x2)": {"winograd": Winograd(saving=always, largest=2)},
        "F(4x4)": {"winograd": Winograd(saving=always, smallest=4)},
    }


def median(call: Callable[[Any], Any], array: Any, seconds: float = 0.3) -> float:
    """Milliseconds."""
    found: list[float] = []
    call(array)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 5:
        start = time.perf_counter()
        call(array)
        found.append(time.perf_counter() - start)
    return 1e3 * statistics.median(found)


def main() -> None:
    threads = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
    os.environ.update(TVM_NUM_THREADS=threads, OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS="1")
    import mercer
    from mercer.frontend.library import default_library
    from mercer.passes.manager import PassContext, run_passes
    from mercer.passes.pipeline import INFERENCE

    images, lines, dense = QUICK if "--quick" in sys.argv else (IMAGES, LINES, DENSE)
    deep, full = ("sum", "fft"), ("sum", "F(2x2)", "F(4x4)")
    plain = "Conv{0}d(x; 64, {1}, pad = {2}, groups = 64)"
    rows = [
        *((f"64 x {n}^2 k {k}", (1, 64, n, n), plain.format(2, k, k // 2), deep) for n, k in images),
        *((f"64 x {n} k {k}", (1, 64, n), plain.format(1, k, k // 2), deep) for n, k in lines),
        *((f"{c} > {c} x {n}^2 k 3", (1, c, n, n), f"Conv2d(x; {c}, 3, pad = 1)", full) for c, n in dense),
    ]
    changes, right = forced(), 0
    print(f"{'milliseconds':>20}", *(f"{kind:>8}" for kind in changes), " predicted  measured")
    for name, shape, layer, kinds in rows:
        program = mercer.parse_text(f"model M(x: f32[{', '.join(map(str, shape))}]) {{ return {layer} }}")
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        times: dict[str, float] = {}
        for kind in kinds:
            passes = [changes[kind].get(each.name, each) for each in INFERENCE]
            times[kind] = median(mercer.compile(program, weights=program.initial(), pipeline=passes), x)
        context = PassContext(default_library(), weights=program.initial())
        run_passes(program.graph, INFERENCE, context)
        marks = [NAMES[rule] for _, rule in context.ledger.hits() if rule in NAMES]
        (chosen,) = marks or ["sum"]
        best = min(times, key=lambda kind: times[kind])
        loss = times[chosen] / times[best] - 1
        right += loss < CLOSE
        note = "" if chosen == best else f"  {100 * loss:.0f} % slower than the best"
        cells = (f"{times[kind]:8.3f}" if kind in times else f"{'':8}" for kind in changes)
        print(f"{name:>20}", *cells, f" {chosen:9}  {best}{note}", flush=True)
    print(f"{right} of {len(rows)} within {100 * CLOSE:.0f} % of the best")


if __name__ == "__main__":
    main()
