"""The main job on real data: train `digits.mer` with PyTorch, compile it, run the binary, compare the two."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mercer.commands.bench import side_by_side, torch_threads
from mercer.commands.peers import on_torch
from mercer.commands.show import progress_bar, show_json, show_table, size_text, time_text, write_whole
from mercer.compiler import Program, UsageError, compile, parse
from mercer.runtime.session import Executable, load

if TYPE_CHECKING:
    import torch

Floats: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int64]

SEED = 0
EPOCHS = 30
BATCH = 64
LEARNING_RATE = 0.005
WEIGHT_DECAY = 0.05
LEAST_ACCURACY = 0.97
LARGEST_DIFFERENCE = 1e-4
LATENCY_BATCHES = (1, 64)


@dataclass(frozen=True)
class Split:
    """Images f32[n, 1, 8, 8] in 0..1 and their digits i64[n]."""

    train_x: Floats
    train_y: Labels
    test_x: Floats
    test_y: Labels


@dataclass(frozen=True)
class Result:
    """What the demo found; times are medians in microseconds by batch size, accuracies fractions of the test split."""

    samples: int
    torch_accuracy: float
    binary_accuracy: float
    predictions_equal: bool
    largest_difference: float
    torch_latency: dict[int, float]
    binary_latency: dict[int, float]
    threads: int
    target: str
    train_seconds: float
    compile_seconds: float
    file: Path
    file_bytes: int
    ir: Path

    @property
    def faults(self) -> list[str]:
        """What is not as it must be; empty when all is well."""
        found: list[str] = []
        if not self.predictions_equal:
            found.append("the binary and PyTorch give different digits for some sample")
        if not self.binary_accuracy >= LEAST_ACCURACY:
            found.append(f"test accuracy {self.binary_accuracy:.2%} is below {LEAST_ACCURACY:.0%}")
        if not self.largest_difference <= LARGEST_DIFFERENCE:
            found.append(f"the logits differ by {self.largest_difference:.1e}, more than {LARGEST_DIFFERENCE:.0e}")
        return found


def digits_spec() -> Path:
    """`examples/digits.mer`, from the repository or the installed package; relative where it lies below the working
    folder, since its name goes into the artifact. Raises UsageError."""
    package = Path(__file__).parent.parent
    for folder in (package.parent / "examples", package / "examples"):
        path = folder / "digits.mer"
        if path.is_file():
            return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    raise UsageError("examples/digits.mer is not there", "run the demo from a clone of the repository")


def digits() -> Split:
    """Handwritten digits of scikit-learn: 80 % to train, 20 % to test, stratified, always the same."""
    if importlib.util.find_spec("sklearn") is None:
        raise UsageError(
            "the demo takes its data from scikit-learn, which is not installed", "pip install scikit-learn"
        )
    datasets: Any = importlib.import_module("sklearn.datasets")
    selection: Any = importlib.import_module("sklearn.model_selection")
    data = datasets.load_digits()
    images = (data.images[:, np.newaxis] / 16).astype(np.float32)
    parts = selection.train_test_split(images, data.target, test_size=0.2, stratify=data.target, random_state=SEED)
    train_x, test_x, train_y, test_y = map(np.ascontiguousarray, parts)
    return Split(train_x, train_y, test_x, test_y)


def train(program: Program, split: Split, epochs: int = EPOCHS) -> torch.nn.Module:
    """A trained module: AdamW, a learning rate that rises and falls, cross-entropy, seeded."""
    import torch
    from torch.nn.functional import cross_entropy

    net = program.torch(SEED)
    x, y = torch.from_numpy(split.train_x), torch.from_numpy(split.train_y)
    random = torch.Generator().manual_seed(SEED)
    steps = epochs * -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    net.train()
    with progress_bar("train") as report:
        for epoch in range(epochs):
            loss = torch.tensor(0.0)
            for chosen in torch.split(torch.randperm(len(x), generator=random), BATCH):
                loss = cross_entropy(net(jitter(x[chosen], random)), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            report(epoch + 1, epochs, f"loss {loss.item():.3f}")
    return net.eval()


def jitter(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Images f32[n, 1, 8, 8], each turned by up to 0.2 rad, scaled by up to 10 % and moved by up to 0.6 pixels."""
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    angle, scale, down, right = torch.rand(4, len(images), generator=random) * 2 - 1
    angle, scale = 0.2 * angle, 1 + 0.1 * scale
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack((cosine, -sine, 0.15 * right, sine, cosine, 0.15 * down), dim=1)
    grid = affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False)


