"""Every layer of the standard library: parameter names, shapes and first values as torch.nn, results as an independent
formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercer.frontend.elaborate import elaborate, find_model
from mercer.frontend.library import default_library, load
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Graph
from mercer.ir.initializers import initialize
from mercer.ir.lower import lower
from mercer.ir.types import DType
from tests.operators.records.hash_grid import decoded, interpolated
from tests.operators.records.kernels import KERNELS, basis
from tests.operators.records.record import Array
from tests.operators.records.sampling import deform_v1, deform_v2, widened
from tests.operators.run import LIBRARY, largest_error

Formula = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class LayerRecord:
    """A use of a layer on inputs `x`, `y`, `z` of the given shapes, and its twin.

    The twin is a module of torch.nn, or the names and shapes of the parameters with a formula of (parameters, *inputs).
    """

    text: str
    shapes: tuple[tuple[int, ...], ...]
    twin: nn.Module | tuple[dict[str, tuple[int, ...]], Formula]
    dtype: str = "f32"

    @property
    def name(self) -> str:
        return self.text.partition("(")[0]


def siren(p: Mapping[str, Tensor], x: Tensor, omega: float, prefix: str = "") -> Tensor:
    for i in range(sum(name.startswith(f"{prefix}sine.") for name in p) // 2):
        x = torch.sin(omega * F.linear(x, p[f"{prefix}sine.{i}.weight"], p[f"{prefix}sine.{i}.bias"]))
    return F.linear(x, p[f"{prefix}linear.weight"], p[f"{prefix}linear.bias"])


def mlp(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    hidden = F.relu(F.linear(x, p["linear.0.weight"], p["linear.0.bias"]))
    hidden = F.relu(F.linear(hidden, p["linear.1.weight"], p["linear.1.bias"]))
    return F.linear(hidden, p["linear.2.weight"], p["linear.2.bias"])


def flex_conv(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Size 5, 3 channels to 4: the net at each position of the grid, times the window."""
    line = torch.linspace(-1, 1, 5, dtype=x.dtype)
    grid = torch.cartesian_prod(line, line)
    values = siren(p, grid, 10.0, "net.").reshape(5, 5, 4, 3).permute(2, 3, 0, 1)
    window = torch.exp(-(((grid - p["center"]) / p["deviation"]) ** 2).sum(-1) / 2).reshape(5, 5)
    return F.conv2d(x, values * window, p["bias"], padding=2)


