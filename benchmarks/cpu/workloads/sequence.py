"""Attention without softmax, and a state space whose steps depend on the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.cpu.workload import Array, Input, Weights, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

HEADS, LENGTH, D = 8, 2048, 64


def _features(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """elu + 1 of q and k, heads first, and v with a column of ones, which sums the weights."""
    q, k, v = (F.elu(q) + 1).transpose(1, 2), (F.elu(k) + 1).transpose(1, 2), v.transpose(1, 2)
    return q, k, F.pad(v, (0, 1), value=1.0)


def _divided(y: Tensor) -> Tensor:
    return (y[..., :-1] / y[..., -1:]).transpose(1, 2)


def _whole(w: Weights, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    del w
    q, k, v = _features(q, k, v)
    return _divided(q @ (k.transpose(-1, -2) @ v))


def _masked(w: Weights, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    del w
    q, k, v = _features(q, k, v)
    return _divided((q @ k.transpose(-1, -2)).tril() @ v)


def _chunked(w: Weights, q: Tensor, k: Tensor, v: Tensor, chunk: int = 128) -> Tensor:
    """Quadratic within chunks; what came before a chunk is one state."""
    del w
    q, k, v = (x.unflatten(2, (LENGTH // chunk, chunk)) for x in _features(q, k, v))
    inside = (q @ k.transpose(-1, -2)).tril() @ v
    state = k.transpose(-1, -2) @ v
    before = state.cumsum(2) - state
    return _divided((inside + q @ before).flatten(2, 3))


def _linear_attention_onnx(w: Mapping[str, Array]) -> Any:
    """ONNX Runtime's operator on packed heads; its last value column sums the weights."""
    from benchmarks.cpu.onnx_graph import graph, node

    del w
    nodes = [
        node("Elu", "q", "q1"),
        node("Add", "q1 one", "q2"),
        node("Reshape", "q2 packed", "q3"),
        node("Elu", "k", "k1"),
        node("Add", "k1 one", "k2"),
        node("Reshape", "k2 packed", "k3"),
        node("Pad", "v column one", "v1"),
        node("Reshape", "v1 packed", "v2"),
        node("LinearAttention", "q3 k3 v2", "o1 state", "com.microsoft", q_num_heads=HEADS, kv_num_heads=HEADS,
             update_rule="linear", scale=1.0),
        node("Reshape", "o1 heads", "o2"),
        node("Split", "o2 parts", "sum mass", axis=3),
        node("Div", "sum mass", "y"),
    ]  # fmt: skip
    weights = {
        "one": np.float32(1),
        "packed": np.array([1, LENGTH, -1]),
        "column": np.array([0, 0, 0, 0, 0, 0, 0, 1]),
        "heads": np.array([1, LENGTH, HEADS, D + 1]),
        "parts": np.array([D, 1]),
    }
    shape = (1, LENGTH, HEADS, D)
    return graph(nodes, {k: np.asarray(x) for k, x in weights.items()}, dict.fromkeys("qkv", shape), {"y": shape})


_ELU = "op elu_feature(x: T[...]) -> T[...] { return y[...] = where(x[...] > 0, x[...] + 1, exp(min(x[...], 0))) }"
_QKV = f"f32[1, {LENGTH}, {HEADS}, {D}]"
_SIGNATURE = f"model Net(q: {_QKV}, k: {_QKV}, v: {_QKV}) -> {_QKV}"

FULL = f"""{_ELU}
op full_attention(q: T[n, l, g, d], k: T[n, s, g, d], v: T[n, s, g, e]) -> T[n, l, g, e] {{
  state[n, g, d, e] = sum[s] k[n, s, g, d] * v[n, s, g, e]
  mass[n, g, d] = sum[s] k[n, s, g, d]
  return o[n, l, g, e] = (sum[d] q[n, l, g, d]*state[n, g, d, e]) / (sum[d] q[n, l, g, d]*mass[n, g, d])
}}
{_SIGNATURE} {{ return full_attention(elu_feature(q), elu_feature(k), v) }}"""

MASKED = f"""{_ELU}
op parallel_attention(q: T[n, l, g, d], k: T[n, s, g, d], v: T[n, s, g, e]) -> T[n, l, g, e] {{
  score[n, g, l, s] = where(s <= l, sum[d] q[n, l, g, d] * k[n, s, g, d], 0)
  return o[n, l, g, e] = (sum[s] score[n, g, l, s]*v[n, s, g, e]) / (sum[s] score[n, g, l, s])
}}
{_SIGNATURE} {{ return parallel_attention(elu_feature(q), elu_feature(k), v) }}"""

RECURRENT = f"""{_ELU}
op recurrent_attention(q: T[n, l, g, d], k: T[n, l, g, d], v: T[n, l, g, e]) -> T[n, l, g, e] {{
  scan t < l {{
    carry state[n, g, d, e] = 0
    carry mass[n, g, d] = 0
    state[n, g, d, e] = state[n, g, d, e] + k[n, t, g, d] * v[n, t, g, e]
    mass[n, g, d] = mass[n, g, d] + k[n, t, g, d]
    emit o[n, t, g, e] = (sum[d] q[n, t, g, d]*state[n, g, d, e]) / (sum[d] q[n, t, g, d]*mass[n, g, d])
  }}
  return o
}}
{_SIGNATURE} {{ return recurrent_attention(elu_feature(q), elu_feature(k), v) }}"""


