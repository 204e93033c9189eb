"""The demo: its data, its verdict, and the whole way with a model that is quick to train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mercer
from mercer.cli import main
from mercer.commands import bench, demo

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

LINEAR = "model Digits(x: f32[N, 1, 8, 8]) -> f32[N, 10] { return x |> flatten |> Linear(10) }"

GOOD = demo.Result(
    samples=360,
    torch_accuracy=0.98,
    binary_accuracy=0.98,
    predictions_equal=True,
    largest_difference=1e-5,
    torch_latency={1: 1500.0, 64: 6000.0},
    binary_latency={1: 100.0, 64: 800.0},
    threads=2,
    target="cpu:avx2",
    train_seconds=20.0,
    compile_seconds=4.0,
    file=Path("demo/digits.mrc"),
    file_bytes=300_000,
    ir=Path("demo/ir"),
)


@pytest.fixture
def linear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that trains in seconds, in place of the digits model."""
    path = tmp_path / "linear.mer"
    path.write_text(LINEAR)
    monkeypatch.setattr(demo, "digits_spec", lambda: path)
    monkeypatch.setattr(bench, "BLOCK_SECONDS", 0.001)
    return path


def test_the_digits_model_has_what_it_shows() -> None:
    program = mercer.parse(demo.digits_spec())
    assert str(program.signature).startswith("(x: f32[N, 1, 8, 8]) -> (")
    assert program.signature.outputs[0].shape == ("N", 10)
    operators = {node.operator for node in program.graph.nodes}
    assert operators >= {"conv2d", "deform_conv2d", "flex_kernel2d", "kernel_machine", "batch_norm"}


def test_the_split_is_fixed_and_stratified() -> None:
    split, again = demo.digits(), demo.digits()
    assert split.train_x.shape == (1437, 1, 8, 8)
    assert split.test_x.shape == (360, 1, 8, 8)
    assert split.test_x.dtype == np.float32
    assert (split.test_x.min(), split.test_x.max()) == (0, 1)
    np.testing.assert_array_equal(split.test_x, again.test_x)
    assert set(np.bincount(split.test_y)) <= {35, 36, 37}


def test_jitter_moves_images_a_little() -> None:
    image = torch.zeros(64, 1, 8, 8)
    image[:, :, 3:5, 3:5] = 1
    random = torch.Generator().manual_seed(0)
    moved = demo.jitter(image, random)
    assert moved.shape == image.shape
    assert not torch.equal(moved[0], moved[1])
    places = torch.arange(8.0)
    for axis in (2, 3):
        center = (moved.sum(dim=5 - axis)[:, 0] * places).sum(1) / moved.sum(dim=(1, 2, 3))
        assert 0.2 < (center - 3.5).abs().max() < 0.8


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"predictions_equal": False}, "the binary and PyTorch give different digits for some sample"),
        ({"binary_accuracy": 0.969}, "test accuracy 96.90% is below 97%"),
        ({"binary_accuracy": float("nan")}, "test accuracy nan% is below 97%"),
        ({"largest_difference": 2e-4}, "the logits differ by 2.0e-04, more than 1e-04"),
        ({"largest_difference": float("nan")}, "the logits differ by nan, more than 1e-04"),
    ],
)
def test_faults(change: dict[str, float | bool], fault: str | None) -> None:
    assert replace(GOOD, **change).faults == ([fault] if fault else [])  # pyright: ignore[reportArgumentType]


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    demo.show(GOOD)
    shown = capsys.readouterr().out
    for part in (
        "98.00%",
        "the same for every sample",
        "1.0e-05",
        "1.5 ms",
        "100 µs",
        "15.00 x",
        "300.0 kB",
        "demo/ir",
    ):
        assert part in shown
    demo.show(replace(GOOD, predictions_equal=False))
    assert "NOT the same" in capsys.readouterr().out


def test_the_whole_way(linear: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = demo.run(out, linear, epochs=8)
    assert result.samples == 360
    assert result.predictions_equal
    assert result.largest_difference <= demo.LARGEST_DIFFERENCE
    assert result.torch_accuracy == result.binary_accuracy > 0.8
    assert set(result.binary_latency) == set(result.torch_latency) == {1, 64}
    assert result.file_bytes == (out / "digits.mrc").stat().st_size
    assert (out / "ir" / "00_elaborate.mir").is_file()

    logits = out / "logits.npy"
    assert main(["run", str(out / "digits.mrc"), "-i", str(out / "test.npz"), "-o", str(logits)]) == 0
    labels = np.load(out / "labels.npy")
    assert np.count_nonzero(np.load(logits).argmax(1) == labels) / len(labels) == result.binary_accuracy
    again = out / "again.mrc"
    assert main(["compile", str(linear), "-o", str(again), "-w", str(out / "weights.safetensors")]) == 0
    assert again.read_bytes() == (out / "digits.mrc").read_bytes()


@pytest.mark.usefixtures("linear")
def test_the_command_fails_when_the_model_is_not_good_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_epoch(program: mercer.Program, split: demo.Split, _epochs: int = 0) -> object:
        return trained(program, split, 1)

    trained = demo.train
    monkeypatch.setattr(demo, "train", one_epoch)
    assert main(["demo", "--out", str(tmp_path / "demo"), "--json"]) == 1
    captured = capsys.readouterr()
    assert "failed: test accuracy" in captured.err
    assert len(json.loads(captured.out)["faults"]) == 1


def test_the_output_folder_cannot_be_made(linear: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(linear / "demo")]) == 2
    assert "cannot make the folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    result = demo.run(tmp_path)
    assert result.faults == []
    assert result.binary_latency[1] < result.torch_latency[1]
    assert result.binary_latency[64] < 1.1 * result.torch_latency[64]
