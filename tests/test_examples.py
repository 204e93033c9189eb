"""The programs in `examples/`, and what quantization costs them."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

import mercer

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.mer"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_the_same_in_pytorch(name: str) -> None:
    program = mercer.parse(ROOT / "examples" / f"{name}.mer")
    (tensor,) = program.signature.inputs
    x = np.random.default_rng(0).uniform(-1, 1, [3, *tensor.shape[1:]]).astype(np.float32)
    (expected,) = program.evaluate(x)
    with torch.no_grad():
        found = program.torch().eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_benchmark_of_quantization() -> None:
    pytest.importorskip("sklearn")
    benchmark = runpy.run_path(str(ROOT / "benchmarks/quantization.py"))
    assert set(benchmark["TASKS"]) == set(EXAMPLES)
    for name in EXAMPLES:
        whole, *integers = benchmark["measure"](name, effort=0.2, trained=name in ("rbf", "kan"))
        assert whole.drop == 0.0
        schemes, trained = list(benchmark["TASKS"][name].bars), name in ("rbf", "kan")
        assert [row.scheme for row in integers] == schemes + [f"{each} trained" for each in schemes if trained]
        assert integers[0].met, integers[0]
        assert abs(integers[0].drop) < 1.0