def _linear_attention(name: str, title: str, source: str, causal: bool) -> Workload:
    return Workload(
        name=name,
        family="linear attention",
        title=f"linear attention {title}, {HEADS} heads {LENGTH}×{D}",
        source=source,
        inputs=(Input((1, LENGTH, HEADS, D)),) * 3,
        forms={"chunked": _chunked, "masked": _masked} if causal else {"plain": _whole},
        reference="masked" if causal else None,
        onnx=_linear_attention_onnx if causal else None,
        flops=4.0 * HEADS * LENGTH * D * (D + 1),
        bar=2.5,
        quick=name == "linear-attention-causal",
    )


# --- state spaces -----------------------------------------------------------------------------------------------------

CHANNELS, STATES = 64, 16


def _doubling(a: Tensor, b: Tensor) -> Tensor:
    """h[t] = a[t] h[t - 1] + b[t] along the first axis by recursive doubling."""
    step = 1
    while step < a.shape[0]:
        b = torch.cat((b[:step], b[step:] + a[step:] * b[:-step]))
        a = torch.cat((a[:step], a[step:] * a[:-step]))
        step *= 2
    return b


def _blocks(a: Tensor, b: Tensor, chunk: int = 32) -> Tensor:
    """The same step by step within chunks, all chunks at once; then chunk by chunk."""
    a, b = a.unflatten(0, (-1, chunk)), b.unflatten(0, (-1, chunk))
    decays, values = [a[:, 0]], [b[:, 0]]
    for t in range(1, chunk):
        decays.append(decays[-1] * a[:, t])
        values.append(torch.addcmul(b[:, t], a[:, t], values[-1]))
    state, before = torch.zeros_like(b[0, 0]), []
    for c in range(a.shape[0]):
        before.append(state)
        state = torch.addcmul(values[-1][c], decays[-1][c], state)
    h = torch.stack(values, 1) + torch.stack(decays, 1) * torch.stack(before).unsqueeze(1)
    return h.flatten(0, 1)


def _selective(scan: Any) -> Any:
    def form(w: Weights, x: Tensor, delta: Tensor, b: Tensor, c: Tensor) -> Tensor:
        decay = torch.exp(delta[0].unsqueeze(-1) * w["a"])
        drive = (delta[0] * x[0]).unsqueeze(-1) * b[0].unsqueeze(1)
        return ((scan(decay, drive) * c[0].unsqueeze(1)).sum(-1) + w["skip"] * x[0]).unsqueeze(0)

    return form


def _scan_onnx(w: Mapping[str, Array]) -> Any:
    """The recurrence as ONNX's own Scan."""
    from onnx import TensorProto, helper

    from benchmarks.cpu.onnx_graph import graph, node

    def value(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    body = helper.make_graph(
        [
            node("Mul", "decay h0", "kept"),
            node("Add", "kept drive", "h1"),
            node("MatMul", "h1 ct", "y1"),
        ],
        "step",
        [
            value("h0", CHANNELS, STATES),
            value("decay", CHANNELS, STATES),
            value("drive", CHANNELS, STATES),
            value("ct", STATES),
        ],
        [value("h1", CHANNELS, STATES), value("y1", CHANNELS)],
    )
    nodes = [
        node("Squeeze", "x first", "xs"),
        node("Squeeze", "delta first", "ds"),
        node("Squeeze", "b first", "bs"),
        node("Squeeze", "c first", "cs"),
        node("Unsqueeze", "ds last", "d3"),
        node("Mul", "d3 a", "rate"),
        node("Exp", "rate", "decays"),
        node("Mul", "ds xs", "dx"),
        node("Unsqueeze", "dx last", "dx3"),
        node("Unsqueeze", "bs middle", "b3"),
        node("Mul", "dx3 b3", "drives"),
        node("Scan", "zero decays drives cs", "end ys", body=body, num_scan_inputs=3),
        node("Mul", "xs skip", "direct"),
        node("Add", "ys direct", "sum"),
        node("Unsqueeze", "sum first", "y"),
    ]
    extra = {
        "first": np.array([0]),
        "middle": np.array([1]),
        "last": np.array([2]),
        "zero": np.zeros((CHANNELS, STATES), np.float32),
    }
    wide, narrow = (1, LENGTH, CHANNELS), (1, LENGTH, STATES)
    return graph(nodes, {**w, **extra}, {"x": wide, "delta": wide, "b": narrow, "c": narrow}, {"y": wide})


def _selective_scan() -> Workload:
    wide, narrow = f"f32[1, {LENGTH}, {CHANNELS}]", f"f32[1, {LENGTH}, {STATES}]"
    return Workload(
        name="selective-scan",
        family="state space",
        title=f"selective scan L={LENGTH} {CHANNELS}ch {STATES} states",
        source=f"""model Net(x: {wide}, delta: {wide}, b: {narrow}, c: {narrow}) -> {wide} {{
  param a: f32[{CHANNELS}, {STATES}] = uniform(-2, -0.1)
  param skip: f32[{CHANNELS}] = normal(0, 1)
  return selective_scan(x, delta, a, b, c, skip)
}}""",
        inputs=(
            Input((1, LENGTH, CHANNELS)),
            Input((1, LENGTH, CHANNELS), between=(0.001, 0.1)),
            Input((1, LENGTH, STATES)),
            Input((1, LENGTH, STATES)),
        ),
        forms={"doubling": _selective(_doubling), "blocks": _selective(_blocks)},
        onnx=_scan_onnx,
        flops=LENGTH * CHANNELS * (7.0 * STATES + 2),
        quick=True,
    )


WORKLOADS = (
    _linear_attention("linear-attention", "", FULL, causal=False),
    _linear_attention("linear-attention-causal", "causal, as a recurrence", RECURRENT, causal=True),
    _linear_attention("linear-attention-masked", "causal, as a masked product", MASKED, causal=True),
    _selective_scan(),
)
