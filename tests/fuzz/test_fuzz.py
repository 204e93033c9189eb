"""Differential fuzzing: random programs and pipelines agree on the NumPy reference, PyTorch and TVM.

A failing seed is printed with its program; `MERCER_FUZZ_SEED` repeats it alone.
"""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch

import mercer
from mercer.compiler import Program, parse_ir, print_ir
from mercer.ir.types import Array, DType
from tests.fuzz.programs import generate

PIPELINES = (
    None,
    "bind,lower",
    "bind,fold,lower",
    "bind,lower,fuse,cse,dead_code",
    "bind,fold,canonical,cse,lower,pairwise,fuse{max_ops=4},dead_code",
    "lower,fuse",
)


def sample(program: Program, batch: int, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    shapes = [tuple(d.value if d.is_constant else batch for d in v.type.shape) for v in program.graph.inputs]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def largest(values: Array) -> float:
    """Largest magnitude of what is finite: the mean of an empty batch is NaN everywhere."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


@np.errstate(invalid="ignore", over="ignore")
def disagreement(program: Program, seed: int) -> str | None:
    """What differs between the backends on this program, or None."""
    weights = program.initial(seed)
    module = program.torch()
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)
    module.eval()
    executable = mercer.compile(program, "cpu", weights, pipeline=PIPELINES[seed % len(PIPELINES)])
    for batch in (3, 1, 0):
        inputs = sample(program, batch, seed + batch)
        exact = program.evaluate(*inputs, weights=weights, precision=DType.F64)
        rounded = program.evaluate(*inputs, weights=weights)
        with torch.no_grad():
            result = module(*map(torch.from_numpy, inputs))
        modules = tuple(t.numpy() for t in (result if isinstance(result, tuple) else (result,)))
        binary = executable(*inputs)
        binaries = binary if isinstance(binary, tuple) else (binary,)
        for number, (truth, near) in enumerate(zip(exact, rounded, strict=True)):
            scale = 1.0 + largest(truth)
            tolerance = 2e-5 * scale + 50 * largest(near - truth)
            for name, found in (("torch", modules[number]), ("tvm", binaries[number])):
                if found.shape != truth.shape:
                    return f"{name}, batch {batch}, result {number}: shape {found.shape}, expected {truth.shape}"
                if not np.array_equal(np.isfinite(found), np.isfinite(near)):
                    return f"{name}, batch {batch}, result {number}: NaN or infinity in other places"
                error = largest(found - truth)
                if not error <= tolerance:
                    return f"{name}, batch {batch}, result {number}: error {error:.2e} above {tolerance:.2e}"
    return None


def run(seeds: range, seconds: float) -> int:
    """Programs tried until the time is over; fails on the first disagreement."""
    start, tried = time.monotonic(), 0
    for seed in seeds:
        if time.monotonic() - start > seconds:
            break
        text, program = generate(seed)
        again, _ = parse_ir(print_ir(program.graph), weights={c.name: c.data.array for c in program.graph.constants})
        assert again == program.graph, f"seed {seed}: the IR text does not read back\n{text}"
        found = disagreement(program, seed)
        assert found is None, f"seed {seed}: {found}\n{text}"
        tried += 1
    return tried


def test_backends_agree() -> None:
    chosen = os.environ.get("MERCER_FUZZ_SEED")
    seeds = range(int(chosen), int(chosen) + 1) if chosen else range(10_000)
    assert run(seeds, seconds=45.0) >= 1


@pytest.mark.slow
def test_backends_agree_for_long() -> None:
    assert run(range(100_000, 200_000), seconds=600.0) >= 1


def test_a_wrong_backend_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted fault: a binary that is off by a thousandth."""
    compiled = mercer.compile

    class Off:
        def __init__(self, executable: mercer.Executable) -> None:
            self.executable = executable

        def __call__(self, *inputs: Array) -> tuple[Array, ...]:
            result = self.executable(*inputs)
            return tuple(r + np.float32(1e-3) for r in (result if isinstance(result, tuple) else (result,)))

    monkeypatch.setattr(mercer, "compile", lambda *a, **k: Off(compiled(*a, **k)), raising=False)
    _, program = generate(0)
    assert "tvm" in (disagreement(program, 0) or "")
