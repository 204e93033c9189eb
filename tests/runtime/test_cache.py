"""What was compiled before comes from the cache, and only that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mercer
from mercer import compiler
from mercer.runtime import cache

TEXT = "model M(x: f32[N, 4]) -> f32[N, 3] { return x |> Linear(3) |> relu }"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names of programs that were compiled and did not come from the cache."""
    found: list[str] = []
    plain = compiler.TARGETS["cpu"]

    def counting(*arguments: object) -> object:
        found.append("cpu")
        return plain(*arguments)

    monkeypatch.setitem(compiler.TARGETS, "cpu", counting)
    monkeypatch.setenv("MERCER_CACHE", str(tmp_path / "cache"))
    return found


def test_the_same_is_compiled_once(compiled: list[str], tmp_path: Path) -> None:
    first = mercer.compile(mercer.parse_text(TEXT))
    again = mercer.compile(mercer.parse_text(TEXT))
    assert len(compiled) == 1
    assert first.artifact == again.artifact
    x = np.ones((2, 4), np.float32)
    assert np.array_equal(first(x), again(x))
    again.save(tmp_path / "again.mrc")
    assert (tmp_path / "again.mrc").read_bytes() == first.artifact.to_bytes()


def test_what_is_not_the_same_is_compiled(compiled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = mercer.parse_text(TEXT)
    weights = program.initial()
    mercer.compile(program)
    mercer.compile(program, weights=weights)  # here the ledger has no warning
    mercer.compile(program, weights=weights | {"linear.bias": np.ones(3, np.float32)})
    mercer.compile(program, "cpu:generic", weights)
    mercer.compile(program, weights=weights, pipeline="bind,lower")
    mercer.compile(mercer.parse_text(TEXT.replace("relu", "tanh")), weights=weights)
    mercer.compile(program, weights=weights, dump_ir=tmp_path / "ir")
    assert len(compiled) == 7
    for _ in range(2):
        mercer.compile(program, weights=weights)
    assert len(compiled) == 7
    monkeypatch.setattr(cache, "_compiler", lambda: b"another version")
    mercer.compile(program, weights=weights)
    monkeypatch.setenv("MERCER_CACHE", "off")
    mercer.compile(program, weights=weights)
    assert len(compiled) == 9


def test_a_damaged_file_is_made_again(compiled: list[str], tmp_path: Path) -> None:
    mercer.compile(mercer.parse_text(TEXT))
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):
        mercer.compile(mercer.parse_text(TEXT))
    assert len(compiled) == 2


@pytest.mark.usefixtures("compiled")
def test_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mercer.compile(mercer.parse_text(TEXT))
    (first,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(cache, "LARGEST", 1.5 * first.stat().st_size)
    mercer.compile(mercer.parse_text(TEXT.replace("relu", "tanh")))
    (second,) = (tmp_path / "cache").iterdir()
    assert second != first


def test_a_folder_that_cannot_be_used(compiled: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MERCER_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        mercer.compile(mercer.parse_text(TEXT))
    assert len(compiled) == 2


def test_texts_are_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[str] = []

    def remembered(part: str) -> str:
        return cache.remembered("text", (part,), lambda: made.append(part) or f"of {part}\nß")

    monkeypatch.setenv("MERCER_CACHE", str(tmp_path / "cache"))
    assert [remembered(part) for part in "aab"] == ["of a\nß", "of a\nß", "of b\nß"]
    assert made == ["a", "b"]
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert remembered("a") == "of a\nß" and made == ["a", "b", "a"]
    monkeypatch.setenv("MERCER_CACHE", "off")
    assert remembered("a") == "of a\nß" and len(made) == 4
