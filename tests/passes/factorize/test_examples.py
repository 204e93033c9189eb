"""Every factorizing pass has an example in the zoo, on which it fires, saves work, and keeps its claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from mercer.commands.zoo_passes import measure, run
from mercer.passes.pipeline import FACTORIZE
from mercer.runtime.errors import MercerError

ZOO = Path(__file__).parents[3] / "zoo/passes"


@pytest.mark.parametrize("name", sorted({each.name for each in FACTORIZE} | {path.stem for path in ZOO.glob("*.mer")}))
def test_example(name: str) -> None:
    row = measure(name, ZOO / f"{name}.mer")
    assert row.works, row.problem
    assert row.source and row.title and row.error is not None
    before, after = row.operations
    assert after < before
    if row.stated is not None:
        assert row.error <= (1 + 1e-6) * row.stated + 1e-9


def test_rows_say_what_is_wrong(tmp_path: Path) -> None:
    """No example, no pipeline, another pass, and a pass that does not fire."""
    model = "model M(x: f32[N, 2]) -> f32[N, 2] { return relu(x) }"
    name = FACTORIZE[0].name
    path = tmp_path / f"{name}.mer"
    problems = [measure(name, path).problem]
    for header in ("", "# passes: bind", f"# passes: {name}", f"# passes: {name}\n# sample: x = cauchy(0, 1)"):
        path.write_text(f"# Example.\n{header}\n{model}\n", encoding="utf-8")
        problems.append(measure(name, path).problem)
    expected = ["no example", "does not say how to run it", "does not run the pass", "nothing fits", "no distribution"]
    assert all(words in problem for words, problem in zip(expected, problems, strict=True))
    assert not measure(name, path).works


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(MercerError, match="there are no examples"):
        run(Path("nowhere"))
