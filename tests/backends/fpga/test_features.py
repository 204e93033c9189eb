"""Sigma-Delta quantized random features in hardware: the module on many numbers, and models of the pass in integers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import mercer
from mercer.backends.fpga.fixed_point import Interval
from mercer.backends.fpga.lower import lower
from mercer.backends.fpga.lowering import UnsupportedError
from mercer.backends.fpga.stages import Stream
from mercer.backends.fpga.stages_features import SigmaDelta
from mercer.passes.factorize.sigma_delta import SigmaDelta as ToSigmaDelta
from mercer.passes.pipeline import quantized
from mercer.passes.quantize.quantize import Quantize
from mercer.runtime.session import Executable
from tests.backends.fpga.bench import Bench, plant
from tests.backends.fpga.cases import Case, build_cases, check
from tests.operators.records.noise_shaping import condensed, shaped

VECTORS, FEATURES = 2, 24


def sigma_delta(block: int, lanes: int, high: int, bits: int, order: int, sums: bool, reach: int, fault: bool) -> Case:
    """Features from -reach to reach; the closest of all codes, searched for number by number."""
    stage = SigmaDelta(
        name=f"sigma_delta {block} {bits} {order}", sources=("x",), lanes=lanes, block=block, high=high, bits=bits,
        input=Stream(VECTORS, FEATURES, Interval(-reach, reach)), order=order, sums=sums,
    )  # fmt: skip
    x = np.random.default_rng([block, lanes, bits, order]).integers(-reach, reach + 1, (30, VECTORS, FEATURES))
    x[0, 0], x[0, 1] = reach, -reach
    q = torch.from_numpy(shaped(torch.from_numpy(x), high, order, bits, block))
    y = condensed(q, block) if sums else q.numpy()
    return Case(stage, [x.reshape(30, -1)], y.reshape(30, -1), fault)


CASES = [
    sigma_delta(8, 1, 127, 1, 1, True, 127, False),
    sigma_delta(8, 4, 127, 1, 1, True, 127, False),
    sigma_delta(24, 2, 100, 1, 1, False, 100, False),
    sigma_delta(1, 1, 127, 2, 1, False, 127, False),
    sigma_delta(12, 3, 127, 3, 1, True, 127, False),
    sigma_delta(12, 4, 1000, 7, 1, False, 1000, False),
    sigma_delta(24, 1, 127, 1, 2, False, 90, False),
    sigma_delta(8, 2, 127, 4, 2, False, 127, False),
    sigma_delta(24, 8, 50, 2, 1, False, 127, False),
]
FAULTY = [sigma_delta(8, 1, 127, 1, 1, True, 127, True)]
NOTHING_KEPT = {"mercer_sigma_delta": ("if (first)", "if (first || word[0])")}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    directory = tmp_path_factory.mktemp("features")
    return build_cases(CASES + FAULTY, directory, plant(directory, NOTHING_KEPT))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sigma_delta(bench: Bench, seed: int) -> None:
    """Among the cases is a module that forgets errors, which must give something else."""
    check(bench, CASES + FAULTY, seed)


FORMS = """
model Features(x: f32[N, 6]) -> (f32[N, 3], f32[N, 8]) {
  param w: f32[64, 6] = normal(0, 0.5)
  param b: f32[64] = uniform(0, 6.28)
  return sigma_delta_features(x, w, b; block = 8) |> Linear(3), sigma_delta_features(x, w, b; block = 8, bits = 3)
}
"""
MACHINE = """
model Machine(x: f32[N, 6]) -> f32[N, 3] {
  return x |> KernelMachine(3, centers = 256, kernel = gaussian(gamma = 0.1))
}
"""


@pytest.mark.parametrize(("text", "stages"), [(FORMS, 2), (MACHINE, 1)], ids=["operators", "kernel machine"])
def test_models_give_the_bits_of_the_cpu_in_the_predicted_cycles(text: str, stages: int) -> None:
    program = mercer.parse_text(text)
    data = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    passes = quantized(Quantize.scheme("w4a8"))
    place = next(i for i, each in enumerate(passes) if isinstance(each, Quantize))
    passes = (*passes[:place], ToSigmaDelta(count=128, block=16), *passes[place:])
    cpu, design = (
        mercer.compile(program, target, program.initial(), data=data, pipeline=passes)
        for target in ("cpu", "fpga:ecp5-85k")
    )
    report = json.loads(design.artifact.member("fpga/report.json"))
    assert [stage["module"] for stage in report["stages"]].count("mercer_sigma_delta") == stages
    simulation = design.simulation
    assert simulation is not None
    for stalls in (2, 1, 0):
        simulation.stalls = stalls
        for mine, theirs in zip(outputs(design, data[:20]), outputs(cpu, data[:20]), strict=True):
            np.testing.assert_array_equal(mine, theirs, f"stalls {stalls}")
            assert len(np.unique(mine)) > 5
    assert simulation.cycles[0] == report["latency"]
    assert simulation.cycles[-1] - simulation.cycles[-2] == report["cycles_per_sample"]


def outputs(executable: Executable, x: np.ndarray) -> tuple[np.ndarray, ...]:
    result = executable(x)
    return result if isinstance(result, tuple) else (result,)


ALONE = """
model Alone(x: i8[N, 2, 24]) -> (i8[N, 2, 24], i32[N, 2, 4], i32[N, 2, 2]) {
  q = sigma_delta(i32(x); high = 100, order = 2, bits = 2)
  return q, condense(q; block = 6, order = 2), condense(x; block = 12)
}
"""


def test_codes_and_sums_alone_give_the_bits_of_the_reference() -> None:
    """Codes of order 2 that leave the design, weighted sums of them, and sums of what came from outside."""
    program = mercer.parse_text(ALONE)
    x = np.random.default_rng(1).integers(-128, 128, (10, 2, 24)).astype(np.int8)
    design = mercer.compile(program, "fpga")
    for mine, theirs in zip(outputs(design, x), program.evaluate(x), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_features_must_come_one_after_the_other() -> None:
    program = mercer.parse_text(
        """
        model Pixels(x: i8[N, 8, 6]) -> i8[N, 4, 6] {
          param w: i8[4, 8, 1] = zeros()
          return sigma_delta(conv1d(i32(x), i32(w)); high = 127)
        }
        """
    )
    with pytest.raises(UnsupportedError, match="come one after the other"):
        lower(program.graph, program.library, {"w": np.ones((4, 8, 1), np.int8)})
