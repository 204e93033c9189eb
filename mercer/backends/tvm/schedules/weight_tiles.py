"""Weights of convolutions as tiles of output channels, in the order in which a product reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np

from mercer.backends.tvm import words
from mercer.backends.tvm.schedules.common import Problem
from mercer.ir.convolution import Convolution
from mercer.ir.graph import Constant
from mercer.ir.index import Expr, Read, transform
from mercer.ir.nests import Nest
from mercer.ir.packed import COUNTS
from mercer.ir.types import Array, Data, TensorType

Rows: TypeAlias = tuple[int, int, int]
"""(first channel, tiles, rows of a tile)"""


def together(convolution: Convolution) -> int:
    """Channels that are one term: as many numbers as make a word."""
    return COUNTS.get(convolution.dtype, 1)


def depth(convolution: Convolution) -> int:
    """Channels, or words of them."""
    return -(-convolution.channels // together(convolution))


def tiles_of(count: int, height: int) -> list[Rows]:
    """Rows as tiles of `height` and at most two lower ones."""
    whole, rest = divmod(count, height)
    if not rest:
        return [(0, whole, height)]
    if not whole or rest >= height - 2:
        return ([(0, whole, height)] if whole else []) + [(whole * height, 1, rest)]
    low = (height + rest) // 2
    found = [(0, whole - 1, height)] if whole > 1 else []
    start = (whole - 1) * height
    if 2 * low == height + rest:
        return [*found, (start, 2, low)]
    return [*found, (start, 1, low), (start + low, 1, height + rest - low)]


def ordered_weights(convolution: Convolution, problem: Problem) -> Array:
    """As an array [outputs, channels, taps]."""
    array = problem.constants[convolution.weight].data.array
    assert array is not None
    dims = [dim for dim in convolution.order if dim is not None]
    rest = [dim for dim in range(array.ndim) if dim not in dims]
    moved = np.transpose(array, (*dims, *rest))
    return moved.reshape(convolution.outputs, convolution.channels, convolution.taps)


def weights_in_words(convolution: Convolution, problem: Problem) -> Array:
    """The same, with words of channels where it is one of integers."""
    ordered = ordered_weights(convolution, problem)
    if not convolution.is_integer:
        return ordered
    return np.moveaxis(words.packed(np.moveaxis(ordered, 1, -1), convolution.dtype), -1, 1)


def renamed(convolution: Convolution, weights: str) -> Nest:
    """The nest with packed weights for the plain ones."""

    def change(expr: Expr) -> Expr:
        is_weight = isinstance(expr, Read) and expr.tensor == convolution.weight
        return replace(expr, tensor=weights) if is_weight else expr

    return replace(convolution.nest, body=transform(convolution.nest.body, change))


def packed(convolution: Convolution, outputs: int, height: int, problem: Problem) -> Constant:
    """Tile by tile, [term, row of the tile]; `outputs` channels at a time are tiles of `height` rows."""
    flat = weights_in_words(convolution, problem).reshape(convolution.outputs, -1)
    parts: list[Array] = []
    for first in range(0, convolution.outputs, outputs):
        for start, count, rows in tiles_of(outputs, height):
            for tile in range(count):
                at = first + start + tile * rows
                parts.append(flat[at : at + rows].T.reshape(-1))
    tiles = np.ascontiguousarray(np.concatenate(parts))
    name = f"{convolution.weight}.tiles[{convolution.order}, {outputs} by {height}]"
    return Constant(name, TensorType.of(tiles), Data(tiles))
