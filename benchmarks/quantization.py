"""What quantization costs: models trained on real data with fixed seeds, in f32, W8A8 and W4A8.

python benchmarks/quantization.py [--json] [--effort PART] [--trained] [--learned] [NAME ...]

The score is the accuracy on the test split in percent, or the PSNR of an image in dB; the loss is cross-entropy or mean
squared error on the same split. Ranges come from samples to train on. `bytes` are those of the weights in the artifact.
`--trained` adds models that went on training with fake quantization, from the weights in f32, for half as many steps.
`--learned` adds, for schemes that have missed their bar, models that went on training with codes whose steps they learn
(Esser et al. 2020), for four times as many steps, and the model in f32 that went on training for as long.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils import parametrize

import mercer
from mercer.commands import demo
from mercer.compiler import Program
from mercer.passes.quantize.code_books import code_books
from mercer.passes.quantize.layers import LayerBits, layers
from mercer.passes.quantize.quantize import Quantize
from mercer.passes.quantize.rounding import compensated

EXAMPLES = Path(__file__).parent.parent / "examples"
SEED = 0
NARROW = 8
"""Inputs up to which codes do not change in training."""
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
    loss: float
    drop: float
    bar: float | None
    bytes: int
    seconds: float

    @property
    def met(self) -> bool:
        return self.bar is None or self.drop <= self.bar


@dataclass(frozen=True)
class Task:
    """A model, its data, how it is trained, and what it may lose: Adam with decoupled weight decay on batches of that
    size (the whole data when it is none), at a rate that rises and falls."""

    data: Callable[[], Data]
    steps: int
    rate: float
    score: Callable[[np.ndarray, np.ndarray], float]
    unit: str
    bars: dict[str, float]
    loss: Callable[..., torch.Tensor] = cross_entropy
    decay: float = 0.01
    batch: int | None = None
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None

    @property
    def longer(self) -> int:
        """Steps of going on with learned steps."""
        return 4 * self.steps


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


def fit(net: nn.Module, task: Task, data: Data, steps: int, rate: float) -> dict[str, torch.Tensor]:
    """Train; the state."""
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    random = torch.Generator().manual_seed(SEED)
    batches = iter(())
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=task.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    net.train()
    for _ in range(steps):
        chosen = next(batches, None)
        if chosen is None:
            batches = iter(torch.split(torch.randperm(len(x), generator=random), task.batch or len(x)))
            chosen = next(batches)
        samples = x[chosen] if task.augment is None else task.augment(x[chosen], random)
        loss = task.loss(net(samples), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.state_dict()


# --- learned steps ----------------------------------------------------------------------------------------------------


class LearnedStep(nn.Module):
    """Codes times a step per output channel, which is learned as well (Esser et al. 2020, Learned step size
    quantization); gradients pass the rounding. The logarithm is learned: Adam moves it by parts of the step."""

    def __init__(self, weight: torch.Tensor, bits: int, axis: int | None) -> None:
        super().__init__()
        values = weight.detach().double()
        rows = (values.reshape(1, -1) if axis is None else values.movedim(axis, 0).flatten(1)).numpy()
        (book,) = code_books("uniform", bits)
        _, steps = compensated(rows[None], np.eye(rows.shape[1])[None], [book], shared=False)
        self.last = int(book[-1])
        shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
        self.logarithm = nn.Parameter(torch.from_numpy(np.log(steps)).float().reshape(shape))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        step = self.logarithm.exp()
        codes = (weight / step).clamp(-self.last, self.last)
        return (codes + (codes.round() - codes).detach()) * step


def fit_steps(
    program: Program, weights: dict[str, torch.Tensor], scheme: str, task: Task, data: Data
) -> dict[str, torch.Tensor]:
    """Go on training with the codes of the scheme; the state, in which weights are codes times steps.

    Weights that are computed from others, such as kernels drawn by a net, are not rounded. Codes of few inputs with few
    bits stay as they are, only their steps are learned: on each of them depends all that comes after.
    """
    net, quantize = program.torch(weights=weights), Quantize.scheme(scheme)
    bits = LayerBits.parse(quantize.layers).of(program.graph)
    rounded: list[tuple[nn.Module, str]] = []
    for node, position, axis in layers(program.graph):
        if node.operands[position] not in weights:
            continue
        path, _, name = node.operands[position].rpartition(".")
        place = net.get_submodule(path)
        weight, count = getattr(place, name), bits.get(node.name, quantize.weights)
        if weight[0].numel() <= NARROW and count < 7:
            weight.requires_grad_(False)
        parametrize.register_parametrization(place, name, LearnedStep(weight, count, axis))
        rounded.append((place, name))
    fit(net, task, data, task.longer, task.rate / 2)
    for place, name in rounded:
        parametrize.remove_parametrizations(place, name)
    return net.state_dict()


# --- scores -----------------------------------------------------------------------------------------------------------


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return 100 * demo.accuracy(logits, labels)


def psnr(values: np.ndarray, expected: np.ndarray) -> float:
    """Of colors in -1..1."""
    return float(10 * np.log10(4 / np.mean(np.square(np.clip(values, -1, 1) - expected, dtype=np.float64))))


CLASSES = {"w8a8": 0.5, "w4a8": 1.5}
IMAGE = {"w8a8": 1.0, "w4a8": 1.0, "w4a8:first=8,last=8": 1.0}
STEPS = demo.EPOCHS * -(-1437 // demo.BATCH)
TASKS = {
    "digits": Task(
        digit_images, STEPS, demo.LEARNING_RATE, accuracy, "%", CLASSES,
        decay=demo.WEIGHT_DECAY, batch=demo.BATCH, augment=demo.jitter,
    ),
    "rbf": Task(tumours, 300, 0.02, accuracy, "%", CLASSES),
    "siren": Task(image, 600, 0.002, psnr, "dB", IMAGE, loss=mse_loss, decay=0.0),
    "kan": Task(digit_pixels, 200, 0.02, accuracy, "%", CLASSES),
}  # fmt: skip
"""By the name of the program in `examples/`."""


def measure(name: str, effort: float = 1.0, trained: bool = False, learned: bool = False) -> Iterator[Row]:
    """Train and compile one model; `effort` scales the number of steps."""
    program = mercer.parse(EXAMPLES / f"{name}.mer")
    task = replace(TASKS[name], steps=max(4, round(effort * TASKS[name].steps)))
    data, steps = task.data(), task.steps
    samples = data.train_x[:: max(1, len(data.train_x) // CALIBRATION)]
    whole = 0.0

    def row(scheme: str, quantize: str | None, state: dict[str, torch.Tensor], start: float) -> Row:
        executable = mercer.compile(program, weights=state, data=samples, quantize=quantize)
        found = np.array(executable(data.test_x))
        score = task.score(found, data.test_y)
        loss = task.loss(torch.from_numpy(found), torch.from_numpy(data.test_y)).item()
        stored = executable.artifact.manifest.members["weights.safetensors"].bytes
        drop, bar = whole - score if quantize else 0.0, task.bars.get(quantize or "")
        return Row(name, scheme, task.unit, score, loss, drop, bar, stored, time.perf_counter() - start)

    start = time.perf_counter()
    weights = fit(program.torch(SEED), task, data, steps, task.rate)
    yield (first := row("f32", None, weights, start))
    whole = first.score
    missed: list[str] = []
    for scheme in task.bars:
        yield (found := row(scheme, scheme, weights, time.perf_counter()))
        missed += [] if found.met else [scheme]
    for scheme in task.bars if trained else ():
        start = time.perf_counter()
        net = program.torch(weights=weights, data=samples, quantize=scheme)
        yield row(f"{scheme} trained", scheme, fit(net, task, data, steps // 2, task.rate / 2), start)
    for scheme in missed if learned else ():
        start = time.perf_counter()
        yield row(f"{scheme} learned", scheme, fit_steps(program, weights, scheme, task, data), start)
    if missed and learned:
        start = time.perf_counter()
        longer = fit(program.torch(weights=weights), task, data, task.longer, task.rate / 2)
        yield row("f32 longer", None, longer, start)


def run(names: Sequence[str], effort: float = 1.0, trained: bool = False, learned: bool = False) -> Iterator[Row]:
    torch.set_num_threads(1)
    for name in names or TASKS:
        yield from measure(name, effort, trained, learned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TASKS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--effort", type=float, default=1.0, metavar="PART")
    parser.add_argument("--trained", action="store_true")
    parser.add_argument("--learned", action="store_true")
    chosen = parser.parse_args()
    rows = run(chosen.names, chosen.effort, chosen.trained, chosen.learned)
    if chosen.json:
        print(json.dumps([asdict(row) | {"met": row.met} for row in rows], indent=2))
        return
    print("model   scheme                          score       loss   drop   bar          bytes seconds")
    for row in rows:
        verdict = "" if row.bar is None else "met" if row.met else "MISSED"
        bar = "" if row.bar is None else f"{row.bar:.1f}"
        print(
            f"{row.model:7} {row.scheme:28} {row.score:8.2f} {row.unit:2} {row.loss:7.4f} {row.drop:6.2f} {bar:>5} "
            f"{verdict:6} {row.bytes:7} {row.seconds:7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
