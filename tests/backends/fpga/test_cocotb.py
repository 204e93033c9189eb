"""The cocotb bench of an artifact, run as a person would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.fpga.test_designs import BRANCHES, PERCEPTRON, changed, made


def run(files: dict[str, bytes], folder: Path) -> subprocess.CompletedProcess[str]:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    command = [sys.executable, str(folder / "bench" / "run_cocotb.py")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_the_design_gives_the_words_of_the_reference(tmp_path: Path) -> None:
    """Two inputs and three outputs, without stalls and with them."""
    _, design = made(BRANCHES)
    done = run(dict(design.files), tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "TESTS=3 PASS=3 FAIL=0" in done.stdout


@pytest.mark.slow
def test_a_wrong_rounding_bit_fails(tmp_path: Path) -> None:
    _, design = made(PERCEPTRON)
    wrong = changed(design, "rtl/mercer_product.sv", b"<<< (SHIFT - 1))", b"<<< (SHIFT - 2))")
    done = run(dict(wrong.files), tmp_path)
    assert done.returncode == 1
    assert "of m_axis is" in done.stdout and "PASS=0 FAIL=3" in done.stdout
