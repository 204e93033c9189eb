"""Whole networks on images of 224 x 224, with random weights; their Mercer text stands in `models/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from benchmarks.cpu.workload import Form, Input, Weights, Workload

if TYPE_CHECKING:
    from torch import Tensor

MODELS = Path(__file__).parents[1] / "models"


def _bn(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.batch_norm(x, w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"], w[f"{name}.bias"])


def _conv(w: Weights, name: str, x: Tensor, stride: int = 1, groups: int = 1, pad: int | None = None) -> Tensor:
    weight = w[f"{name}.weight"]
    around = weight.shape[-1] // 2 if pad is None else pad
    return F.conv2d(x, weight, w.get(f"{name}.bias"), stride, around, groups=groups)


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def _ln(w: Weights, name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def _resnet18(w: Weights, x: Tensor) -> Tensor:
    x = F.max_pool2d(_bn(w, "stem_bn", _conv(w, "stem", x, 2)).relu(), 3, 2, 1)
    for i in range(4):
        for block in (f"stages.{i}.first", f"stages.{i}.second"):
            down = f"{block}.down.weight" in w
            stride = 2 if down else 1
            y = _bn(w, f"{block}.bn1", _conv(w, f"{block}.conv1", x, stride)).relu()
            y = _bn(w, f"{block}.bn2", _conv(w, f"{block}.conv2", y))
            x = _bn(w, f"{block}.down_bn", _conv(w, f"{block}.down", x, stride)) if down else x
            x = F.relu(x + y)
    return _linear(w, "head", x.mean((2, 3)))


def _mobilenet(w: Weights, x: Tensor) -> Tensor:
    x = F.relu6(_bn(w, "stem_bn", _conv(w, "stem", x, 2)))
    counts, strides = (1, 2, 3, 4, 3, 3, 1), (1, 2, 2, 2, 1, 2, 1)
    for i, (count, first) in enumerate(zip(counts, strides, strict=True)):
        for j in range(count):
            block = f"stages.{i}.blocks.{j}.block"
            stride, y = first if j == 0 else 1, x
            if f"{block}.widen.weight" in w:
                y = F.relu6(_bn(w, f"{block}.widen_bn", _conv(w, f"{block}.widen", y)))
            y = _conv(w, f"{block}.depthwise", y, stride, groups=y.shape[1])
            y = F.relu6(_bn(w, f"{block}.depthwise_bn", y))
            y = _bn(w, f"{block}.narrow_bn", _conv(w, f"{block}.narrow", y))
            x = x + y if x.shape == y.shape else y
    x = F.relu6(_bn(w, "last_bn", _conv(w, "last", x)))
    return _linear(w, "head", x.mean((2, 3)))


def _convnext(w: Weights, x: Tensor) -> Tensor:
    x = _ln(w, "stem_norm.norm", _conv(w, "stem", x, 4, pad=0).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    for i, depth in enumerate((3, 3, 9, 3)):
        if i:
            stage = f"stages.{i}"
            x = _ln(w, f"{stage}.down_norm.norm", x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            x = _conv(w, f"{stage}.down", x, 2, pad=0)
        for j in range(depth):
            block = f"stages.{i}.blocks.{j}.block"
            y = _conv(w, f"{block}.depthwise", x, groups=x.shape[1]).permute(0, 2, 3, 1)
            y = F.gelu(_linear(w, f"{block}.widen", _ln(w, f"{block}.norm", y)))
            x = x + (_linear(w, f"{block}.narrow", y) * w[f"{block}.gamma"]).permute(0, 3, 1, 2)
    return _linear(w, "head", _ln(w, "norm", x.mean((2, 3))))


def _unireplknet(w: Weights, x: Tensor) -> Tensor:
    x = F.gelu(_bn(w, "stem1_norm", _conv(w, "stem1", x, 2)))
    x = _bn(w, "stem2_norm", _conv(w, "stem2", x, 2))
    for i, depth in enumerate((2, 2, 6, 2)):
        if i:
            x = _bn(w, f"stages.{i}.down_norm", _conv(w, f"stages.{i}.down", x, 2))
        for j in range(depth):
            block = f"stages.{i}.blocks.{j}.block"
            y = _bn(w, f"{block}.norm", _conv(w, f"{block}.depthwise", x, groups=x.shape[1]))
            s = torch.sigmoid(_linear(w, f"{block}.excite", _linear(w, f"{block}.squeeze", y.mean((2, 3))).relu()))
            y = (y * s[:, :, None, None]).permute(0, 2, 3, 1)
            y = F.gelu(_linear(w, f"{block}.widen", y))
            power = torch.sqrt(y.square().sum((1, 2), keepdim=True))
            y = y * (1 + w[f"{block}.gamma"] * power / (power.mean(-1, keepdim=True) + 1e-6)) + w[f"{block}.beta"]
            x = x + _bn(w, f"{block}.narrow_norm", _linear(w, f"{block}.narrow", y).permute(0, 3, 1, 2))
    return _linear(w, "head", _ln(w, "norm", x.mean((2, 3)), 1e-5))


def _net(name: str, title: str, form: Form, batch: int) -> Workload:
    return Workload(
        name=name + (f"-b{batch}" if batch > 1 else ""),
        family="whole net",
        title=f"{title} 224²",
        source=(MODELS / f"{name}.mer").read_text(encoding="utf-8").replace("BATCH", str(batch)),
        inputs=(Input((batch, 3, 224, 224)),),
        forms={"plain": form},
        images=True,
        bar=1.2,
        quick=batch == 1 and name == "mobilenet",
    )


WORKLOADS = tuple(
    _net(name, title, form, batch)
    for batch in (1, 16)
    for name, title, form in (
        ("resnet18", "ResNet-18", _resnet18),
        ("mobilenet", "MobileNetV2", _mobilenet),
        ("convnext", "ConvNeXt-T", _convnext),
        ("unireplknet", "UniRepLKNet-like", _unireplknet),
    )
)
