"""Dense convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

from benchmarks.cpu.workload import Input, Weights, Workload

if TYPE_CHECKING:
    from torch import Tensor


def _conv(size: int, c: int, out: int, k: int, stride: int = 1, batch: int = 1) -> Workload:
    def plain(w: Weights, x: Tensor) -> Tensor:
        return F.conv2d(x, w["conv.weight"], w["conv.bias"], stride=stride, padding=k // 2)

    after = size // stride
    return Workload(
        name=f"conv{k}x{k}-{c}-{out}-{size}" + (f"-b{batch}" if batch > 1 else ""),
        family="convolution",
        title=f"conv {k}×{k} {c}→{out} {size}²" + (f" stride {stride}" if stride > 1 else ""),
        source=f"""model Net(x: f32[{batch}, {c}, {size}, {size}]) -> f32[{batch}, {out}, {after}, {after}] {{
  return Conv2d(x; {out}, {k}, stride = {stride}, pad = {k // 2}) as conv
}}""",
        inputs=(Input((batch, c, size, size)),),
        forms={"plain": plain},
        images=True,
        bar=0.97,
        quick=batch == 1 and c == 64 and k == 3,
    )


WORKLOADS = tuple(
    _conv(size, c, out, k, stride, batch)
    for batch in (1, 16)
    for size, c, out, k, stride in (
        (56, 64, 64, 3, 1),
        (56, 64, 64, 1, 1),
        (14, 256, 256, 3, 1),
        (14, 256, 256, 1, 1),
        (224, 3, 32, 3, 2),
    )
)
