"""Wrong programs and the messages that they give: `wrong/NAME.mer` beside `wrong/NAME.txt`."""

from __future__ import annotations

from pathlib import Path

import pytest

import mercer

WRONG = Path(__file__).parent / "wrong"


@pytest.mark.parametrize("name", sorted(path.stem for path in WRONG.glob("*.mer")))
def test_message(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(WRONG)
    with pytest.raises(mercer.CompileError) as caught:
        mercer.parse(f"{name}.mer")
    message = str(caught.value) + "\n"
    expected = WRONG / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        expected.write_text(message, encoding="utf-8")
    assert message == expected.read_text(encoding="utf-8")
    assert message.startswith(f"{name}.mer:")
