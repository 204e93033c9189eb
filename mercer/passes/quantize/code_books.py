"""The numbers that the codes of a weight can be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mercer.passes.quantize.normal_grids import normal_levels, normal_pairs

Levels = npt.NDArray[np.int64]
"""Codes in ascending order, symmetric, from -127 to 127; a weight is one of them times its scale."""

CODES = ("uniform", "ternary", "power_of_two", "power", "normal", "normal_pairs")

_EXPONENTS = (1.0, 1.25, 1.5, 1.75, 2.0)
"""That `power` chooses from; with 1 the codes are uniform."""
_LARGEST_POWER = 6
"""Of two, in eight bits."""


def code_books(codes: str, bits: int) -> tuple[Levels, ...]:
    """The books that a weight of so many bits may choose from, by one of CODES.

    `uniform`: -2**(bits-1)+1 .. 2**(bits-1)-1, and -1, 1 for one bit. `ternary`: -1, 0, 1 whatever the bits.
    `power_of_two`: 0 and ±2**k for the 2**(bits-1)-1 least k (Zhou et al. 2017, Incremental network quantization), a
    product by a shift. `power`: ±127 (j/last)**a to the nearest integer, one book for each of some exponents a (Yvinec
    et al. 2023, NUPES), which are close to each other around zero as weights are. `normal`: 2**bits numbers with the
    least squared error for normally distributed weights, the largest one 127 (Malinovskii et al. 2025, HIGGS); so are
    those of `normal_pairs` where weights come one by one, see `in_pairs`. Both are `uniform` from seven bits on.
    """
    last = max((1 << bits - 1) - 1, 1)
    match codes:
        case "ternary":
            halves = [np.arange(2)]
        case "power_of_two":
            halves = [np.concatenate([[0], 1 << np.arange(min(last, _LARGEST_POWER + 1))])]
        case "power" if 2 < bits < 8:
            steps = np.arange(last + 1) / last
            halves = [np.rint(127 * steps**exponent).astype(np.int64) for exponent in _EXPONENTS]
        case "normal" | "normal_pairs" if 1 < bits < 7:
            points = normal_levels(1 << bits)
            return (np.rint(127 / points[-1] * points).astype(np.int64),)
        case _:
            halves = [np.arange(last + 1)]
    if bits == 1 and codes != "ternary":
        return (np.array([-1, 1]),)
    return tuple(np.unique(np.concatenate([-half, half])) for half in halves)


def normal_points(bits: int) -> npt.NDArray[np.int8]:
    """Codes[4**bits, 2] of pairs of weights of `bits` bits, 2 to 4, the largest of them 127."""
    points = normal_pairs(4**bits)
    return np.rint(127 / np.abs(points).max() * points).astype(np.int8)


def in_pairs(codes: str, bits: int, count: int) -> bool:
    """Whether the weights of a row of `count` get codes two by two, when they are rounded on data."""
    return codes == "normal_pairs" and 2 <= bits <= 4 and count % 2 == 0


def nearest_level(values: npt.NDArray[np.float64], levels: Levels) -> npt.NDArray[np.float64]:
    """The closest of the levels, either one of two as close."""
    if len(levels) == levels[-1] - levels[0] + 1:
        return np.clip(np.rint(values), levels[0], levels[-1])
    return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, values)].astype(np.float64)
