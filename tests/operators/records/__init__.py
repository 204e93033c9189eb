"""One record per operator of the standard library."""

from __future__ import annotations

from tests.operators.records import (
    activations,
    arithmetic,
    attention,
    complex,
    convolution,
    hash_grid,
    kernels,
    linear,
    linear_algebra,
    noise_shaping,
    normalization,
    pooling,
    primitives,
    quantization,
    random,
    recurrences,
    reductions,
    sampling,
    shape,
    spectral,
)
from tests.operators.records.record import Bad, Record, Sample

FAMILIES: dict[str, tuple[Record, ...]] = {
    module.__name__.rpartition(".")[2]: module.RECORDS
    for module in (
        activations,
        arithmetic,
        attention,
        complex,
        convolution,
        hash_grid,
        kernels,
        linear,
        linear_algebra,
        noise_shaping,
        normalization,
        pooling,
        primitives,
        quantization,
        random,
        recurrences,
        reductions,
        sampling,
        shape,
        spectral,
    )
}
RECORDS: tuple[Record, ...] = tuple(record for family in FAMILIES.values() for record in family)

__all__ = ["FAMILIES", "RECORDS", "Bad", "Record", "Sample"]
