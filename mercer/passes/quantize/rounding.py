"""Rounding of weights that looks at what the layer sees: the errors of a row make up for each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mercer.ir.graph import Node
from mercer.ir.library import Library
from mercer.passes.factorize.approximation import compute
from mercer.passes.factorize.contractions import geometry_of
from mercer.passes.factorize.convolutions import Geometry
from mercer.passes.quantize.code_books import Levels, code_books, in_pairs, nearest_level
from mercer.passes.quantize.pair_rounding import SWEEPS, fitted, paired
from mercer.passes.quantize.ranges import Codes, Matrix, best_scales, largest_levels, weight_codes
from mercer.passes.quantize.translation import Coded, Options, Translation

ROUNDINGS = ("auto", "nearest", "gptq")

FINE = 7
"""Bits from which on weights lose less than activations do: `auto` takes the nearest codes there."""
_NARROW = 8
"""Inputs up to which `auto` looks for codes on the data all the same: much depends on few weights."""

_ROWS = 2048
"""Inputs of a linear map that its second moments are taken from."""
_FAN_IN = 5120
"""What has more inputs is rounded to the nearest."""
_DAMPING = 0.01
"""Added to the second moments, as part of their mean (Frantar et al. 2023, 4.1)."""
_BLOCK = 64
_WORK = 1 << 29
"""Products that one scale may take, if others are to be tried; else it is the best one for the nearest codes."""
_PARTS = np.linspace(1.0, 0.3, 15)
"""Clipping ranges, as parts of the largest weight of a row; it can also be any of the larger codes."""


# --- the weight of a node ---------------------------------------------------------------------------------------------


def weight_of(t: Translation, node: Node, weight: Matrix, axis: int | None) -> tuple[Codes, Matrix]:
    """Codes of the weight of a linear map and their scales along `axis`, as `weight_codes` has them.

    They are chosen by what the map sees on the data, where that is known and the options ask for it.
    """
    options = t.options
    rows = None
    fan_in = weight.shape[0] if node.operator == "matmul" else int(np.prod(weight.shape[1:]))
    if _compensates(options, fan_in) and (weight.ndim == 2 or node.operator not in ("linear", "matmul")):
        inputs = [t.samples[name] for name in node.operands if t.known(name) is None]
        rows = seen(t.library, node, [_coarse(t, node.operands[0]), *inputs[1:]], weight.shape)
    if rows is None:
        return weight_codes(weight, options.weights, axis, options.codes)
    aligned = weight.T if node.operator == "matmul" else weight
    split = aligned.reshape(len(rows), len(aligned) // len(rows), -1)
    codes, scales = rounded(options, split, rows, shared=axis is None)
    codes = codes.reshape(aligned.shape)
    return np.ascontiguousarray(codes.T if node.operator == "matmul" else codes), scales


def rounded(options: Options, weight: Matrix, rows: Matrix, shared: bool = False) -> tuple[Codes, Matrix]:
    """Codes of weight[g, o, k] that is multiplied with rows[g, n, k], and scales[g * o], or [1] for all together."""
    if not _compensates(options, rows.shape[2]):
        flat = weight.reshape(-1, weight.shape[2])
        codes, scales = weight_codes(flat, options.weights, None if shared else 0, options.codes)
        return codes.reshape(weight.shape), scales
    hessian = moments(rows, options.bias_correction)
    if in_pairs(options.codes, options.weights, weight.shape[2]):
        codes, scales = paired(weight, hessian, options.weights, shared)
    else:
        codes, scales = compensated(weight, hessian, code_books(options.codes, options.weights), shared)
    return codes, scales.reshape(-1)[: 1 if shared else None]


def _compensates(options: Options, fan_in: int) -> bool:
    usual = options.weights < FINE or fan_in <= _NARROW
    return fan_in <= _FAN_IN and (options.rounding == "gptq" or (options.rounding == "auto" and usual))


def _coarse(t: Translation, name: str) -> Matrix:
    """The samples of a value, as its codes have them."""
    form = t.forms[name]
    codes = form.encoding if isinstance(form, Coded) else t.encoding(name)
    return codes.decode(codes.encode(t.samples[name]))


# --- what a linear map sees -------------------------------------------------------------------------------------------


def seen(library: Library, node: Node, operands: Sequence[Matrix], window: Sequence[int]) -> Matrix | None:
    """The rows that each output's weights are multiplied with, as [groups, rows, k]; at most _ROWS of them.

    `operands` are those of the node without its weight, on the data; `window` is the shape of the weight. None for an
    operator whose rows are not known here.
    """
    match node.operator:
        case "linear" | "matmul" | "random_fourier_features" | "sigma_delta_features":
            return _thinned(operands[0].reshape(1, -1, operands[0].shape[-1]))
        case "conv1d" | "conv2d" | "conv3d":
            groups = node.attribute("groups")
            assert isinstance(groups, int)
            return patches(operands[0], tuple(window[2:]), geometry_of(node), groups)
        case "deform_conv2d" | "deform_conv2d_v1":
            return _deformed(library, node, operands, window)
        case _:
            return None


def patches(x: Matrix, window: tuple[int, ...], geometry: Geometry, groups: int) -> Matrix:
    """What a convolution's windows hold of x[n, c, ...], as [groups, rows, c/groups * window]; at most _ROWS rows."""
    padded = np.pad(x, ((0, 0), (0, 0), *((pad, pad) for pad in geometry.pad)))
    spans = [dilation * (extent - 1) + 1 for dilation, extent in zip(geometry.dilation, window, strict=True)]
    axes = tuple(range(2, x.ndim))
    views = np.lib.stride_tricks.sliding_window_view(padded, spans, axes)
    steps = [slice(None, None, step) for step in (*geometry.stride, *geometry.dilation)]
    views = views[(slice(None), slice(None), *steps)]
    places = np.unravel_index(_chosen(views[:, 0].size // int(np.prod(window))), (len(x), *views.shape[2 : x.ndim]))
    rows = np.moveaxis(views, 1, x.ndim - 1)[places]
    return np.moveaxis(rows.reshape(len(rows), groups, -1), 0, 1)


def _deformed(library: Library, node: Node, operands: Sequence[Matrix], window: Sequence[int]) -> Matrix | None:
    """The samples that a deformable convolution takes, times their masks; None for one in groups."""
    x, offset = operands[:2]
    attributes = dict(node.attributes)
    groups, offset_groups = attributes.pop("groups"), attributes["offset_groups"]
    assert isinstance(groups, int) and isinstance(offset_groups, int)
    count = min(len(x), -(-_ROWS // (offset.shape[2] * offset.shape[3])))
    images = np.linspace(0, len(x) - 1, count).astype(np.int64)
    attributes["window"] = tuple(window[2:])
    samples = compute(library, "deform_unfold", [x[images], offset[images]], attributes)
    if node.operator == "deform_conv2d":
        mask = operands[2][images]
        shape = (count, offset_groups, 1, *window[2:], *mask.shape[2:])
        split = samples.reshape(count, offset_groups, -1, *samples.shape[2:])
        samples = (split * mask.reshape(shape)).reshape(samples.shape)
    rows = np.moveaxis(samples, (4, 5), (1, 2))
    return _thinned(np.moveaxis(rows.reshape(-1, groups, int(np.prod(window[1:]))), 0, 1))


def _chosen(count: int) -> npt.NDArray[np.int64]:
    """Which of `count` rows are looked at."""
    if count <= _ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, _ROWS, replace=False))


def _thinned(rows: Matrix) -> Matrix:
    return rows[:, _chosen(rows.shape[1])]


def moments(rows: Matrix, centered: bool) -> Matrix:
    """H[groups, k, k]: the second moments of rows[groups, n, k], damped; around the mean when what is lost of the mean
    is given back (Frantar et al. 2023, equation 1)."""
    if centered:
        rows = rows - rows.mean(axis=1, keepdims=True)
    hessian = np.swapaxes(rows, 1, 2) @ rows / max(rows.shape[1], 1)
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    damping = np.maximum(_DAMPING * diagonal.mean(axis=1), 1e-12)
    return hessian + damping[:, None, None] * np.eye(hessian.shape[1])


# --- rounding ---------------------------------------------------------------------------------------------------------


def compensated(weight: Matrix, hessian: Matrix, books: Sequence[Levels], shared: bool) -> tuple[Codes, Matrix]:
    """Codes[g, o, k] and their scales[g, o, 1] for weight[g, o, k], with small (w - q) H (w - q) of every row w.

    Scales are tried, and with each the codes are found one after the other, so that each makes up for those before
    (GPTQ, Frantar et al. 2023, which is Babai's nearest plane: Chen et al. 2025, The geometry of LLM quantization).
    Then codes and scale are improved in turn, one code at a time, to the next minimum. Codes are from one of `books`;
    with `shared` there is one scale for all.
    """
    order = np.argsort(np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
    back = np.argsort(order, axis=1)
    hessian = np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None, :], 2)
    weight = np.take_along_axis(weight, order[:, None, :], 2)
    upper = np.swapaxes(np.linalg.cholesky(hessian), 1, 2)
    upper = upper / np.diagonal(upper, axis1=1, axis2=2)[:, :, None]
    found = [_searched(weight, hessian, upper, levels, shared) for levels in books]
    scales, codes, _, levels = min(found, key=lambda each: each[2])
    for _ in range(SWEEPS):
        scales = fitted(weight, codes, scales, hessian, shared)
        codes = _improved(weight, codes, scales, hessian, levels)
    return np.take_along_axis(codes, back[:, None, :], 2).astype(np.int8), scales


def _searched(
    weight: Matrix, hessian: Matrix, upper: Matrix, levels: Levels, shared: bool
) -> tuple[Matrix, Matrix, float, Levels]:
    """The best of some scales, their codes, what is lost, and the levels."""
    if weight.size * weight.shape[2] > _WORK:
        parts, rows = np.ones(1), weight.reshape((1, -1) if shared else (-1, weight.shape[2]))
        units = np.resize(best_scales(rows, levels), (*weight.shape[:2], 1))
    else:
        parts = np.concatenate([_PARTS, levels[-1] / largest_levels(levels)[:-1]])
        widest = np.abs(weight).max(axis=2, initial=0.0, keepdims=True)
        units = np.where(widest > 0.0, widest.max() if shared else widest, 1.0) / np.abs(levels).max()
    tried = np.concatenate([part * units for part in parts], axis=1)
    many = np.tile(weight, (1, len(parts), 1))
    codes = _planes(many, tried, upper, levels)
    losses = _loss(many - codes * tried, hessian).reshape(len(weight), len(parts), -1)
    lost = np.broadcast_to(losses.sum(axis=(0, 2), keepdims=True), losses.shape) if shared else losses
    best = np.argmin(lost, axis=1)[:, None]
    scales, codes = (
        np.take_along_axis(a.reshape(len(weight), len(parts), -1, a.shape[2]), best[..., None], 1)[:, 0]
        for a in (tried, codes)
    )
    return scales, codes, float(np.take_along_axis(losses, best, 1).sum()), levels


def _loss(error: Matrix, hessian: Matrix) -> Matrix:
    return ((error @ hessian) * error).sum(axis=2)


def _planes(weight: Matrix, scales: Matrix, upper: Matrix, levels: Levels) -> Matrix:
    """Codes from the last column to the first; each rounds the weight and what the columns after it have left.

    `upper` is triangular with ones on its diagonal, and upper^T D upper is the Hessian for some diagonal D.
    """
    error = np.zeros_like(weight)
    codes = np.zeros_like(weight)
    for stop in range(weight.shape[2], 0, -_BLOCK):
        start = max(stop - _BLOCK, 0)
        carried = error[:, :, stop:] @ np.swapaxes(upper[:, start:stop, stop:], 1, 2)
        for j in range(stop - 1, start - 1, -1):
            inside = (error[:, :, j + 1 : stop] @ upper[:, j, j + 1 : stop, None])[:, :, 0]
            target = weight[:, :, j] + carried[:, :, j - start] + inside
            codes[:, :, j] = nearest_level(target / scales[:, :, 0], levels)
            error[:, :, j] = weight[:, :, j] - codes[:, :, j] * scales[:, :, 0]
    return codes


def _improved(weight: Matrix, codes: Matrix, scales: Matrix, hessian: Matrix, levels: Levels) -> Matrix:
    """Each code once at its best value, while the others stay."""
    codes = codes.copy()
    error = weight - codes * scales
    for start in range(0, weight.shape[2], _BLOCK):
        stop = min(start + _BLOCK, weight.shape[2])
        slope = error @ hessian[:, :, start:stop]
        for j in range(start, stop):
            wanted = codes[:, :, j] * scales[:, :, 0] + slope[:, :, j - start] / hessian[:, j, j, None]
            found = nearest_level(wanted / scales[:, :, 0], levels)
            change = (codes[:, :, j] - found) * scales[:, :, 0]
            slope += change[:, :, None] * hessian[:, j, None, start:stop]
            error[:, :, j] += change
            codes[:, :, j] = found
    return codes
