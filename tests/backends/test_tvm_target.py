"""Names of targets."""

from __future__ import annotations

import re

import pytest

from mercer.backends.tvm.target import TargetError, available, host_level, parse, require_tools


def test_levels() -> None:
    assert parse("cpu") == parse(f"cpu:{host_level()}")
    assert (parse("cpu:avx2").lanes, parse("cpu:avx512").lanes) == (8, 16)
    assert "avx2" in parse("cpu:avx2").features and not parse("cpu:generic").features
    assert parse("cuda:sm_90").arch == "sm_90" and parse("cuda:sm_90").is_cuda


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("fpu sse2", "generic"),
        ("avx2 fma f16c", "generic"),
        ("avx2 fma f16c bmi2", "avx2"),
        ("avx2 fma f16c bmi2 avx512f avx512bw avx512dq avx512vl avx512cd", "avx512"),
        ("avx2 fma f16c bmi2 avx512f avx512bw avx512dq avx512vl avx512cd avx512vnni", "vnni"),
    ],
)
def test_the_best_level_of_a_machine(flags: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mercer.backends.tvm.target.cpu_features", lambda: frozenset(flags.split()))
    assert host_level() == level


def test_a_level_is_named_by_features_as_the_machine_spells_them() -> None:
    """What the system calls `avx512_vnni` comes without punctuation from `cpu_features`."""
    levels = ("generic", "avx2", "avx512", "vnni")
    assert all(feature.isalnum() for level in levels for feature in parse(f"cpu:{level}").features)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("cpu:avx3", "cpu:avx2"), ("gpu", "known: cpu"), ("cuda:ninety", "cuda:sm_90"), ("cpuu", "did you mean cpu")],
)
def test_wrong_names(text: str, hint: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse(text)
    assert hint in (caught.value.hint or "")


def test_availability_has_reasons() -> None:
    rows = {row.target: row for row in available()}
    assert rows["cpu"].runs
    assert rows["cuda"].reason


@pytest.mark.parametrize(("target", "tool"), [("cuda:sm_90", "nvcc"), ("cpu", "g++")])
def test_a_missing_compiler_is_named(target: str, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TargetError, match=re.escape(f"needs {tool}")):
        require_tools(parse(target))
