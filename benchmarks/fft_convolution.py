"""Convolutions of every channel by itself: the sum or transforms, what the cost model says and what a clock says.

python -m benchmarks.fft_convolution [--threads N] [--quick]
"""

from __future__ import annotations

import os
import statistics
import sys
import time

import numpy as np

IMAGES = [(56, k) for k in (3, 5, 7, 9, 11, 13, 15, 31, 55)] + [(14, 7), (28, 13), (112, 13), (224, 13), (224, 31)]
LINES = [(16384, k) for k in (32, 64, 128, 256, 1024, 4096)]
QUICK = [(56, 7), (56, 11), (56, 31)], [(16384, 64), (16384, 256)]


def median(call: object, array: object, seconds: float = 0.3) -> float:
    """Milliseconds."""
    found: list[float] = []
    call(array)  # type: ignore[operator]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 5:
        start = time.perf_counter()
        call(array)  # type: ignore[operator]
        found.append(time.perf_counter() - start)
    return 1e3 * statistics.median(found)


def main() -> None:
    threads = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
    os.environ.update(TVM_NUM_THREADS=threads, OMP_NUM_THREADS=threads, OPENBLAS_NUM_THREADS="1")
    import mercer
    from mercer.frontend.library import default_library
    from mercer.passes.fft_convolution import FftConvolution
    from mercer.passes.manager import PassContext, run_passes
    from mercer.passes.pipeline import INFERENCE

    images, lines = QUICK if "--quick" in sys.argv else (IMAGES, LINES)
    rows = [(f"{n}^2 k = {k}", (1, 64, n, n), f"Conv2d(x; 64, {k}, pad = {k // 2}, groups = 64)") for n, k in images]
    rows += [(f"{n} k = {k}", (1, 64, n), f"Conv1d(x; 64, {k}, pad = {k // 2}, groups = 64)") for n, k in lines]
    right = 0
    print(f"{'64 channels':>16} {'sum ms':>8} {'fft ms':>8}  predicted  measured")
    for name, shape, layer in rows:
        program = mercer.parse_text(f"model M(x: f32[{', '.join(map(str, shape))}]) {{ return {layer} }}")
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        times: dict[str, float] = {}
        for kind, advantage in (("sum", float("inf")), ("fft", 0.0)):
            passes = [FftConvolution(advantage) if isinstance(p, FftConvolution) else p for p in INFERENCE]
            times[kind] = median(mercer.compile(program, weights=program.initial(), pipeline=passes), x)
        context = PassContext(default_library(), weights=program.initial())
        run_passes(program.graph, INFERENCE, context)
        chosen = "fft" if ("fft_convolution", "fft") in context.ledger.hits() else "sum"
        best = min(times, key=lambda kind: times[kind])
        loss = times[chosen] / times[best] - 1
        right += chosen == best or loss < 0.1
        note = "" if chosen == best else f"  {100 * loss:.0f} % slower than the best"
        print(f"{name:>16} {times['sum']:8.3f} {times['fft']:8.3f}  {chosen:9}  {best}{note}", flush=True)
    print(f"{right} of {len(rows)} within 10 % of the best")


if __name__ == "__main__":
    main()
