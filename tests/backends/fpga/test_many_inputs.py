"""Every module on at least 10,000 random vectors, windows or numbers, under random stalls of all its streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.backends.fpga import test_modules_deform, test_modules_products, test_modules_spatial, test_modules_streams
from tests.backends.fpga.cases import Case, build_cases, check

INPUTS = 10_000


def products(longest: int, *names: str) -> Callable[[], list[Case]]:
    """Those cases of the products whose vectors have at most so many numbers, by their names."""
    return lambda: [c for c in test_modules_products.cases(INPUTS * longest) if c.stage.name.startswith(names)]


def streams(name: str, vectors: int = 3) -> Callable[[], list[Case]]:
    """Those cases of the streams, whose samples have so many vectors."""
    return lambda: [c for c in test_modules_streams.cases(-(-INPUTS // vectors)) if c.stage.name == name]


MODULES: Mapping[str, Callable[[], list[Case]]] = {
    "mvu": products(9, "mvu"),
    "vvu": products(75, "vvu"),
    "scale": products(1, "scale"),
    "table": products(1, "table"),
    "width": products(12, "width"),
    "normalize": products(8, "normalize"),
    "slice": products(6, "slice"),
    "modulate": products(4, "modulate"),
    "window": lambda: test_modules_spatial.windows(INPUTS),
    "pool": lambda: test_modules_spatial.pools(INPUTS),
    "deform": lambda: test_modules_deform.cases(INPUTS),
    "add": streams("add"),
    "concat": streams("concat"),
    "argmax": streams("argmax"),
    "distance": streams("distance"),
    "edge table": streams("edges"),
}


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_many_inputs(module: str, tmp_path: Path) -> None:
    cases = MODULES[module]()
    assert cases
    check(build_cases(cases, tmp_path, level=1), cases, 5)
