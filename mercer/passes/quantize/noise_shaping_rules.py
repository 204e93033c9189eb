"""Integer forms of random features of a few bits: integer phases, a table of cosines, and sums of their errors."""

from __future__ import annotations

import math

import numpy as np

from mercer.ir.graph import Node
from mercer.passes.quantize.kernel_rules import phases
from mercer.passes.quantize.translation import Form, Rule, Sums, Translation

_HIGH = 127
"""The code of the cosine of 0, as the operator `sigma_delta_features` has it."""


def _sigma_delta_features(t: Translation, node: Node) -> Form:
    block, bits = node.attribute("block"), node.attribute("bits")
    assert isinstance(block, int) and isinstance(bits, int)
    phase, index = phases(t, node)
    cosines = np.rint(_HIGH * np.cos(index.decode(np.arange(index.low, index.high + 1))))
    features = t.looked_up(phase, index, cosines.astype(np.int32))
    codes = t.emit("sigma_delta", features, high=_HIGH, bits=bits, block=block)
    sums = t.emit("condense", codes, block=block)
    count, largest = t.real_types[node.operands[1]].shape[0].value, (1 << bits) - 1
    return Sums(sums, np.asarray(math.sqrt(2.0 / count) / largest), -block * largest, block * largest)


NOISE_SHAPING: dict[str, Rule] = {"sigma_delta_features": _sigma_delta_features}
