"""Convolution windows without their empty border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from mercer.ir.graph import AttributeValue
from mercer.ir.integers import IntExpr
from mercer.passes.calibration import Calibration
from mercer.passes.factorize.approximation import Approximation, Matrix, compute, known_array
from mercer.passes.factorize.convolutions import Convolution, convolution
from mercer.passes.ledger import Exactness
from mercer.passes.patterns import Match, node, value
from mercer.passes.rewrite import Builder, Outcome, Refusal, Rewrite


@dataclass(frozen=True)
class Crop(Approximation):
    """A convolution loses the taps at the border of its window that are at most `threshold` times the largest one.

    Masks make such borders: the Gaussian window of a continuous kernel, which makes its size differentiable (Romero et
    al. 2022, section 3.2). What the padding of the input loses on one side only becomes `pad_axis` or `slice_axis`. The
    taps that stay have their values, so that an output is off by at most the largest input times the sum of the dropped
    |taps|. Multiply-adds fall by the share of taps. Class: real for threshold = 0, otherwise approx, measured.
    """

    name: ClassVar[str] = "crop"
    source: ClassVar[str] = (
        "Romero et al. 2022, FlexConv: continuous kernel convolutions with differentiable kernel sizes"
    )
    threshold: float = 0.0

    def rewrites(self, calibration: Calibration) -> Sequence[Rewrite]:
        exactness = Exactness.APPROX if self.threshold > 0.0 else Exactness.REAL
        masked = node("flex_conv2d", value("x"), value("values"), value("center"), value("deviation"))
        return (
            Rewrite("crop_window", convolution(), self._crop_window, exactness),
            Rewrite("crop_masked_window", masked, self._crop_masked, exactness),
        )

    def _crop_window(self, match: Match, build: Builder) -> Outcome:
        found = Convolution.of(match)
        return found if isinstance(found, Refusal) else self._crop(found, build)

    def _crop_masked(self, match: Match, build: Builder) -> Outcome:
        """The kernel is drawn now."""
        operands: list[Matrix] = []
        for capture in ("values", "center", "deviation"):
            array = known_array(match, capture)
            if isinstance(array, Refusal):
                return array
            operands.append(array)
        weight = compute(build.library, "flex_kernel2d", operands)
        found = Convolution.over(match, "conv2d", weight, match.type("values").dtype)
        return found if isinstance(found, Refusal) else self._crop(found, build)

    def _crop(self, found: Convolution, build: Builder) -> Outcome:
        kept = window(found.weight, self.threshold)
        if all(len(span) == size for span, size in zip(kept, found.window, strict=True)):
            most = f"at most {self.threshold:g} of the largest" if self.threshold > 0.0 else "zero"
            return Refusal(f"no border of the window is {most}")
        x, pads = found.x, list(found.geometry.pad)
        for axis, (span, size) in enumerate(zip(kept, found.window, strict=True)):
            step = found.geometry.dilation[axis]
            before, after = pads[axis] - span.start * step, pads[axis] - (size - span.stop) * step
            pads[axis] = max(0, min(before, after))
            x = _moved(build, x, axis + 2, before - pads[axis], after - pads[axis])
        weight = found.weight[(..., *(slice(span.start, span.stop) for span in kept))]
        return found.build(build, x, weight, replace(found.geometry, pad=tuple(pads)), found.groups)


def window(weight: Matrix, threshold: float) -> list[range]:
    """For every spatial axis, the smallest range outside of which no tap exceeds its part of the largest one."""
    size = np.abs(weight).max(axis=(0, 1))
    large = size > threshold * size.max()
    spans: list[range] = []
    for axis in range(large.ndim):
        places = np.flatnonzero(large.any(axis=tuple(other for other in range(large.ndim) if other != axis)))
        spans.append(range(int(places[0]), int(places[-1]) + 1) if len(places) else range(1))
    return spans


def _moved(build: Builder, x: str, axis: int, before: int, after: int) -> str:
    """An axis with that many more zeros at its ends, or, where negative, with fewer elements."""
    if before < 0 or after < 0:
        extent = build.type(x).shape[axis]
        stop = extent + min(after, 0)
        x = build.node("slice_axis", (x,), {"axis": axis, "start": max(-before, 0), "stop": _number(stop)})
    if before > 0 or after > 0:
        x = build.node("pad_axis", (x,), {"axis": axis, "before": max(before, 0), "after": max(after, 0)})
    return x


def _number(value: IntExpr) -> AttributeValue:
    return value.value if value.is_constant else value
