"""Which layers have a weight with codes, and how many bits each has."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from mercer.ir.graph import Graph, Node
from mercer.passes.manager import PipelineError
from mercer.passes.quantize.rotate import is_rotation

WEIGHTS: dict[str, tuple[int, int | None]] = {
    **{f"conv{n}d": (1, 0) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": (1, None) for n in (1, 2, 3)},
    "linear": (1, 0),
    "matmul": (1, 1),
    "deform_conv2d_v1": (2, 0),
    "deform_conv2d": (3, 0),
    "kernel_machine": (2, 0),
    "rbf_field": (3, 0),
    "random_fourier_features": (1, 0),
    "hash_grid": (1, 0),
    "decode_levels": (1, 0),
}
"""Operators whose weight gets codes: the operand, and its axis of output channels, each of which has its own scale."""


@dataclass(frozen=True)
class LayerBits:
    """`first=8 last=8 conv2d*=6`: bits for the layers whose name matches, of which the last item that does counts."""

    items: tuple[tuple[str, int], ...] = ()

    @staticmethod
    def parse(text: str) -> LayerBits:
        """Items between spaces or commas. Raises PipelineError."""
        items: list[tuple[str, int]] = []
        for item in text.replace(",", " ").split():
            name, _, bits = item.partition("=")
            if not name or not bits.isdecimal() or not 1 <= int(bits) <= 8:
                raise PipelineError(f"`{item}` gives no layer its bits", "LAYER=BITS with 1 to 8 bits, such as first=8")
            items.append((name, int(bits)))
        return LayerBits(tuple(items))

    def of(self, graph: Graph) -> dict[str, int]:
        """The bits of the layers that are named, by node. Raises PipelineError for a name that no layer has."""
        names = [node.name for node, _, _ in layers(graph)]
        found: dict[str, int] = {}
        for pattern, bits in self.items:
            match pattern:
                case "first":
                    chosen = names[:1]
                case "last":
                    chosen = names[-1:]
                case _:
                    chosen = [name for name in names if fnmatchcase(name, pattern)]
            if not chosen:
                listed = ", ".join(("first", "last", *names))
                raise PipelineError(f"no layer with a weight is named `{pattern}`", f"there are: {listed}")
            found |= dict.fromkeys(chosen, bits)
        return found


def layers(graph: Graph) -> list[tuple[Node, int, int | None]]:
    """(node, operand, axis) of the nodes, in order, that compute with something that moves and a weight that does not.

    Rotations are none of them: their weights have codes already.
    """
    constants = {constant.name: constant.data.array for constant in graph.constants}
    moving = {value.name for value in graph.inputs}
    found: list[tuple[Node, int, int | None]] = []
    for node in graph.nodes:
        if moving.isdisjoint(node.operands):
            continue
        moving.update(value.name for value in node.results)
        if node.operator not in WEIGHTS:
            continue
        position, axis = WEIGHTS[node.operator]
        weight = node.operands[position]
        array = constants.get(weight)
        turns = node.operator == "linear" and array is not None and is_rotation(array.astype(np.float64))
        if weight not in moving and not turns:
            found.append((node, position, axis))
    return found
