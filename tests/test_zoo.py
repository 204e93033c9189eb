"""Every system of the zoo agrees with its independent reference on every backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from mercer.commands.zoo import System, check, systems

ZOO = Path(__file__).parent.parent / "zoo"


@pytest.mark.parametrize("system", systems(ZOO), ids=lambda system: system.path.stem)
def test_the_backends_agree_with_the_reference(system: System) -> None:
    row = check(system)
    assert row.works, row.as_json()


BROKEN = {
    "wrong": "return np.maximum(x @ p['linear.weight'].T + p['linear.bias'], 0) * 1.001",
    "shape": "return x",
    "raises": "return p['weight']",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_reference_that_differs_is_told(tmp_path: Path, body: str) -> None:
    (tmp_path / "s000_test.mer").write_text(
        "# S000 Linear\nmodel Test(x: f32[N, 4]) -> f32[N, 3] { return x |> Linear(3) |> relu }\n"
    )
    reference = f"import numpy as np\nSAMPLES = [{{'N': 2}}, {{'N': 3}}]\ndef reference(p, x):\n    {body}\n"
    (tmp_path / "s000_test.py").write_text(reference)
    (system,) = systems(tmp_path)
    assert system.title == "Linear"
    assert not check(system).works


def test_one_batch_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "s000_test.mer").write_text("# S000 Relu\nmodel Test(x: f32[N, 4]) -> f32[N, 4] { return relu(x) }\n")
    (tmp_path / "s000_test.py").write_text(
        "SAMPLES = [{'N': 2}, {'N': 2}]\ndef reference(p, x):\n    return abs(x + abs(x)) / 2\n"
    )
    (system,) = systems(tmp_path)
    row = check(system)
    assert "two sizes" in row.problem and not row.works


def test_kernels_of_no_family_are_told(tmp_path: Path) -> None:
    body = "SAMPLES = [{'N': 2}, {'N': 3}]\ndef reference(p, x):\n    return (x > 0).any(1).astype('i4')\n"
    for formula, generic in (("any(x > 0; axis = 1)", 1), ("max(x; axis = 1) > 0", 0)):
        spec = f"# S000 Any\nmodel Test(x: f32[N, 16]) -> i32[N] {{ return i32({formula}) }}\n"
        (tmp_path / "s000_test.mer").write_text(spec)
        (tmp_path / "s000_test.py").write_text(body)
        (system,) = systems(tmp_path)
        row = check(system)
        assert row.works and row.kernels == 1
        assert len(row.generic) == generic and all("s000_test.mer:2:" in kernel for kernel in row.generic)
