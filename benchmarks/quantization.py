"""What quantization costs: models trained on real data with fixed seeds, in f32, W8A8 and W4A8.

python benchmarks/quantization.py [--json] [--effort PART] [NAME ...]

The score is the accuracy on the test split in percent, or the PSNR of an image in dB. Ranges come from samples to train
on. `bytes` are those of the weights in the artifact.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import mercer
from mercer.commands import demo

EXAMPLES = Path(__file__).parent.parent / "examples"
SEED = 0
CALIBRATION = 512
"""Samples that the ranges are found on."""


@dataclass(frozen=True)
class Data:
    """Inputs and targets to train on and to judge by; ranges come from the inputs to train on."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


@dataclass(frozen=True)
class Row:
    """One model with one scheme of numbers; `drop` is what it loses against f32, `bar` how much it may lose."""

    model: str
    scheme: str
    unit: str
    score: float
    drop: float
    bar: float | None
    bytes: int
    seconds: float

    @property
    def met(self) -> bool:
        return self.bar is None or self.drop <= self.bar


@dataclass(frozen=True)
class Task:
    """A model, its data, how it is trained (the effort scales the number of steps), and what it may lose."""

    data: Callable[[], Data]
    train: Callable[[mercer.Program, Data, float], nn.Module]
    score: Callable[[np.ndarray, np.ndarray], float]
    unit: str
    bars: dict[str, float]


# --- data -------------------------------------------------------------------------------------------------------------


def digit_images() -> Data:
    split = demo.digits()
    return Data(split.train_x, split.train_y, split.test_x, split.test_y)


def digit_pixels() -> Data:
    found: Any = datasets.load_digits()
    return halves(found.data / 8 - 1, found.target)


def tumours() -> Data:
    found: Any = datasets.load_breast_cancer()
    return halves((found.data - found.data.mean(axis=0)) / found.data.std(axis=0), found.target)


def halves(x: np.ndarray, y: np.ndarray) -> Data:
    """One half to train on, the other to judge by: large enough that one sample is less than half a percent."""
    parts = train_test_split(x.astype(np.float32), y, test_size=0.5, stratify=y, random_state=SEED)
    train_x, test_x, train_y, test_y = map(np.ascontiguousarray, parts)
    return Data(train_x, train_y, test_x, test_y)


def image() -> Data:
    """64 x 64 pixels of a photograph, each the mean of its part: places in -1..1 and colors in -1..1."""
    photograph = datasets.load_sample_image("china.jpg")[:384, 128:512].astype(np.float32) / 255
    colors = photograph.reshape(64, 6, 64, 6, 3).mean(axis=(1, 3)).reshape(-1, 3)
    line = np.linspace(-1, 1, 64, dtype=np.float32)
    places = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    return Data(places, 2 * colors - 1, places, 2 * colors - 1)


# --- training ---------------------------------------------------------------------------------------------------------


def train_demo(program: mercer.Program, data: Data, effort: float) -> nn.Module:
    split = demo.Split(data.train_x, data.train_y, data.test_x, data.test_y)
    return demo.train(program, split, max(1, round(effort * demo.EPOCHS)))


def trainer(steps: int, rate: float, loss: Callable[..., torch.Tensor] = cross_entropy, decay: float = 0.01) -> Any:
    """Adam with decoupled weight decay on the whole data, at a rate that rises and falls."""

    def train(program: mercer.Program, data: Data, effort: float) -> nn.Module:
        net = program.torch(SEED).train()
        x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
        count = max(4, round(effort * steps))
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=count)
        for _ in range(count):
            error = loss(net(x), y)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            schedule.step()
        return net.eval()

    return train


# --- scores -----------------------------------------------------------------------------------------------------------


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return 100 * demo.accuracy(logits, labels)


def psnr(values: np.ndarray, expected: np.ndarray) -> float:
    """Of colors in -1..1."""
    return float(10 * np.log10(4 / np.mean(np.square(np.clip(values, -1, 1) - expected, dtype=np.float64))))


CLASSES = {"w8a8": 0.5, "w4a8": 1.5}
TASKS = {
    "digits": Task(digit_images, train_demo, accuracy, "%", CLASSES),
    "rbf": Task(tumours, trainer(300, 0.02), accuracy, "%", CLASSES),
    "siren": Task(image, trainer(600, 0.002, mse_loss, 0.0), psnr, "dB", {"w8a8": 1.0}),
    "kan": Task(digit_pixels, trainer(200, 0.02), accuracy, "%", CLASSES),
}
"""By the name of the program in `examples/`."""


def measure(name: str, effort: float = 1.0) -> Iterator[Row]:
    """Train and compile one model; `effort` scales the number of steps."""
    task, program = TASKS[name], mercer.parse(EXAMPLES / f"{name}.mer")
    data = task.data()
    start = time.perf_counter()
    weights = task.train(program, data, effort).state_dict()
    seconds, whole = time.perf_counter() - start, 0.0
    samples = data.train_x[:: max(1, len(data.train_x) // CALIBRATION)]
    for scheme in ("f32", "w8a8", "w4a8"):
        if scheme != "f32":
            start = time.perf_counter()
        quantize = None if scheme == "f32" else scheme
        executable = mercer.compile(program, weights=weights, data=samples, quantize=quantize)
        score = task.score(np.asarray(executable(data.test_x)), data.test_y)
        whole = score if scheme == "f32" else whole
        stored = executable.artifact.manifest.members["weights.safetensors"].bytes
        seconds = seconds if scheme == "f32" else time.perf_counter() - start
        yield Row(name, scheme, task.unit, score, whole - score, task.bars.get(scheme), stored, seconds)


def run(names: Sequence[str], effort: float = 1.0) -> Iterator[Row]:
    torch.set_num_threads(1)
    for name in names or TASKS:
        yield from measure(name, effort)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", choices=[*TASKS, []], metavar="NAME")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--effort", type=float, default=1.0, metavar="PART")
    chosen = parser.parse_args()
    if chosen.json:
        print(json.dumps([asdict(row) | {"met": row.met} for row in run(chosen.names, chosen.effort)], indent=2))
        return
    print(f"{'model':8} {'scheme':6} {'score':>8}    {'drop':>6} {'bar':>5}      {'bytes':>8} {'seconds':>8}")
    for row in run(chosen.names, chosen.effort):
        verdict = "" if row.bar is None else "met" if row.met else "MISSED"
        bar = "" if row.bar is None else f"{row.bar:.1f}"
        print(
            f"{row.model:8} {row.scheme:6} {row.score:8.2f} {row.unit:2} {row.drop:6.2f} {bar:>5} {verdict:6} "
            f"{row.bytes:7} {row.seconds:8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
