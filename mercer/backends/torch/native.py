"""Operators of the standard library that PyTorch has: their calls, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mercer.backends.torch.functions import OPERATORS, literal
from mercer.ir.graph import AttributeValue
from mercer.ir.integers import IntExpr
from mercer.ir.types import DType, TensorType


@dataclass(frozen=True)
class Site:
    """A use of an operator: its operands as Python expressions, their types, and its attributes, all filled in.

    `numbers` tells which operands are Python numbers, `buffers` which are buffers of the module that it may update.
    `extent` writes an integer expression of dims.
    """

    operands: tuple[str, ...]
    types: tuple[TensorType, ...]
    result: TensorType
    attributes: Mapping[str, AttributeValue]
    numbers: tuple[bool, ...]
    buffers: tuple[bool, ...]
    extent: Callable[[IntExpr], str]

    def axis(self, name: str = "axis", rank: int | None = None) -> int:
        """An axis attribute, counted from the front."""
        value = self.attributes[name]
        assert isinstance(value, int)
        return value % (self.types[0].rank if rank is None else rank)

    def text(self, value: AttributeValue) -> str:
        """An attribute as Python writes it."""
        match value:
            case tuple():
                inner = ", ".join(map(self.text, value))
                return f"({inner},)" if len(value) == 1 else f"({inner})"
            case IntExpr():
                return self.extent(value)
            case str():
                return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
            case _:
                return literal(value)


def _floating(site: Site) -> bool:
    return all(type.dtype.is_float for type in site.types)


def _inexact(site: Site) -> bool:
    return all(type.dtype.rounds for type in site.types)


@dataclass(frozen=True)
class Native:
    """A call: `{0}`, `{1}`, … are operands, `{name}` attributes; `keywords` are written where they are not the default.

    `{channels}` and `{last}` are the extents of the second and of the last axis of the first operand.

    `when` tells whether the call means the same as the operator's definition.
    """

    template: str
    keywords: Mapping[str, tuple[str, AttributeValue]] = field(default_factory=dict[str, "tuple[str, AttributeValue]"])
    when: Callable[[Site], bool] = _floating
    numbers: bool = False

    def write(self, site: Site) -> str | None:
        if any(site.numbers) and (not self.numbers or all(site.numbers)):
            return None
        if not self.when(site):
            return None
        attributes = {name: site.text(value) for name, value in site.attributes.items()}
        keywords = "".join(
            f", {keyword}={attributes[name]}"
            for keyword, (name, default) in self.keywords.items()
            if site.attributes[name] != default
        )
        shape = site.types[0].shape
        extents = {"last": shape[-1:], "channels": shape[1:2]}
        attributes |= {name: site.extent(extent) for name, found in extents.items() for extent in found}
        text = self.template.format(*site.operands, **attributes)
        return f"{text[:-1]}{keywords})".replace("(, ", "(") if keywords else text


def _infix(operator: str) -> Native:
    return Native(f"{{0}} {operator} {{1}}", when=lambda site: True, numbers=True)


def _each(make: Callable[[str], Native], names: str) -> dict[str, Native]:
    return {name: make(name) for name in names.split()}


def _torch(name: str) -> Native:
    return Native(f"torch.{name}({{0}})")


def _functional(name: str) -> Native:
    return Native(f"F.{name}({{0}})")


_CONVOLVED = {"stride": ("stride", 1), "padding": ("pad", 0), "dilation": ("dilation", 1), "groups": ("groups", 1)}


def _convolution(name: str) -> Native:
    return Native(f"F.{name}({{0}}, {{1}})", _CONVOLVED)


def _transposed(name: str) -> Native:
    keywords = {
        "stride": ("stride", 1),
        "padding": ("pad", 0),
        "output_padding": ("output_pad", 0),
        "groups": ("groups", 1),
        "dilation": ("dilation", 1),
    }
    return Native(f"F.{name}({{0}}, {{1}})", keywords)


def _convolution_gradient(name: str) -> Callable[[Site], str | None]:
    """PyTorch's own gradients of a convolution: with respect to its input and its weight."""

    def rule(site: Site) -> str | None:
        wrt, (input_type, _, cotangent) = site.attributes["wrt"], site.types
        if wrt not in ((0,), (1,)) or cotangent.rank != input_type.rank:
            return None
        call = "input({0}.shape, {1}, {2})" if wrt == (0,) else "weight({0}, {1}.shape, {2})"
        return Native(f"torch.nn.grad.{name}_{call}", _CONVOLVED).write(site)

    return rule


