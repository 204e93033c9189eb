"""Options of the test run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

os.environ["MERCER_CACHE"] = "off"  # every test compiles
os.environ["MERCER_DATABASE"] = str(Path(tempfile.gettempdir(), "mercer-tests-have-none.json"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the expected files from what comes out now")
