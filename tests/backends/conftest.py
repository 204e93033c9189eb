"""Random numbers that do not depend on the order of the tests."""

from __future__ import annotations

import pytest

from tests.backends.tvm_programs import generator


@pytest.fixture(autouse=True)
def numbers_from_the_start() -> None:
    generator.cache_clear()
