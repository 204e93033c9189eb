"""What is measured: a computation in Mercer's language and the same computation as a PyTorch user writes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
Weights = Mapping[str, "Tensor"]
Form = Callable[..., "Tensor"]
"""`form(weights, *inputs)`: plain PyTorch; weights are named as in Mercer's state_dict."""

FFT = "fft"
"""Forms whose names begin so stand in the column `torch.fft`."""


@dataclass(frozen=True)
class Input:
    """A float32 input of normal numbers times `scale`, or uniform ones in `between`."""

    shape: tuple[int, ...]
    scale: float = 1.0
    between: tuple[float, float] | None = None

    def draw(self, generator: np.random.Generator) -> Array:
        if self.between is None:
            return (self.scale * generator.standard_normal(self.shape)).astype(np.float32)
        return generator.uniform(*self.between, self.shape).astype(np.float32)


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    `forms` are equal over the reals; the `reference` one, by default the first, gives in float64 what all results are
    compared with: `tolerance` bounds max |y - reference| / max |reference|. `flops` is what the plain algorithm takes,
    without transcendental functions; without it products and convolutions are counted as PyTorch does.
    `values()` are weights that are not random. `derived(weights)` adds what a user would compute once, such as the
    spectrum of a filter. `onnx(weights)` is a graph for engines, with operators that PyTorch's exporter does not use.
    `images` says that 4-D tensors are images in NCHW, `bar` which speed against the best peer is asked for.
    """

    name: str
    family: str
    title: str
    source: str
    inputs: tuple[Input, ...]
    forms: Mapping[str, Form]
    flops: float | None = None
    values: Callable[[], Mapping[str, Array]] | None = None
    derived: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None
    onnx: Callable[[Mapping[str, Array]], Any] | None = None
    bar: float = 1.0
    tolerance: float = 1e-4
    reference: str | None = None
    images: bool = False
    quick: bool = False

    @property
    def judge(self) -> Form:
        """The form whose result in float64 all others are compared with."""
        return self.forms[self.reference or next(iter(self.forms))]

    @property
    def batch(self) -> int:
        """Large batches come last in the table."""
        return 16 if self.name.endswith("-b16") else 1

    def arrays(self) -> tuple[Array, ...]:
        generator = np.random.default_rng(1)
        return tuple(item.draw(generator) for item in self.inputs)


def random_weights(initial: Mapping[str, Array]) -> dict[str, Array]:
    """Initial values, with statistics and other constant tensors moved so that no factor is a trivial 0 or 1."""
    generator = np.random.default_rng(2)

    def moved(array: Array) -> Array:
        if array.size < 2 or array.dtype.kind != "f" or np.ptp(array) > 0:
            return array
        value = array.flat[0]
        drawn = value * generator.uniform(0.8, 1.2, array.shape) if value else generator.normal(0, 0.1, array.shape)
        return drawn.astype(array.dtype)

    return {name: moved(np.asarray(array)) for name, array in initial.items()}


def fft_flops(length: int) -> float:
    """Of a complex transform: 5 n log2 n."""
    return 5 * length * math.log2(length)
