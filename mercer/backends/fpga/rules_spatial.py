"""Operators over images: convolutions and pools."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mercer.backends.fpga.attributes import number, pair
from mercer.backends.fpga.lowering import Form, Integers, Lowering, Rule, Tensor, image_layout
from mercer.backends.fpga.scaling import is_image, materialized, one_stream, reach, reordered
from mercer.backends.fpga.stages import Depthwise, MatrixVector, Stream
from mercer.backends.fpga.stages_spatial import Deform, Pool, Window
from mercer.backends.fpga.stages_vectors import Modulate
from mercer.ir.graph import Node

LARGEST_WINDOW = 13
LARGEST_OFFSET = 16
"""Pixels: the line buffer holds twice as many rows."""


def _convolution(state: Lowering, node: Node) -> Form:
    axes = int(node.operator[4])
    weight = state.constant(node, 1).astype(np.int64)
    x = state.tensor(node)
    if not is_image(x):
        raise state.unsupported(node, "its operand does not come pixel by pixel", "an operand [n, channels, pixels...]")
    taps = weight.reshape(*weight.shape[:2], *((1,) if axes == 1 else ()), *weight.shape[2:])
    kernel = (taps.shape[2], taps.shape[3])
    x = one_stream(state, node, x, common=any(pair(node, "pad", axes)))
    window, source = _windows(state, node, x, axes, kernel, pair(node, "dilation", axes), -x.offset)
    return _filtered(state, node, taps, np.broadcast_to(x.offset, (x.channels,)), window, source)


def _filtered(state: Lowering, node: Node, taps: Integers, offset: Integers, window: Stream, source: str) -> Tensor:
    """Filters `taps: [out, channels/groups, kh, kw]` on windows [kh, kw, channels], which stand for stream + offset."""
    outputs, share, *kernel = taps.shape
    groups = int(number(node, "groups"))
    layout = image_layout(state.shape(node.name))
    pixels, channels = layout.shape[0], window.channels
    if groups == channels == outputs:
        matrix = taps.reshape(outputs, -1)
        bias = matrix.sum(axis=1) * offset
        sums = state.accumulator(node, reach(matrix, bias, window.interval))
        depthwise = Depthwise(
            name=state.fresh(node), sources=(source,), origins=(node.name,), weight=matrix, bias=bias, input=window,
            sums=sums, windows=pixels,
        )  # fmt: skip
        return state.emitted(node, depthwise, state.shape(node.name), layout)
    full = np.zeros((outputs, channels, *kernel), np.int64)
    for group in range(groups):
        rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
        full[rows, group * share : (group + 1) * share] = taps[rows]
    columns = full.transpose(0, 2, 3, 1)
    bias = (columns * offset).sum(axis=(1, 2, 3))
    matrix = columns.reshape(outputs, -1)
    sums = state.accumulator(node, reach(matrix, bias, window.interval))
    stage = MatrixVector(
        name=state.fresh(node), sources=(source,), origins=(node.name,), weight=matrix, bias=bias, input=window,
        sums=sums, vectors=pixels,
    )  # fmt: skip
    return state.emitted(node, stage, state.shape(node.name), layout)


def _deformed(state: Lowering, node: Node) -> Form:
    """Bounded deformable sampling before filters, perhaps with masks."""
    weight = state.constant(node, len(node.operands) - 1).astype(np.int64)
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    zero, groups = int(number(node, "zero")), int(number(node, "offset_groups"))
    sampled = _samples(state, node, kernel, zero, groups)
    windows, source = replace(sampled.gives, lanes=1), state.place(sampled)
    if node.operator == "fixed_deform_conv2d":
        masked, masks = _pixels(state, node, state.tensor(node, 2))
        if groups > 1:
            masked = reordered(state, node, masked, _taps_first(groups, kernel, 1))
        weighed = Modulate(
            name=state.fresh(node, "_masked"), sources=(source, masked), origins=(node.name,),
            input=windows, masks=masks, fraction=int(number(node, "mask_fraction")), zero=zero, groups=groups,
        )  # fmt: skip
        windows, source, zero = replace(weighed.gives, lanes=1), state.place(weighed), 0
    return _filtered(state, node, weight, np.full(windows.channels, -zero), windows, source)


def _samples(state: Lowering, node: Node, kernel: tuple[int, int], zero: int, groups: int) -> Deform:
    """The bound is what the offsets can reach. Those of a square window are one number per output pixel, and those in
    whole pixels need no interpolation."""
    size, out = state.shape(node.operands[0])[1:], state.shape(node.name)[1:]
    source, image = _pixels(state, node, state.tensor(node))
    offset = state.producers.get(node.operands[1], node)
    square = offset.operator == "square_offsets" and groups == 1
    moving, moves = _pixels(state, node, state.tensor(offset) if square else state.tensor(node, 1))
    if groups > 1:
        moving = reordered(state, node, moving, _taps_first(groups, kernel, 2))
    fraction, pad = int(number(node, "fraction")), pair(node, "pad", 2)
    reached = max(-moves.interval.low, moves.interval.high) * (max(*kernel, 2) // 2 if square else 1)
    # An offset that is larger than the image with its border leads to zeros like one that is just as large.
    bound = min(-(-reached >> fraction), max(size) + max(pad) + 1)
    if bound > LARGEST_OFFSET:
        raise state.unsupported(
            node, f"its offsets may be {bound} pixels", f"offsets that are clamped to {LARGEST_OFFSET} pixels or less"
        )
    if not image.interval.low <= zero <= image.interval.high:
        raise state.unsupported(node, f"zero is the code {zero}, none of its operand", "a zero in range")
    return Deform(
        name=state.fresh(node, "_samples"), sources=(source, moving), origins=(node.name,), input=image, offsets=moves,
        size=(size[0], size[1]), kernel=kernel, out=(out[0], out[1]), fraction=fraction, bound=bound,
        stride=pair(node, "stride", 2), pad=pad, dilation=pair(node, "dilation", 2), zero=zero, groups=groups,
        square=square, rounded=fraction == 0,
    )  # fmt: skip


def _pixels(state: Lowering, node: Node, x: Tensor) -> tuple[str, Stream]:
    """The stage that gives an image as it is, and its stream."""
    x = materialized(state, node, x)
    if not is_image(x):
        raise state.unsupported(node, "its operands do not come pixel by pixel", "operands [n, channels, h, w]")
    return x.terms[0].stage, replace(state.stream(x.terms[0].stage), lanes=1)


def _taps_first(groups: int, kernel: tuple[int, int], each: int) -> Integers:
    """Channels [groups, taps, each], in the order [taps, groups, each]."""
    return np.arange(groups * kernel[0] * kernel[1] * each).reshape(groups, -1, each).swapaxes(0, 1).reshape(-1)


def _square_offsets(state: Lowering, node: Node) -> Form:
    """Where no deformable window takes the numbers themselves: their products with the distances of the taps."""
    source, numbers = _pixels(state, node, state.tensor(node))
    window = pair(node, "window", 2)
    up, left = ((extent - 1) // 2 for extent in window)
    distances = np.array([(i - up, j - left) for i, j in np.ndindex(*window)], np.int64).reshape(-1, 1)
    each: Integers = np.eye(numbers.channels, dtype=np.int64)[:, np.newaxis]
    weight: Integers = (each * distances).reshape(-1, numbers.channels)
    bias = np.zeros(len(weight), np.int64)
    stage = MatrixVector(
        name=state.fresh(node), sources=(source,), origins=(node.name,), weight=weight, bias=bias, input=numbers,
        sums=state.accumulator(node, reach(weight, bias, numbers.interval)), vectors=numbers.pixels,
    )  # fmt: skip
    shape = state.shape(node.name)
    return state.emitted(node, stage, shape, image_layout(shape))


def _windows(
    state: Lowering,
    node: Node,
    x: Tensor,
    axes: int,
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    zero: Integers,
) -> tuple[Stream, str]:
    """The stream of windows over an image and the stage that gives it: the image itself where a window is a pixel."""
    if max(kernel) > LARGEST_WINDOW:
        raise state.unsupported(
            node, f"its window is {kernel[0]} x {kernel[1]}", f"windows of at most {LARGEST_WINDOW} x {LARGEST_WINDOW}"
        )
    stride = pair(node, "stride", axes, (kernel if axes == 2 else kernel[1:]))
    pad = pair(node, "pad", axes)
    source = x.terms[0].stage
    stream = replace(state.stream(source), lanes=1)
    if kernel == (1, 1) and stride == (1, 1) and pad == (0, 0):
        return stream, source
    size, out = (((1,) * (2 - axes) + shape[1:]) for shape in (x.shape, state.shape(node.name)))
    if any(pad) and not stream.interval.low <= int(zero) <= stream.interval.high:
        raise state.unsupported(node, f"zero is the code {int(zero)}, none of its operand", "a zero within range")
    window = Window(
        name=state.fresh(node, "_window"), sources=(source,), origins=(node.name,), input=stream,
        size=(size[0], size[1]), kernel=kernel, out=(out[0], out[1]), stride=stride, pad=pad, dilation=dilation,
        zero=int(zero) if any(pad) else 0,
    )  # fmt: skip
    return replace(window.gives, lanes=1), state.place(window)


# --- pools ------------------------------------------------------------------------------------------------------------


def _max_pool(state: Lowering, node: Node) -> Form:
    axes = int(node.operator[-2])
    kernel = pair(node, "k", axes)
    x = _pooled(state, node)
    low = np.asarray(state.stream(x.terms[0].stage).interval.low)
    windows, source = _windows(state, node, x, axes, kernel, pair(node, "dilation", axes), low)
    return replace(_pool(state, node, windows, source, kernel[0] * kernel[1], None), offset=x.offset)


def _sum_pool(state: Lowering, node: Node) -> Form:
    axes = int(node.operator[-2])
    kernel = pair(node, "k", axes)
    x = one_stream(state, node, _pooled(state, node), common=True)
    windows, source = _windows(state, node, x, axes, kernel, (1, 1), -x.offset)
    return _pool(state, node, windows, source, kernel[0] * kernel[1], -int(x.offset))


def _pooled(state: Lowering, node: Node) -> Tensor:
    x = one_stream(state, node, state.tensor(node), common=False)
    if not is_image(x):
        raise state.unsupported(node, "its operand does not come pixel by pixel", "an operand [n, channels, pixels...]")
    return x


def _pool(state: Lowering, node: Node, windows: Stream, source: str, taps: int, zero: int | None) -> Tensor:
    """Maxima without a `zero`, sums of element - zero with one."""
    layout = image_layout(state.shape(node.name))
    stage = Pool(
        name=state.fresh(node), sources=(source,), origins=(node.name,), input=windows, windows=layout.shape[0],
        taps=taps, maximum=zero is None, zero=zero or 0,
    )  # fmt: skip
    return state.emitted(node, stage, state.shape(node.name), layout)


def _adaptive_max_pool(state: Lowering, node: Node) -> Form:
    if any(size != 1 for size in state.shape(node.name)[1:]):
        raise state.unsupported(node, "its windows differ in size", "size = 1, or max_pool2d")
    x = _pooled(state, node)
    stream = replace(state.stream(x.terms[0].stage), lanes=1)
    return replace(_pool(state, node, stream, x.terms[0].stage, x.pixels, None), offset=x.offset)


SPATIAL_RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d"), _convolution),
    **dict.fromkeys(("fixed_deform_conv2d", "fixed_deform_conv2d_v1"), _deformed),
    "square_offsets": _square_offsets,
    **dict.fromkeys(("max_pool1d", "max_pool2d"), _max_pool),
    **dict.fromkeys(("sum_pool1d", "sum_pool2d"), _sum_pool),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), _adaptive_max_pool),
}
