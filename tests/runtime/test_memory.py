"""The memory plan against what processes take: the most that a run adds to a process with a loaded runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import mercer
from mercer.runtime import Artifact
from mercer.runtime.memory import _pooled, planned

RUN = """
import json, sys
import numpy as np
import mercer
from mercer.commands.bench import random_inputs
from mercer.runtime.executors import tvm_runtime

def peak(of):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(of))

path, sizes, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
warm = mercer.load(sys.argv[4])  # what a runtime needs once
warm.threads = threads
warm(np.ones((2, 4), np.float32))
open("/proc/self/clear_refs", "w").write("5")  # the peak is now what is resident
before = peak("VmRSS")
executable = mercer.load(path)
inputs = random_inputs(executable.signature, sizes)
for _ in range(3):
    executable(*inputs)
print(peak("VmHWM") - before)
"""

CONVOLUTIONS = """
op spatial_mean(x: T[n, c, h, w]) -> T[n, c] {{ return y[n, c] = (sum[h, w] x[n, c, h, w]) / (h * w) }}

model M(x: f32[{n}, 3, {s}, {s}]) -> f32[{n}, 8] {{
  h = x |> Conv2d(16, 3, pad = 1) |> relu
  g = h |> Conv2d(24, 3, pad = 1) |> BatchNorm |> relu |> Conv2d(16, 1)
  return relu(g + h) |> Conv2d(32, 3, stride = 2, pad = 1) |> relu |> Conv2d(8, 5) |> spatial_mean
}}
"""
PERCEPTRON = """
model M(x: f32[{n}, 2048]) -> f32[{n}, 10] {{
  return x |> Linear(6000) |> relu |> Linear(1024) |> tanh |> Linear(10)
}}
"""

NETS = {
    "convolutions": (CONVOLUTIONS.format(n=1, s=640), {}),
    "convolutions of a symbolic batch": (CONVOLUTIONS.format(n="N", s=96), {"N": 64}),
    "perceptron": (PERCEPTRON.format(n="N"), {"N": 1}),
    "perceptron of 64": (PERCEPTRON.format(n="N"), {"N": 64}),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NETS)
def test_a_run_takes_what_was_planned(name: str, threads: int, tmp_path: Path) -> None:
    source, sizes = NETS[name]
    mercer.compile(mercer.parse_text(source)).save(tmp_path / "net.mrc")
    mercer.compile(mercer.parse_text("model W(x: f32[N, 4]) -> f32[N, 4] { return x |> Linear(4) |> relu }")).save(
        tmp_path / "warm.mrc"
    )
    memory = planned(Artifact.load(tmp_path / "net.mrc"), sizes, threads)
    assert memory is not None
    arguments = [str(tmp_path / "net.mrc"), json.dumps(sizes), str(threads), str(tmp_path / "warm.mrc")]
    ran = subprocess.run([sys.executable, "-c", RUN, *arguments], check=True, capture_output=True, text=True)
    taken = int(ran.stdout)
    print(f"{name}, {threads} threads: {taken / 1e6:.1f} MB taken, {memory.total / 1e6:.1f} planned, {asdict(memory)}")
    assert memory.total > 50e6
    assert 0.75 * memory.total < taken < 1.1 * memory.total


def test_the_pool_gives_again_what_is_free() -> None:
    assert _pooled([]) == 0
    assert _pooled([(100, 0, 1), (100, 1, 2), (100, 2, 3)]) == 200  # the third one has the place of the first
    assert _pooled([(100, 0, 0), (200, 1, 1), (100, 2, 2)]) == 300  # a pool keeps pieces of every size
    assert _pooled([(100, 0, 3), (100, 1, 3), (100, 2, 3)]) == 300