def _max_pool(name: str) -> Native:
    return Native(
        f"F.{name}({{0}}, {{k}})", {"stride": ("stride", None), "padding": ("pad", 0), "dilation": ("dilation", 1)}
    )


def _avg_pool(name: str) -> Native:
    keywords = {"stride": ("stride", None), "padding": ("pad", 0), "count_include_pad": ("count_include_pad", True)}
    return Native(f"F.{name}({{0}}, {{k}})", keywords)


def _reduction(template: str) -> Native:
    return Native(template, {"keepdim": ("keepdim", False)}, _inexact)


def _any_type(template: str, when: Callable[[Site], bool] = lambda site: True) -> Native:
    return Native(template, when=when)


# --- calls that need more than a template -----------------------------------------------------------------------------


def _batch_norm(site: Site) -> str | None:
    """Statistics of the batch in training, which needs running ones that can be updated."""
    if any(site.numbers) or not _floating(site):
        return None
    x, mean, var, weight, bias = site.operands
    training = "self.training" if site.buffers[1] and site.buffers[2] else "False"
    momentum, eps = site.text(site.attributes["momentum"]), site.text(site.attributes["eps"])
    return f"F.batch_norm({x}, {mean}, {var}, {weight}, {bias}, {training}, {momentum}, {eps})"


def _bias_add(site: Site) -> str | None:
    if any(site.numbers):
        return None
    x, bias = site.operands
    return f"{x} + {bias}" + ("[:" + ", None" * (site.types[0].rank - 2) + "]" if site.types[0].rank > 2 else "")


def _reshape(site: Site) -> str | None:
    if any(site.numbers):
        return None
    symbolic = [extent for extent in site.result.shape if not extent.is_constant]
    fixed_size = all(extent in symbolic or extent.value > 0 for extent in site.result.shape)
    shape = ["-1" if len(symbolic) == 1 and e in symbolic and fixed_size else site.extent(e) for e in site.result.shape]
    return f"{site.operands[0]}.reshape({', '.join(shape) or '()'})"


def _expand(site: Site) -> str | None:
    if any(site.numbers):
        return None
    return f"{site.operands[0]}.expand({', '.join(map(site.extent, site.result.shape))})"


def _subscript(site: Site, item: str) -> str | None:
    if any(site.numbers):
        return None
    return f"{site.operands[0]}[{':, ' * site.axis()}{item}]"


def _slice_axis(site: Site) -> str | None:
    start, stop, step = (site.attributes[name] for name in ("start", "stop", "step"))
    extent = site.types[0].shape[site.axis()]
    whole = stop == extent or (extent.is_constant and stop == extent.value)
    low, high = "" if start == 0 else site.text(start), "" if whole else site.text(stop)
    return _subscript(site, f"{low}:{high}" + (f":{site.text(step)}" if step != 1 else ""))


def _select(site: Site) -> str | None:
    return _subscript(site, site.text(site.attributes["index"]))


def _unsqueeze(site: Site) -> str | None:
    return None if any(site.numbers) else f"{site.operands[0]}.unsqueeze({site.axis(rank=site.result.rank)})"


def _never_empty(site: Site) -> bool:
    """PyTorch has no largest element of nothing."""
    extent = site.types[0].shape[site.axis()]
    return _floating(site) and extent.is_constant and extent.value > 0


def _quantize(site: Site) -> str | None:
    """On CUDA PyTorch multiplies by the reciprocal of a Python number, but divides by a tensor."""
    if any(site.numbers):
        return None
    x, zero = site.operands[0], site.attributes["zero"]
    scale, low, high = (site.text(site.attributes[name]) for name in ("scale", "low", "high"))
    code = f"({x} / {x}.new_tensor({scale})).round()"
    code = f"({code} + {site.text(zero)})" if zero != 0 else code
    return f"{code}.nan_to_num(nan={low}).clamp({low}, {high}).to(torch.int8)"