def run(folder: Path, spec: Path | None = None, target: str = "cpu", epochs: int = EPOCHS) -> Result:
    """The whole demo; everything that it makes lies in `folder` afterwards. Raises MercerError."""
    split, program = digits(), parse(spec or digits_spec())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    with torch_threads(1):  # so that the training does not depend on the number of cores
        start = time.perf_counter()
        net = train(program, split, epochs)
        train_seconds = time.perf_counter() - start
        weights = {name: tensor.detach().numpy() for name, tensor in net.state_dict().items()}
        start = time.perf_counter()
        with progress_bar("compile") as report:
            executable = compile(program, target, weights, dump_ir=folder / "ir", progress=report)
        compile_seconds = time.perf_counter() - start
        file = folder / "digits.mrc"
        executable.save(file)
        _save_inputs(folder, weights, split)
        return _compare(net, load(file), split, folder, train_seconds, compile_seconds)


def accuracy(logits: Floats, labels: Labels) -> float:
    """Part of the samples whose largest logit is the label's."""
    return np.count_nonzero(np.argmax(logits, axis=1) == labels) / len(labels)


def _save_inputs(folder: Path, weights: Mapping[str, Floats], split: Split) -> None:
    """What a person needs to go on by hand with `mercer compile` and `mercer run`."""
    from safetensors.numpy import save

    write_whole(folder / "weights.safetensors", lambda file: file.write(save(dict(weights))))
    write_whole(folder / "test.npz", lambda file: np.savez(file, x=split.test_x))
    write_whole(folder / "labels.npy", lambda file: np.save(file, split.test_y))


def _compare(
    net: torch.nn.Module,
    executable: Executable,
    split: Split,
    folder: Path,
    train_seconds: float,
    compile_seconds: float,
) -> Result:
    import torch

    def eager(x: Floats) -> Floats:
        with torch.inference_mode():
            return net(torch.from_numpy(x)).numpy()

    def latency(x: Floats) -> dict[str, tuple[float, int]]:
        return side_by_side(executable, (x,), {"torch": on_torch(lambda: eager(x))})

    expected: Floats = eager(split.test_x)
    actual: Floats = executable(split.test_x)
    torch_latency: dict[int, float] = {}
    binary_latency: dict[int, float] = {}
    with progress_bar("measure") as report:
        for number, batch in enumerate(LATENCY_BATCHES):
            report(number, len(LATENCY_BATCHES), f"batch {batch}")
            times = latency(split.test_x[:batch].copy())
            torch_latency[batch], binary_latency[batch] = times["torch"][0], times["mercer"][0]
    file = folder / "digits.mrc"
    return Result(
        samples=len(split.test_y),
        torch_accuracy=accuracy(expected, split.test_y),
        binary_accuracy=accuracy(actual, split.test_y),
        predictions_equal=bool(np.all(np.argmax(expected, axis=1) == np.argmax(actual, axis=1))),
        largest_difference=float(np.max(np.abs(expected - actual))),
        torch_latency=torch_latency,
        binary_latency=binary_latency,
        threads=executable.threads,
        target=executable.target,
        train_seconds=train_seconds,
        compile_seconds=compile_seconds,
        file=file,
        file_bytes=file.stat().st_size,
        ir=folder / "ir",
    )


def show(result: Result, as_json: bool = False) -> None:
    """Print the table at the end of the demo."""
    from dataclasses import asdict

    if as_json:
        show_json({**asdict(result), "file": str(result.file), "ir": str(result.ir), "faults": result.faults})
        return
    same = "the same for every sample" if result.predictions_equal else "NOT the same for every sample"
    rows = [
        ("test accuracy", f"{result.torch_accuracy:.2%}", f"{result.binary_accuracy:.2%}", same),
        ("largest difference of logits", "", f"{result.largest_difference:.1e}", f"at most {LARGEST_DIFFERENCE:.0e}"),
    ]
    for batch in LATENCY_BATCHES:
        eager, binary = result.torch_latency[batch], result.binary_latency[batch]
        rows.append((f"latency, batch {batch}", time_text(eager), time_text(binary), f"{eager / binary:.2f} x as fast"))
    title = f"{result.samples} test digits, {result.target}"
    show_table(("", ">PyTorch eager", ">binary", ""), rows, title=title)
    print(f"median latency, each with 1 and with {result.threads} threads: whichever is faster")
    print(f"trained in {result.train_seconds:.1f} s, compiled in {result.compile_seconds:.1f} s (cold)")
    print(f"{result.file}  {size_text(result.file_bytes)}")
    print(f"{result.ir}/  the IR after every pass")
    print(f"next: mercer explain {result.file}")
    print(
        f"      mercer run {result.file} --input {result.file.parent}/test.npz --output {result.file.parent}/logits.npz"
    )
