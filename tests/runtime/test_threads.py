"""Threads of a run: how many there are, and what they do after it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mercer
from mercer.runtime.executors import physical_cores

IDLE = """
import statistics, sys, time
import numpy as np
import mercer
executable = mercer.load(sys.argv[1])
assert executable.threads == int(sys.argv[2])
x = np.ones((40_000, 4), np.float32)
executable(x)
spent = []
for _ in range(15):
    executable(x)
    before = time.process_time()
    time.sleep(0.03)
    spent.append(time.process_time() - before)
print(statistics.median(spent))
"""


def idle(path: Path, **environment: str) -> float:
    """Seconds of processor time that two threads on one core take in the 30 ms after a call."""
    command = [sys.executable, "-c", IDLE, str(path), "2"]
    unset = {name: value for name, value in os.environ.items() if not name.startswith("TVM_")}
    core = max(os.sched_getaffinity(0))
    ran = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env=unset | {"TVM_NUM_THREADS": "2"} | environment,
        preexec_fn=lambda: os.sched_setaffinity(0, [core]),
    )
    return float(ran.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="pins a process to a core")
def test_threads_leave_the_cores_after_a_call(tmp_path: Path) -> None:
    """With TVM's own default they go on for 30 ms and more: BLAS would have to share its cores with them."""
    program = mercer.parse_text("model W(x: f32[N, 4]) -> f32[N, 4] { return x |> Linear(4) |> relu }")
    mercer.compile(program).save(tmp_path / "w.mrc")
    assert idle(tmp_path / "w.mrc") < 3e-3
    assert idle(tmp_path / "w.mrc", TVM_THREAD_POOL_SPIN_COUNT="300000") > 6e-3  # the planted fault


COUNT = """
import os, sys
import mercer
import numpy as np
from mercer.runtime.executors import physical_cores
os.sched_setaffinity(0, range(os.cpu_count()))  # what started it may be bound
cores, count = os.sched_getaffinity(0), physical_cores()
if sys.argv[1] == "load":
    executable = mercer.load(sys.argv[2])
else:
    text = "model W(x: f32[N, 4]) -> f32[N, 4] { return tanh(x) }"
    executable = mercer.compile(mercer.parse_text(text))
executable(np.ones((40_000, 4), np.float32))
bound = [thread for thread in os.listdir("/proc/self/task") if os.sched_getaffinity(int(thread)) != cores]
print(executable.threads, executable.threads == count, bound)
"""


@pytest.mark.skipif(sys.platform != "linux" or physical_cores() < 2, reason="counts cores that threads may use")
@pytest.mark.parametrize("how", ["load", "compile"])
def test_all_physical_cores_by_default(how: str, tmp_path: Path) -> None:
    """However an executable comes about, and no thread is bound; TVM alone takes half of them and binds the caller."""
    program = mercer.parse_text("model W(x: f32[N, 4]) -> f32[N, 4] { return tanh(x) }")
    mercer.compile(program).save(tmp_path / "w.mrc")
    unset = {name: value for name, value in os.environ.items() if not name.startswith("TVM_")}

    def counted(**environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", COUNT, how, str(tmp_path / "w.mrc")]
        env = unset | {"MERCER_CACHE": "off"} | environment
        return subprocess.run(command, check=False, capture_output=True, text=True, env=env)

    assert counted().stdout.endswith(" True []\n")
    assert re.fullmatch(r"1 (True|False) \[\]\n", counted(TVM_NUM_THREADS="1").stdout)
    assert not counted(TVM_BIND_THREADS="1").stdout.endswith("[]\n")  # the planted fault
    assert "TVM_NUM_THREADS is 'all': expected a number of threads" in counted(TVM_NUM_THREADS="all").stderr