def _same_leading(site: Site) -> bool:
    return _floating(site) and len({type.shape[:-2] for type in site.types}) == 1


def _integer_index(position: int) -> Callable[[Site], bool]:
    return lambda site: site.types[position].dtype in (DType.I32, DType.I64)


Rule = Callable[[Site], "str | None"]

NATIVE: dict[str, Native | Rule] = {
    # arithmetic
    **{n: _infix(operator) for n, (operator, _) in OPERATORS.items() if n not in ("and", "or", "xor", "floordiv")},
    "floor_divide": _infix("//"),
    "logical_and": _any_type("{0} & {1}"),
    "logical_or": _any_type("{0} | {1}"),
    "logical_not": _any_type("~{0}"),
    "neg": Native("-{0}", when=_inexact),
    **_each(_torch, "sign floor ceil round trunc square reciprocal sqrt rsqrt expm1 log log1p erf sigmoid"),
    **_each(lambda name: Native(f"torch.{name}({{0}})", when=_inexact), "abs exp real imag angle"),
    "conj": _any_type("torch.conj_physical({0})"),
    "complex": _any_type("torch.complex({0}, {1})"),
    **_each(_torch, "sin cos tan asin acos atan sinh cosh tanh"),
    **_each(lambda name: _any_type(f"torch.{name}({{0}}, {{1}})"), "maximum minimum atan2"),
    "where": _any_type("torch.where({0}, {1}, {2})"),
    "clamp": Native("{0}.clamp()", {"min": ("low", float("-inf")), "max": ("high", float("inf"))}),
    # activations
    **_each(_functional, "relu relu6 selu logsigmoid silu mish softsign hardsigmoid hardswish tanhshrink"),
    "leaky_relu": Native("F.leaky_relu({0}, {slope})"),
    "prelu": Native("F.prelu({0}, {1})"),
    "elu": Native("F.elu({0})", {"alpha": ("alpha", 1.0)}),
    "celu": Native("F.celu({0})", {"alpha": ("alpha", 1.0)}),
    "gelu": Native("F.gelu({0})", {"approximate": ("approximate", "none")}),
    "softplus": Native("F.softplus({0})", {"beta": ("beta", 1.0)}),
    "hardtanh": Native("F.hardtanh({0}, {low}, {high})"),
    "hardshrink": Native("F.hardshrink({0}, {threshold})"),
    "softshrink": Native("F.softshrink({0}, {threshold})"),
    "glu": Native("F.glu({0}, dim={axis})"),
    "dropout": Native("F.dropout({0}, {p}, self.training)"),
    # linear maps
    "matmul": Native("{0} @ {1}", when=_inexact),
    "linear": Native("F.linear({0}, {1})"),
    "bias_add": _bias_add,
    "embedding": _any_type("F.embedding({0}, {1})", _integer_index(0)),
    "attention": Native(
        "F.scaled_dot_product_attention({0}, {1}, {2})",
        {"is_causal": ("causal", False), "scale": ("scale", None)},
        _same_leading,
    ),
    **_each(_convolution, "conv1d conv2d conv3d"),
    **_each(_transposed, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    **{f"{name}.grad": _convolution_gradient(name) for name in ("conv1d", "conv2d", "conv3d")},
    # normalization
    "batch_norm": _batch_norm,
    "layer_norm": Native("F.layer_norm({0}, ({last},), {1}, {2}, {eps})"),
    "rms_norm": Native("F.rms_norm({0}, ({last},), {1}, {eps})"),
    "group_norm": Native("F.group_norm({0}, {groups}, {1}, {2}, {eps})"),
    "instance_norm": Native("F.group_norm({0}, {channels}, {1}, {2}, {eps})"),
    "normalize": Native("F.normalize({0}, dim={axis}, eps={eps})"),
    # pooling and sampling
    **_each(_max_pool, "max_pool1d max_pool2d max_pool3d"),
    **_each(_avg_pool, "avg_pool1d avg_pool2d avg_pool3d"),
    **_each(lambda name: Native(f"F.{name}({{0}}, {{size}})"), "adaptive_avg_pool1d adaptive_avg_pool2d"),
    **_each(lambda name: Native(f"F.{name}({{0}}, {{size}})"), "adaptive_max_pool1d adaptive_max_pool2d"),
    "upsample_nearest2d": Native('F.interpolate({0}, scale_factor={scale}, mode="nearest")'),
    "upsample_bilinear2d": Native(
        'F.interpolate({0}, {size}, mode="bilinear")', {"align_corners": ("align_corners", False)}
    ),
    "grid_sample": Native(
        "F.grid_sample({0}, {1}, align_corners={align_corners})",
        {"mode": ("mode", "bilinear"), "padding_mode": ("padding_mode", "zeros")},
    ),
    # reductions
    **_each(lambda name: _reduction(f"{{0}}.{name}({{axis}})"), "sum prod mean"),
    "max": Native("{0}.amax({axis})", {"keepdim": ("keepdim", False)}, _never_empty),
    "min": Native("{0}.amin({axis})", {"keepdim": ("keepdim", False)}, _never_empty),
    "any": _any_type("{0}.any({axis})"),
    "all": _any_type("{0}.all({axis})"),
    "var": Native("{0}.var({axis})", {"correction": ("correction", 1), "keepdim": ("keepdim", False)}),
    "std": Native("{0}.std({axis})", {"correction": ("correction", 1), "keepdim": ("keepdim", False)}),
    "logsumexp": _reduction("{0}.logsumexp({axis})"),
    "norm": _reduction("torch.linalg.vector_norm({0}, {p}, {axis})"),
    "softmax": Native("F.softmax({0}, dim={axis})"),
    "log_softmax": Native("F.log_softmax({0}, dim={axis})"),
    # spectra
    **_each(lambda name: _any_type(f"torch.fft.{name}({{0}})"), "fft2 ifft2 rfft2"),
    **_each(lambda name: Native(f"torch.fft.{name}({{0}})", {"dim": ("axis", -1)}, _inexact), "fft ifft rfft"),
    "irfft": Native("torch.fft.irfft({0})", {"n": ("n", None), "dim": ("axis", -1)}, _inexact),
    # integers
    "quantize": _quantize,
    # shapes
    "reshape": _reshape,
    "permute": _any_type("{0}.permute{dims}"),
    "transpose": _any_type("{0}.transpose({first}, {second})"),
    "flatten": _any_type("{0}.flatten({start}, {stop})"),
    "squeeze": _any_type("{0}.squeeze({axis})"),
    "unsqueeze": _unsqueeze,
    "expand": _expand,
    "expand_axis": _expand,
    "slice_axis": _slice_axis,
    "select": _select,
    "index_select": _any_type("{0}.index_select({axis}, {1})", _integer_index(1)),
    "concat": _any_type("torch.cat(({0}, {1}), dim={axis})"),
    "flip": _any_type("{0}.flip({axis})"),
    "roll": _any_type("{0}.roll({shift}, {axis})"),
    "repeat_interleave": _any_type("{0}.repeat_interleave({count}, {axis})"),
    "pad": Native("F.pad({0}, {widths})", {"value": ("value", 0)}, lambda site: site.attributes["mode"] == "constant"),
    "tril": _any_type("torch.tril({0}, {diagonal})"),
    "triu": _any_type("torch.triu({0}, {diagonal})"),
    "pixel_shuffle": _any_type("F.pixel_shuffle({0}, {factor})"),
}
"""Every operator here means in PyTorch what its definition says; all others become functions of their own."""


def native(operator: str, site: Site) -> str | None:
    """The PyTorch expression for an operator, or None where PyTorch has none that means the same."""
    rule = NATIVE.get(operator)
    if rule is None:
        return None
    return rule.write(site) if isinstance(rule, Native) else rule(site)