def kernel_machine(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return F.linear(torch.exp(-0.05 * torch.cdist(x, p["centers"]) ** 2), p["weight"], p["bias"])


def gaussian_process(p: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Rasmussen and Williams 2006, equations 2.25 and 2.26, with the inverse."""
    cross = torch.exp(-0.5 * torch.cdist(x, p["inputs"]) ** 2)
    gram = torch.exp(-0.5 * torch.cdist(p["inputs"], p["inputs"]) ** 2) + 0.1 * torch.eye(
        len(p["inputs"]), dtype=x.dtype
    )
    inverse = torch.linalg.inv(gram)
    return cross @ inverse @ p["targets"], 1 - (cross @ inverse * cross).sum(1)


def rbf_field(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    scaled = (x[:, None] - p["centers"]) * p["precision"]
    return torch.exp(-(scaled**2).sum(-1) / 2) @ p["weight"].T


def kan(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    splines = torch.from_numpy(basis(x))
    weight = p["spline_weight"] * p["spline_scale"][..., None]
    return F.linear(F.silu(x), p["base_weight"]) + torch.einsum("odm,ndm->no", weight, splines)


def linears(*names: str, sizes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, d, o in zip(names, sizes, sizes[1:], strict=False):
        shapes |= {f"{name}.weight": (o, d), f"{name}.bias": (o,)}
    return shapes


IMAGE = (2, 4, 7, 6)
LAYERS = (
    LayerRecord("Dropout(x; 0.3)", (IMAGE,), nn.Dropout(0.3)),
    LayerRecord("PReLU(x)", (IMAGE,), nn.PReLU()),
    LayerRecord("PReLU(x; 4)", (IMAGE,), nn.PReLU(4)),
    LayerRecord("Linear(x; 30)", ((3, 20),), nn.Linear(20, 30)),
    LayerRecord("Linear(x; 5, bias = false)", ((2, 3, 4),), nn.Linear(4, 5, bias=False)),
    LayerRecord("Embedding(x; 50, 8)", ((2, 3),), nn.Embedding(50, 8), "i32"),
    LayerRecord("Conv1d(x; 5, 3, stride = 2)", ((2, 4, 9),), nn.Conv1d(4, 5, 3, 2)),
    LayerRecord("Conv2d(x; 16, 3, pad = 1)", (IMAGE,), nn.Conv2d(4, 16, 3, padding=1)),
    LayerRecord("Conv2d(x; 6, [3, 2], 2, 1, 1, 2, false)", (IMAGE,), nn.Conv2d(4, 6, (3, 2), 2, 1, 1, 2, False)),
    LayerRecord("Conv3d(x; 3, 2, dilation = 2)", ((1, 2, 4, 5, 4),), nn.Conv3d(2, 3, 2, dilation=2)),
    LayerRecord("ConvTranspose1d(x; 5, 3, stride = 2)", ((2, 4, 5),), nn.ConvTranspose1d(4, 5, 3, 2)),
    LayerRecord("ConvTranspose2d(x; 6, 3, 2, 1, 1, 2)", (IMAGE,), nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2)),
    LayerRecord("ConvTranspose3d(x; 3, 2)", ((1, 2, 3, 3, 2),), nn.ConvTranspose3d(2, 3, 2)),
    LayerRecord("BatchNorm(x)", (IMAGE,), nn.BatchNorm2d(4)),
    LayerRecord("BatchNorm(x; 1e-3, 0.2)", ((3, 5),), nn.BatchNorm1d(5, 1e-3, 0.2)),
    LayerRecord("LayerNorm(x)", ((2, 3, 5),), nn.LayerNorm(5)),
    LayerRecord("GroupNorm(x; 2)", (IMAGE,), nn.GroupNorm(2, 4)),
    LayerRecord("InstanceNorm(x)", (IMAGE,), nn.InstanceNorm2d(4, affine=True)),
    LayerRecord("RMSNorm(x; eps = 1e-6)", ((2, 3, 5),), nn.RMSNorm(5, 1e-6)),
    LayerRecord("Upsample(x)", (IMAGE,), nn.Upsample(scale_factor=2)),
    LayerRecord('Upsample(x; 3, "bilinear", true)', (IMAGE,), nn.Upsample(None, 3, "bilinear", True)),
    LayerRecord(
        "DeformConv2d(x, y, sigmoid(z); 5, 3, pad = 1)",
        (IMAGE, (2, 18, 7, 6), (2, 9, 7, 6)),
        (
            {"weight": (5, 4, 3, 3), "bias": (5,)},
            lambda p, x, y, z: deform_v2(x, y, torch.sigmoid(z), p["weight"], pad=1) + p["bias"][:, None, None],
        ),
    ),
    LayerRecord(
        "BoundedDeformConv2d(x, y; 5, 3, bound = 1, stride = 2, pad = 1)",
        (IMAGE, (2, 18, 4, 3)),
        (
            {"weight": (5, 4, 3, 3), "bias": (5,)},
            lambda p, x, y: deform_v1(x, y.clamp(-1, 1), p["weight"], stride=2, pad=1) + p["bias"][:, None, None],
        ),
    ),
    LayerRecord(
        "BoundedDeformConv2d(x, y; 4, 5, bound = 2, pad = 2, groups = 4, square = true, bias = false)",
        (IMAGE, (2, 1, 7, 6)),
        (
            {"weight": (4, 1, 5, 5)},
            lambda p, x, y: deform_v1(x, widened(y.clamp(-1, 1), 5), p["weight"], pad=2, groups=4),
        ),
    ),
    LayerRecord(
        "BoundedDeformConv2d(x, y; 4, [3, 2], 1, 1, [1, 0], offset_groups = 2, rounded = true, bias = false)",
        (IMAGE, (2, 24, 7, 5)),
        (
            {"weight": (4, 4, 3, 2)},
            lambda p, x, y: deform_v1(x, y.clamp(-1, 1).round(), p["weight"], pad=(1, 0), offset_groups=2),
        ),
    ),
    LayerRecord("MLP(x; 3, 8)", ((4, 5),), (linears(*(f"linear.{i}" for i in range(3)), sizes=(5, 8, 8, 3)), mlp)),
    LayerRecord(
        "Sine(x; 8, first = true)",
        ((4, 2),),
        ({"weight": (8, 2), "bias": (8,)}, lambda p, x: torch.sin(30 * F.linear(x, p["weight"], p["bias"]))),
    ),
    LayerRecord(
        "SIREN(x; 3, hidden = 8, depth = 2, omega = 20.0)",
        ((4, 2),),
        (linears("sine.0", "sine.1", "linear", sizes=(2, 8, 8, 3)), lambda p, x: siren(p, x, 20.0)),
    ),
    LayerRecord(
        "FlexConv2d(x; 4, size = 5)",
        ((2, 3, 7, 6),),
        (
            {
                "center": (2,),
                "deviation": (2,),
                **linears("net.sine.0", "net.sine.1", "net.linear", sizes=(2, 16, 16, 12)),
                "bias": (4,),
            },
            flex_conv,
        ),
    ),
    LayerRecord(
        "KernelMachine(x; 3, centers = 6)",
        ((5, 4),),
        ({"centers": (6, 4), "weight": (3, 6), "bias": (3,)}, kernel_machine),
    ),
    LayerRecord(
        "RandomFourierFeatures(x; 8)",
        ((5, 4),),
        (
            {"frequency": (8, 4), "phase": (8,)},
            lambda p, x: math.sqrt(2 / 8) * torch.cos(F.linear(x, p["frequency"], p["phase"])),
        ),
    ),
    LayerRecord(
        "KRRHead(x; 2, count = 6, kernel = gaussian(gamma = 0.5), ridge = 0.1)",
        ((4, 3),),
        ({"inputs": (6, 3), "targets": (6, 2)}, lambda p, x: gaussian_process(p, x)[0]),
    ),
    LayerRecord(
        "GaussianProcess(x; 2, count = 6, kernel = gaussian(gamma = 0.5), noise = 0.1)",
        ((4, 3),),
        ({"inputs": (6, 3), "targets": (6, 2)}, gaussian_process),
    ),
    LayerRecord(
        "RBFField(x; 3, count = 6)",
        ((5, 2),),
        ({"centers": (6, 2), "precision": (6, 2), "weight": (3, 6)}, rbf_field),
    ),
    LayerRecord(
        "HashGrid(x; levels = 3, size = 32, base = 4)",
        ((5, 2),),
        ({"table": (3, 32, 2)}, lambda p, x: interpolated(x, p["table"], 4)),
    ),
    LayerRecord(
        "HashGrid(x; levels = 2, size = 64, features = 4, base = 3, growth = 2.0, latents = 1)",
        ((5, 3),),
        (
            {"table": (2, 64, 1), "decoder": (2, 1, 4)},
            lambda p, x: decoded(interpolated(x, p["table"], 3, 2.0), p["decoder"]),
        ),
    ),
    LayerRecord(
        "KANLinear(x; 3)",
        ((5, 4),),
        ({"base_weight": (3, 4), "spline_weight": (3, 4, 8), "spline_scale": (3, 4)}, kan),
    ),
)


class SelfAttention(nn.Module):
    """MultiheadAttention of three inputs, with a causal mask when asked for."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(q.shape[1], dtype=q.dtype) if self.causal else None
        return self.attention(q, k, v, need_weights=False, attn_mask=mask)[0]


ATTENTION = (
    LayerRecord("MultiheadAttention(x, y, z; 2)", ((2, 3, 8), (2, 5, 8), (2, 5, 8)), SelfAttention(False)),
    LayerRecord("MultiheadAttention(x, y, z; 2, causal = true)", ((2, 4, 8),) * 3, SelfAttention(True)),
)
RECORDS = [pytest.param(record, id=record.text) for record in LAYERS + ATTENTION]


def graph_of(record: LayerRecord) -> Graph:
    types = (f"{record.dtype}[{', '.join(map(str, shape))}]" for shape in record.shapes)
    inputs = ", ".join(f"{name}: {type_}" for name, type_ in zip("xyz", types, strict=False))
    text = f"model Net({inputs}) {{ return {record.text} as layer }}"
    loaded = load(text, "layer.mer")
    return elaborate(default_library().extended(loaded.definitions), find_model(loaded.definitions, None, loaded.file))


def inputs_of(record: LayerRecord) -> dict[str, Array]:
    rng = np.random.default_rng(0)

    def array(shape: tuple[int, ...]) -> Array:
        if record.dtype == "i32":
            return rng.integers(0, 50, shape).astype(np.int32)
        return rng.standard_normal(shape).astype(np.float32)

    return {name: array(shape) for name, shape in zip("xyz", record.shapes, strict=False)}


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Without the counter of batch norm; MultiheadAttention is wrapped."""
    return {
        name.removeprefix("attention."): tensor
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("record", RECORDS)
def test_names_and_shapes(record: LayerRecord) -> None:
    declared = {
        p.name.removeprefix("layer."): tuple(d.value for d in p.type.shape) for p in graph_of(record).parameters
    }
    if isinstance(record.twin, nn.Module):
        wanted = {name: tuple(tensor.shape) for name, tensor in state_of(record.twin).items()}
        trainable = {name.removeprefix("attention.") for name, _ in record.twin.named_parameters()}
        assert trainable == {p.name.removeprefix("layer.") for p in graph_of(record).parameters if p.trainable}
    else:
        wanted = record.twin[0]
    assert declared == wanted


@pytest.mark.parametrize("record", RECORDS)
def test_result(record: LayerRecord) -> None:
    graph, inputs = graph_of(record), inputs_of(record)
    rng = np.random.default_rng(1)
    weights = {p.name: rng.uniform(0.1, 1.0, [d.value for d in p.type.shape]) for p in graph.parameters}
    results = evaluate(lower(graph, LIBRARY), inputs, weights, precision=DType.F64)
    state = {name.removeprefix("layer."): torch.from_numpy(array) for name, array in weights.items()}
    tensors = [torch.from_numpy(a).double() if a.dtype.kind == "f" else torch.from_numpy(a) for a in inputs.values()]
    with torch.no_grad():
        if isinstance(record.twin, nn.Module):
            prefix = "attention." if isinstance(record.twin, SelfAttention) else ""
            twin = record.twin.double().eval()
            twin.load_state_dict({prefix + name: value for name, value in state.items()}, strict=not has_counter(twin))
            wanted = twin(*tensors)
        else:
            wanted = record.twin[1](state, *tensors)
    for actual, expected in zip(results, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        assert largest_error(actual, expected.numpy()) <= 1e-9


def has_counter(module: nn.Module) -> bool:
    return any(name.endswith("num_batches_tracked") for name in module.state_dict())


@pytest.mark.parametrize("record", [r for r in LAYERS if isinstance(r.twin, nn.Module)], ids=lambda r: r.text)
def test_first_values_are_distributed_as_in_torch(record: LayerRecord) -> None:
    """Standard deviations within 15 % for the parameters of 400 elements or more; constants equal."""
    torch.manual_seed(0)
    assert isinstance(record.twin, nn.Module)
    fresh = record.twin
    for module in fresh.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
    state = state_of(fresh)
    for parameter in graph_of(record).parameters:
        ours = np.asarray(initialize(parameter, 0), np.float64)
        theirs = state[parameter.name.removeprefix("layer.")].double().numpy()
        if ours.size >= 400:
            assert ours.std() == pytest.approx(theirs.std(), rel=0.15)
        elif np.ptp(theirs) == 0:
            assert np.array_equal(ours, theirs)
        else:
            assert np.abs(ours).max() <= 2 * np.abs(theirs).max()


def test_every_layer_has_a_record() -> None:
    layers = {name for name in LIBRARY.names() if LIBRARY.definition(name).kind == "layer"}  # type: ignore[union-attr]
    assert {record.name for record in LAYERS + ATTENTION} == layers


COMPOSED = {"kernel_sum", "kernel_product", "kernel_scale", "warped"}
"""Kernels made of kernels, which the tests of the kernel algebra compare with formulas."""


def test_every_kernel_has_a_record() -> None:
    kernels = {name for name in LIBRARY.names() if LIBRARY.definition(name).kind == "kernel"}  # type: ignore[union-attr]
    assert set(KERNELS) | COMPOSED == kernels


def test_every_definition_is_documented() -> None:
    assert [name for name in LIBRARY.names() if not LIBRARY.definition(name).doc] == []  # type: ignore[union-attr]
