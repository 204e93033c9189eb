"""Every pass on small programs: what comes out, and twins on which it must not fire.

A case is a `.mer` file whose first lines say what happens to it:

    # passes: canonical          the pipeline
    # features: avx512vnni       of the CPU, if any matter
    # fires: add_zero, mul_one   the rewrites that fire, each named as often as it does
    # refuses: REWRITE: REASON   a refusal, by words of its reason

Its result is in the `.mir` file beside it; `--update-golden` writes that. The IR verifier and the exactness verifier
run after every pass.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mercer.passes.manager import program_text, run_passes
from mercer.passes.pipeline import INFERENCE, parse

CASES = sorted((Path(__file__).parent / "cases").glob("*/*.mer"))
UNCOUNTED = {"bind", "lower"}


def header(text: str, key: str) -> list[str]:
    return re.findall(rf"^# {key}: *(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_case(path: Path, model: Callable[..., Any], request: pytest.FixtureRequest) -> None:
    text = path.read_text(encoding="utf-8")
    program = model(text, path.name)
    (pipeline,) = header(text, "passes")
    context = program.context(program.weights())
    context.features = frozenset(header(text, "features"))
    actual = program_text(run_passes(program.graph, parse(pipeline), context))
    golden = path.with_suffix(".mir")
    if request.config.getoption("--update-golden"):
        golden.write_text(actual, encoding="utf-8")
    assert actual == golden.read_text(encoding="utf-8")

    fires = Counter(name.strip() for line in header(text, "fires") for name in line.split(",") if name.strip())
    fired = Counter(entry.rewrite for entry in context.ledger.fired() if entry.pass_name not in UNCOUNTED)
    assert fired == fires
    refused = [(entry.rewrite, entry.reason or "") for entry in context.ledger.refused()]
    expected = [tuple(line.split(": ", 1)) for line in header(text, "refuses")]
    for name, reason in expected:
        assert any(rewrite == name and reason in found for rewrite, found in refused), refused


@pytest.mark.parametrize("name", sorted({each.name for each in INFERENCE} - UNCOUNTED))
def test_every_pass_has_cases_where_it_fires_and_where_it_does_not(name: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in CASES if path.parent.name == name]
    firing = [bool("".join(header(text, "fires")).strip()) for text in texts]
    assert True in firing and False in firing
