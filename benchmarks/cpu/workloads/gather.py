"""Reading between pixels, at places that depend on the data."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.cpu.workload import Array, Input, Weights, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

C, SIZE = 64, 56


def _places(offset: Tensor, k: int, size: int) -> Tensor:
    """A grid for grid_sample of taps t of a k x k window at all positions: [n, t*h, w, 2] from [n, 2*t, h, w]."""
    n = offset.shape[0]
    tap = torch.arange(k, dtype=offset.dtype) - (k // 2)
    place = torch.arange(size, dtype=offset.dtype)
    offset = offset.reshape(n, k, k, 2, size, size)
    u = offset[:, :, :, 0] + tap.view(k, 1, 1, 1) + place.view(size, 1)
    v = offset[:, :, :, 1] + tap.view(k, 1, 1) + place
    return (torch.stack((v, u), -1).reshape(n, k * k * size, size, 2) * 2 + 1) / size - 1


def _dcnv2(batch: int) -> Workload:
    def plain(w: Weights, x: Tensor) -> Tensor:
        branch = F.conv2d(x, w["branch.weight"], w["branch.bias"], padding=1)
        grid = _places(branch[:, :18], 3, SIZE)
        taps = F.grid_sample(x, grid, align_corners=False).view(batch, C, 9, SIZE, SIZE)
        taps = taps * torch.sigmoid(branch[:, 18:]).unsqueeze(1)
        y = torch.matmul(w["deform.weight"].flatten(1), taps.view(batch, C * 9, SIZE * SIZE))
        return y.view(batch, C, SIZE, SIZE) + w["deform.bias"].view(C, 1, 1)

    def onnx(w: Mapping[str, Array]) -> Any:
        from benchmarks.cpu.onnx_graph import graph, node

        nodes = [
            node("Conv", "x branch.weight branch.bias", "branch", pads=[1, 1, 1, 1]),
            node("Split", "branch parts", "offset logits", axis=1),
            node("Sigmoid", "logits", "mask"),
            node("DeformConv", "x deform.weight offset deform.bias mask", "y", pads=[1, 1, 1, 1]),
        ]
        weights = {**w, "parts": np.array([18, 9])}
        return graph(nodes, weights, {"x": (batch, C, SIZE, SIZE)}, {"y": (batch, C, SIZE, SIZE)})

    return Workload(
        name="dcnv2" + (f"-b{batch}" if batch > 1 else ""),
        family="deformable",
        title=f"DCNv2 3×3 {C}→{C} {SIZE}², with its offset convolution",
        source=f"""model Net(x: f32[{batch}, {C}, {SIZE}, {SIZE}]) -> f32[{batch}, {C}, {SIZE}, {SIZE}] {{
  branch = Conv2d(x; 27, 3, pad = 1) as branch
  return DeformConv2d(x, branch[:, :18], sigmoid(branch[:, 18:]); {C}, 3, pad = 1) as deform
}}""",
        inputs=(Input((batch, C, SIZE, SIZE)),),
        forms={"plain": plain},
        onnx=onnx,
        images=True,
        flops=2.0 * batch * SIZE * SIZE * 9 * C * (27 + C + 4),
        bar=2.5,
        quick=batch == 1,
    )


def _dcnv4(batch: int, groups: int = 4) -> Workload:
    share = C // groups

    def plain(w: Weights, x: Tensor) -> Tensor:
        branch = F.linear(x, w["offset_mask.weight"], w["offset_mask.bias"]).view(batch, SIZE, SIZE, groups, 27)
        value = F.linear(x, w["value.weight"], w["value.bias"]).permute(0, 3, 1, 2)
        branch = branch.permute(0, 3, 4, 1, 2).reshape(batch * groups, 27, SIZE, SIZE)
        grid = _places(branch[:, :18], 3, SIZE)
        taps = F.grid_sample(value.reshape(batch * groups, share, SIZE, SIZE), grid, align_corners=False)
        y = (taps.view(batch * groups, share, 9, SIZE, SIZE) * branch[:, 18:].unsqueeze(1)).sum(2)
        y = y.view(batch, C, SIZE, SIZE).permute(0, 2, 3, 1)
        return F.linear(y, w["out.weight"], w["out.bias"])

    return Workload(
        name="dcnv4" + (f"-b{batch}" if batch > 1 else ""),
        family="deformable",
        title=f"DCNv4 layer {C}ch {SIZE}², {groups} groups",
        source=f"""op deform_aggregate(v: T[n, h, w, c], branch: T[n, h, w, b]; groups, k = 3) -> T[n, h, w, c] {{
  let taps = k*k
  let size = c/groups
  image[n, c, h, w] = v[n, h, w, c]
  row[n, h, w, g < groups, t < taps] = h + t/k - k/2 + branch[n, h, w, 3*g*taps + 2*t]
  column[n, h, w, g < groups, t < taps] = w + t % k - k/2 + branch[n, h, w, 3*g*taps + 2*t + 1]
  mask[n, h, w, g < groups, t < taps] = branch[n, h, w, 3*g*taps + 2*taps + t]
  return y[n, h, w, c] = sum[t < taps] mask[n, h, w, c/size, t] *
    bilinear(image[n, c], row[n, h, w, c/size, t], column[n, h, w, c/size, t]; pad = 0)
}}
model Net(x: f32[{batch}, {SIZE}, {SIZE}, {C}]) -> f32[{batch}, {SIZE}, {SIZE}, {C}] {{
  branch = Linear(x; {27 * groups}) as offset_mask
  return x |> Linear({C}) as value |> deform_aggregate(branch; {groups}) |> Linear({C}) as out
}}""",
        inputs=(Input((batch, SIZE, SIZE, C)),),
        forms={"plain": plain},
        flops=2.0 * batch * SIZE * SIZE * C * (27 * groups + 2 * C + 9 * 5),
        bar=2.5,
    )


INTERNIMAGE = """op deform_sample(x: T[n, c, h, w], offset: T[n, h, w, b], mask: T[n, h, w, groups, taps];
                 k = 3) -> T[n, h, w, c] {
  require taps == k*k and b == 2*groups*taps, "{b} offsets and {taps} taps do not fit a window of {k} x {k}"
  let share = c/groups
  shift[n, b, h, w] = offset[n, h, w, b]
  s = deform_unfold(x, shift; k, pad = k/2, offset_groups = groups)
  return y[n, h, w, c] = sum[i < k, j < k] mask[n, h, w, c/share, i*k + j] * s[n, c, i, j, h, w]
}
layer DCNv3(x: T[n, h, w, c]; groups, k = 3) {
  value = Linear(x; c) as input |> permute(dims = [0, 3, 1, 2])
  z = x |> permute(dims = [0, 3, 1, 2]) |> Conv2d(c, k, pad = k/2, groups = c) as depthwise
  z = z |> permute(dims = [0, 2, 3, 1]) |> LayerNorm as norm |> gelu
  offset = Linear(z; 2*groups*k*k) as offset
  mask = Linear(z; groups*k*k) as mask |> reshape(shape = [n, h, w, groups, k*k]) |> softmax
  return Linear(deform_sample(value, offset, mask; k); c) as output
}
model Net(x: f32[BATCH, SIZE, SIZE, WIDTH]) -> f32[BATCH, SIZE, SIZE, WIDTH] {
  param gamma1: f32[WIDTH] = constant(0.5)
  param gamma2: f32[WIDTH] = constant(0.5)
  h = x + gamma1 * (x |> LayerNorm as norm1 |> DCNv3(GROUPS) as dcn)
  return h + gamma2 * (h |> LayerNorm as norm2 |> Linear(4*WIDTH) as fc1 |> gelu |> Linear(WIDTH) as fc2)
}"""


def _internimage(batch: int, groups: int = 4) -> Workload:
    share = C // groups
    sizes = {"BATCH": batch, "SIZE": SIZE, "WIDTH": C, "GROUPS": groups}
    source = functools.reduce(lambda text, item: text.replace(item[0], str(item[1])), sizes.items(), INTERNIMAGE)

    def linear(w: Weights, name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(w: Weights, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (C,), w[f"{name}.weight"], w[f"{name}.bias"])

    def dcn(w: Weights, x: Tensor) -> Tensor:
        value = linear(w, "dcn.input", x).permute(0, 3, 1, 2)
        z = F.conv2d(x.permute(0, 3, 1, 2), w["dcn.depthwise.weight"], w["dcn.depthwise.bias"], padding=1, groups=C)
        z = F.gelu(norm(w, "dcn.norm", z.permute(0, 2, 3, 1)))
        offset = linear(w, "dcn.offset", z).permute(0, 3, 1, 2)
        mask = linear(w, "dcn.mask", z).view(batch, SIZE, SIZE, groups, 9).softmax(-1).permute(0, 3, 4, 1, 2)
        grid = _places(offset.reshape(batch * groups, 18, SIZE, SIZE), 3, SIZE)
        image = value.reshape(batch * groups, share, SIZE, SIZE)
        taps = F.grid_sample(image, grid, align_corners=False).view(batch, groups, share, 9, SIZE, SIZE)
        y = (taps * mask.unsqueeze(2)).sum(3).view(batch, C, SIZE, SIZE)
        return linear(w, "dcn.output", y.permute(0, 2, 3, 1))

    def plain(w: Weights, x: Tensor) -> Tensor:
        x = x + w["gamma1"] * dcn(w, norm(w, "norm1", x))
        return x + w["gamma2"] * linear(w, "fc2", F.gelu(linear(w, "fc1", norm(w, "norm2", x))))

    return Workload(
        name="internimage" + (f"-b{batch}" if batch > 1 else ""),
        family="deformable",
        title=f"InternImage block {C}ch {SIZE}², {groups} groups",
        source=source,
        inputs=(Input((batch, SIZE, SIZE, C)),),
        forms={"plain": plain},
        flops=2.0 * batch * SIZE * SIZE * C * (10 * C + 27 * groups + 9 + 9 * 5),
        bar=2.5,
    )


def _grid_sample(batch: int) -> Workload:
    def plain(w: Weights, x: Tensor, grid: Tensor) -> Tensor:
        del w
        return F.grid_sample(x, grid, align_corners=False)

    image = f"f32[{batch}, {C}, {SIZE}, {SIZE}]"
    return Workload(
        name="grid-sample" + (f"-b{batch}" if batch > 1 else ""),
        family="deformable",
        title=f"grid_sample {C}ch {SIZE}²",
        source=f"""model Net(x: {image}, grid: f32[{batch}, {SIZE}, {SIZE}, 2]) -> {image} {{
  return grid_sample(x, grid)
}}""",
        inputs=(
            Input((batch, C, SIZE, SIZE)),
            Input((batch, SIZE, SIZE, 2), between=(-1.1, 1.1)),
        ),
        forms={"plain": plain},
        images=True,
        flops=2.0 * batch * SIZE * SIZE * C * 4,
    )


WORKLOADS = (
    _dcnv2(1),
    _dcnv2(16),
    _dcnv4(1),
    _dcnv4(16),
    _internimage(1),
    _internimage(16),
    _grid_sample(1),
    _grid_sample(16),
)
