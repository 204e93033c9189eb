"""The command line: what every command prints, and what it says to every kind of wrong input."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import mercer
from mercer.cli import main
from mercer.commands import bench, reduce
from mercer.compiler import parse_ir, print_ir
from mercer.runtime.artifact import Artifact

TINY = """\
# Two layers.
model Tiny(x: f32[N, 4]; width = 3) -> f32[N, 2] {
  h = x |> Linear(width) |> relu
  return Linear(h; 2)
}
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process."""

    def command(*arguments: object) -> Ran:
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return command


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.mer"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny.mrc` for the CPU, with its IR dumps in `ir`."""
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "tiny.mer").write_text(TINY)
    out = folder / "tiny.mrc"
    code = main(["compile", str(folder / "tiny.mer"), "-o", str(out), "--dump-ir", str(folder / "ir")])
    assert code == 0
    return out


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((5, 4), np.float32))
    return path


def refused(ran: Ran, *parts: str) -> None:
    """The command said what is wrong with the input, in few words and without a traceback."""
    assert ran.code == 2, ran
    assert "Traceback" not in ran.err
    assert not ran.out
    for part in parts:
        assert part in ran.err


# --- the frame --------------------------------------------------------------------------------------------------------


def test_help_names_every_command(run: Command) -> None:
    ran = run("--help")
    assert ran.code == 0
    for name in "check ir compile export opt reduce run explain bench doctor demo ops".split():
        assert f" {name} " in ran.out


def test_version(run: Command) -> None:
    assert run("--version") == Ran(0, f"mercer {mercer.__version__}\n", "")


def test_unknown_command(run: Command) -> None:
    refused(run("chekc", "x.mer"), "No such command 'chekc'", "'check'")


def test_unknown_option(run: Command, tiny: Path) -> None:
    refused(run("check", tiny, "--modle", "Tiny"), "--modle", "--model")


def test_a_fault_of_mercer_is_one_line(run: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr("mercer.compiler.parse", broken)
    ran = run("check", tiny)
    assert ran.code == 70
    assert ran.err == "internal error: ZeroDivisionError: by zero; run again with --debug for the traceback\n"
    ran = run("--debug", "check", tiny)
    assert ran.code == 70
    assert "Traceback" in ran.err


def test_debug_shows_the_traceback_of_a_wrong_input(run: Command) -> None:
    ran = run("--debug", "check", "nowhere.mer")
    assert ran.code == 2
    assert "Traceback" in ran.err
    assert "error: cannot read nowhere.mer" in ran.err


def test_an_interrupt_leaves_no_half_file(
    run: Command, compiled: Path, tiny: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        patch.setattr(Path, "replace", interrupt)
        for command in (
            ("compile", tiny, "-t", "torch", "-o", tmp_path / "tiny.mrc"),
            ("run", compiled, "-i", inputs, "-o", tmp_path / "y.npz"),
            ("export", tiny, "--to", "torch", "-o", tmp_path / "tiny.py"),
        ):
            assert run(*command) == Ran(130, "", "interrupted\n")
            assert sorted(tmp_path.iterdir()) == before


def test_progress_goes_to_standard_error_when_asked_for(run: Command, tiny: Path, tmp_path: Path) -> None:
    quiet = run("compile", tiny, "-t", "torch", "-o", tmp_path / "a.mrc", "--json")
    loud = run("--progress", "compile", tiny, "-t", "torch", "-o", tmp_path / "a.mrc", "--json")
    assert "compile" not in quiet.err
    assert "compile" in loud.err
    assert json.loads(loud.out)["rewrites"] == json.loads(quiet.out)["rewrites"]


# --- check, ir, export ------------------------------------------------------------------------------------------------


def test_check(run: Command, tiny: Path) -> None:
    ran = run("check", tiny)
    assert ran.code == 0
    assert "Tiny(x: f32[N, 4]) ->" in ran.out
    assert "f32[3, 4]" in ran.out
    assert "23 trainable numbers, 92 B of parameters" in ran.out


def test_check_as_json(run: Command, tiny: Path) -> None:
    found = json.loads(run("check", tiny, "--json", "--set", "width=5").out)
    assert [p["name"] for p in found["parameters"]] == [
        "linear.0.weight", "linear.0.bias", "linear.1.weight", "linear.1.bias",
    ]  # fmt: skip
    assert found["parameters"][0]["type"] == "f32[5, 4]"
    assert found["trainable"] == 5 * 4 + 5 + 2 * 5 + 2
    by_name = {row["name"]: row for row in found["operators"]}
    assert by_name["linear"]["nodes"] == 2
    assert by_name["linear"]["operations"] == 2 * (5 * 4 + 2 * 5)
    assert by_name["relu"]["operations"] == 5


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "model Tiny(x: f32[N, 4] -> f32[N, 2] {",
            ["wrong.mer:1:25: error[syntax-error]: `->` cannot stand here", "^^", "expected: `)`"],
        ),
        (TINY.replace("relu", "rleu"), ["wrong.mer:3:29", "error[unknown-name]", "did you mean `relu`?"]),
        (TINY.replace("Linear(width)", "Linear(0)"), ["wrong.mer:3:", "at least 1 output; out is 0"]),
        ("layer L(x) { return x }", ["error[no-model]"]),
        ("", ["error[no-model]"]),
    ],
)
def test_check_shows_what_is_wrong(run: Command, tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "wrong.mer"
    path.write_text(text)
    refused(run("check", path), *parts)


def test_all_errors_are_shown_at_once(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "wrong.mer"
    path.write_text(TINY.replace("relu", "rleu").replace("  return", "  g = Linear(x; 3, bais = true)\n  return"))
    refused(run("check", path), "rleu", "bais", "2 errors")


def test_unreadable_files(run: Command, tiny: Path, tmp_path: Path) -> None:
    refused(run("check", tiny.with_name("tinny.mer")), "No such file", "hint: did you mean tiny.mer?")
    refused(run("check", tmp_path), "cannot read", "directory")
    binary = tmp_path / "binary.mer"
    binary.write_bytes(b"model \xff")
    refused(run("check", binary), "not UTF-8 text (byte 6)")


def test_wrong_model_and_attributes(run: Command, tiny: Path) -> None:
    refused(run("check", tiny, "--model", "Tinny"), "no model `Tinny`", "did you mean `Tiny`?")
    refused(run("check", tiny, "--set", "width"), "`--set width` is not NAME=VALUE")
    refused(run("check", tiny, "--set", "widht=3"), "widht", "width")
    refused(run("check", tiny, "--set", "width=wide"), "error[")


def test_ir_at_both_levels_parses_back(run: Command, tiny: Path) -> None:
    for level in ("graph", "nests"):
        text = run("ir", tiny, "--level", level).out
        assert text.startswith(f"mercer.{level} ")
        assert print_ir(parse_ir(text)[0]) == text


def test_ir_after_passes(run: Command, tiny: Path) -> None:
    assert "param @linear.0.weight" in run("ir", tiny).out
    bound = run("ir", tiny, "--after", "bind").out
    assert "const %linear.0.weight" in bound
    assert bound.startswith("mercer.graph")
    assert run("ir", tiny, "--after", "fuse").out.startswith("mercer.nests")
    assert run("ir", tiny, "--after", "bind", "--level", "nests").out.startswith("mercer.nests")
    assert run("ir", tiny, "--target", "cpu").out.startswith("mercer.nests")
    assert "const %linear.0.weight" in run("ir", tiny, "--target", "cpu", "--level", "graph").out
    assert run("ir", tiny, "--target", "torch").out == run("ir", tiny).out


def test_ir_takes_weights(run: Command, tiny: Path, tmp_path: Path) -> None:
    weights = mercer.parse(tiny).initial(seed=1)
    save_file(weights, tmp_path / "w.safetensors")
    first, second = (run("ir", tiny, "--after", "bind", *more).out for more in ((), ("-w", tmp_path / "w.safetensors")))
    assert first != second


def test_wrong_requests_for_ir(run: Command, tiny: Path) -> None:
    refused(run("ir", tiny, "--after", "fsue"), "there is no pass `fsue`", "did you mean `fuse`?")
    refused(run("ir", tiny, "--target", "cpuu"), "there is no target `cpuu`", "did you mean `cpu`?")
    refused(run("ir", tiny, "--after", "fuse", "--level", "graph"), "after `fuse` there is no graph any more")
    refused(run("ir", tiny, "--after", "fuse", "--target", "torch"), "there is no pass `fuse`")
    refused(run("ir", tiny, "--level", "loops"), "'loops' is not one of")


def test_export_writes_source_that_runs_alone(run: Command, tiny: Path, tmp_path: Path) -> None:
    printed = run("export", tiny, "--to", "torch").out
    assert "import mercer" not in printed
    path = tmp_path / "tiny.py"
    assert run("export", tiny, "--to", "torch", "-o", path) == Ran(0, "", "")
    assert path.read_text() == printed
    names: dict[str, Any] = {}
    exec(printed, names)
    assert set(names["Tiny"]().state_dict()) == set(mercer.parse(tiny).initial())


def test_export_to_something_else(run: Command, tiny: Path) -> None:
    refused(run("export", tiny, "--to", "onnx"), "onnx", "torch")


# --- opt --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def graph_file(run: Command, tiny: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.mir"
    path.write_text(run("ir", tiny).out)
    return path


def test_opt_gives_text_that_opt_takes(run: Command, graph_file: Path, tmp_path: Path) -> None:
    lowered = run("opt", graph_file, "-p", "canonical,lower,fuse{max_ops=8}", "--verify-each")
    assert lowered.code == 0
    assert lowered.out.startswith("mercer.nests")
    path = tmp_path / "nests.mir"
    path.write_text(lowered.out)
    assert run("opt", path, "-p", "dead_code", "-o", tmp_path / "out.mir") == Ran(0, "", "")
    assert (tmp_path / "out.mir").read_text() == lowered.out


def test_opt_reads_standard_input(run: Command, graph_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(graph_file.read_text()))
    assert run("opt", "-", "-p", "cse").out == graph_file.read_text()


def test_opt_shows_passes_on_standard_error(run: Command, graph_file: Path) -> None:
    ran = run("opt", graph_file, "-p", "cse,lower", "--print-between", "--time-passes")
    parse_ir(ran.out)
    assert "# after cse\nmercer.graph" in ran.err
    assert "# after lower\nmercer.nests" in ran.err
    assert "before" in ran.err


def test_opt_binds_weights(run: Command, tiny: Path, graph_file: Path, tmp_path: Path) -> None:
    save_file(mercer.parse(tiny).initial(), tmp_path / "w.safetensors")
    assert "param" not in run("opt", graph_file, "-p", "bind", "-w", tmp_path / "w.safetensors").out


def test_wrong_pipelines(run: Command, graph_file: Path) -> None:
    refused(run("opt", graph_file, "-p", "canonicall"), "there is no pass `canonicall`", "did you mean `canonical`?")
    refused(run("opt", graph_file, "-p", "lower,fuse{max_op=8}"), "no option `max_op`", "did you mean `max_ops`?")
    refused(run("opt", graph_file, "-p", "lower,fuse{max_ops=x}"), "`max_ops`", "int")
    refused(run("opt", graph_file, "-p", "pairwise"), "works on nests, but meets graph", "put `lower` before it")
    refused(run("opt", graph_file, "-p", "{"), "cannot read the pipeline at `{`")


def test_wrong_ir_text(run: Command, graph_file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.mir"
    wrong.write_text(
        graph_file.read_text().replace("%relu: f32[N, 3] = relu(", "%relu: f32[N, 3] = relu(%nothing, ", 1)
    )
    refused(run("opt", wrong, "-p", "cse"), "wrong.mir:", "nothing", "^")
    wrong.write_text("model Tiny")
    refused(run("opt", wrong, "-p", "cse"), "wrong.mir:1:1")
    refused(run("opt", graph_file, "-p", "cse", "-o", tmp_path / "no" / "out.mir"), "does not exist", "hint: mkdir -p")


# --- compile, explain -------------------------------------------------------------------------------------------------


def test_compile_dumps_the_ir(compiled: Path) -> None:
    dumps = sorted(path.name for path in (compiled.parent / "ir").iterdir())
    assert dumps[0] == "00_elaborate.mir"
    assert dumps[1] == "01_bind.mir"
    assert dumps[-1].endswith("_winograd.mir")


def test_compile_says_what_it_did(run: Command, tiny: Path, tmp_path: Path) -> None:
    weights = mercer.parse(tiny).initial()
    weights["linear.0.bias"][0] = np.nan
    save_file(weights, tmp_path / "w.safetensors")
    out = tmp_path / "tiny.mrc"
    ran = run("compile", tiny, "-o", out, "-w", tmp_path / "w.safetensors", "--target", "cpu:generic", "--verify-each")
    assert ran.code == 0
    assert f"{out}  " in ran.out
    assert "cpu:generic" in ran.out
    assert "rewrites taken" in ran.out
    assert ran.err == "warning: linear.0.bias: 1 of 3 elements are not finite\n"
    assert "warning: linear.0.bias: 1 of 3 elements are not finite" in run("explain", out).out


def test_compile_for_torch(run: Command, tiny: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.mrc"
    assert run("compile", tiny, "-o", out, "-t", "torch", "--set", "width=7").code == 0
    assert run("run", out, "-i", inputs, "-o", tmp_path / "y.npy").code == 0
    assert np.load(tmp_path / "y.npy").shape == (5, 2)


def test_wrong_requests_to_compile(run: Command, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny.mrc"
    refused(run("compile", tiny, "-o", tmp_path / "no" / "tiny.mrc"), "no does not exist", "hint: mkdir -p")
    refused(run("compile", tiny, "-o", tmp_path), "is a folder")
    refused(run("compile", tiny, "-o", out, "-t", "tpu"), "there is no target `tpu`")
    refused(run("compile", tiny, "-o", out, "-t", "cpu:avx3"), "cpu:avx3", "cpu:avx2")
    refused(run("compile", tiny, "-o", out, "-t", "cuda:hopper"), "cuda:hopper", "cuda:sm_90")
    refused(run("compile", tiny, "-o", out, "--dump-ir", tiny / "ir"), "cannot make the folder")
    refused(run("compile", tiny), "--out")
    assert not out.exists()


def test_wrong_weights(run: Command, tiny: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "tiny.mrc", tmp_path / "w.safetensors"
    right = mercer.parse(tiny).initial()
    command = ("compile", tiny, "-o", out, "-w", path)
    refused(run(*command), "cannot read")
    path.write_text("these are no weights")
    refused(run(*command), "not a safetensors file")
    save_file({name: array for name, array in right.items() if name != "linear.1.bias"}, path)
    refused(run(*command), "missing `linear.1.bias` (f32[2])")
    save_file(right | {"linear.1.bais": right["linear.1.bias"]}, path)
    refused(run(*command), "extra `linear.1.bais`", "`linear.1.bais` may be `linear.1.bias`")
    save_file(right | {"linear.0.bias": np.zeros(4, np.float32)}, path)
    refused(run(*command), "`linear.0.bias` is f32[4], expected f32[3]")
    save_file(right | {"linear.0.bias": np.zeros(3, np.int32)}, path)
    refused(run(*command), "`linear.0.bias` is i32[3], expected f32[3]")
    assert not out.exists()


def test_explain(run: Command, compiled: Path) -> None:
    ran = run("explain", compiled)
    assert ran.code == 0
    for part in (
        "(x: f32[N, 4]) ->",
        "Rewrites taken",
        "bind",
        "Exactness",
        "What runs, in order at N = 1, threads:",
        "of roof",
        "GFLOP/s",
        "(other)",
        "A call takes",
        "Memory of a run at N = 64: ",
        " of workspace",
        "lib.so",
        "no weights given",
    ):
        assert part in ran.out


def test_explain_as_json(run: Command, compiled: Path) -> None:
    found = json.loads(run("explain", compiled, "--json").out)
    assert found["signature"].startswith("(x: f32[N, 4]) ->")
    assert found["exactness"] in ("bit", "real")
    assert {row["rewrite"] for row in found["rewrites"] if row["fired"]} >= {"bind"}
    assert all(row["reason"] for row in found["rewrites"] if not row["fired"])
    assert sum(member["bytes"] for member in found["members"]) < compiled.stat().st_size
    assert found["steps"]
    assert found["memory"]["symbols"] == ["N"]
    one, many = (found["memory"]["runs"][n] for n in ("1", "64"))
    assert one["weights"] == many["weights"] and 0 < one["inputs"] * 64 == many["inputs"] == 64 * 4 * 4
    assert all(run["total"] == sum(run.values()) - run["total"] for run in (one, many))


def test_explain_times_every_step(run: Command, compiled: Path) -> None:
    found = json.loads(run("explain", compiled, "--set", "N=32", "--threads", "1", "--json").out)
    times = found["times"]
    assert times["sizes"] == {"N": 32} and times["threads"] == 1 and times["missing"] == ""
    assert len(times["steps"]) == len(found["steps"])
    assert sum(step["flops"] for step in times["steps"]) == 32 * (2 * 4 * 3 + 3 + 3 + 2 * 3 * 2 + 2)
    spent = sum(step["microseconds"] for step in times["steps"]) + times["other_microseconds"]
    assert times["microseconds"] == pytest.approx(spent)
    for step in times["steps"]:
        assert step["microseconds"] >= 0 and 0 <= step["share"] <= 1
        assert step["binds"] in ("operations", "bytes")
        assert step["roof"] is None or step["roof"] > 0
    assert times["roof"]["flops"] > 1e8


def test_explain_without_times(run: Command, compiled: Path) -> None:
    ran = run("explain", compiled, "--no-time")
    assert "What runs, in order" in ran.out and "of roof" not in ran.out and "No times" not in ran.out
    assert "times" not in json.loads(run("explain", compiled, "--no-time", "--json").out)
    refused(run("explain", compiled, "--set", "L=3"), "there is no dim `L`", "N")
    refused(run("explain", compiled, "--set", "N=many"), "not a whole number")


def test_explain_of_what_cannot_run_here(run: Command, compiled: Path, tmp_path: Path) -> None:
    artifact = Artifact.load(compiled)
    foreign = replace(artifact.manifest, cpu_features=("avx1024",))
    Artifact(foreign, artifact.members).save(tmp_path / "foreign.mrc")
    ran = run("explain", tmp_path / "foreign.mrc")
    assert ran.code == 0
    assert "What runs, in order" in ran.out
    assert "No times: " in ran.out and "this CPU has no avx1024" in ran.out
    old = dict(artifact.manifest.entry)
    old["steps"] = [{k: v for k, v in step.items() if k not in ("flops", "bytes")} for step in old["steps"]]
    Artifact(replace(artifact.manifest, entry=old), artifact.members).save(tmp_path / "old.mrc")
    assert "compile it again" in run("explain", tmp_path / "old.mrc").out


def damaged(compiled: Path, folder: Path) -> list[tuple[Path, str]]:
    """Files that no command may take, with what is said about them."""
    content = compiled.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    newer = folder / "newer.mrc"
    artifact = Artifact.load(compiled)
    fields = json.loads(artifact.manifest.to_json()) | {"format": 99}
    manifest = json.dumps(fields)

    class Newer:
        def to_json(self) -> bytes:
            return manifest.encode()

    newer.write_bytes(Artifact.to_bytes(Artifact(Newer(), artifact.members)))  # pyright: ignore[reportArgumentType]
    files: list[tuple[str, bytes, str]] = [
        ("flipped.mrc", bytes(flipped), "was changed"),
        ("cut.mrc", content[: len(content) // 2], "cut off"),
        ("empty.mrc", b"", "the file is empty"),
        ("text.mrc", b"not an artifact", "not a Mercer artifact"),
    ]
    for name, data, _ in files:
        (folder / name).write_bytes(data)
    return [(folder / name, message) for name, _, message in files] + [
        (newer, "written by a newer Mercer: format 99, this one reads 1"),
        (folder / "none.mrc", "no such file"),
        (folder, "is a folder, not an artifact"),
    ]


def test_damaged_artifacts_are_refused_everywhere(run: Command, compiled: Path, inputs: Path, tmp_path: Path) -> None:
    for path, message in damaged(compiled, tmp_path):
        refused(run("explain", path), str(path), message, "hint:")
        refused(run("run", path, "-i", inputs, "-o", tmp_path / "y.npz"), str(path), message)
        refused(run("bench", path), str(path), message)
    assert not (tmp_path / "y.npz").exists()


# --- run --------------------------------------------------------------------------------------------------------------


def test_run(run: Command, compiled: Path, inputs: Path, tmp_path: Path) -> None:
    assert run("run", compiled, "--input", inputs, "--output", tmp_path / "y.npz") == Ran(0, "", "")
    with np.load(inputs) as x, np.load(tmp_path / "y.npz") as y:
        executable = mercer.load(compiled)
        assert y.files == [executable.signature.outputs[0].name]
        np.testing.assert_array_equal(y[y.files[0]], executable(x["x"]))
        np.save(tmp_path / "x.npy", x["x"])
    assert run("run", compiled, "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), executable(np.load(tmp_path / "x.npy")))


def test_run_takes_strided_and_empty_arrays(run: Command, compiled: Path, tmp_path: Path) -> None:
    for x in (np.asfortranarray(np.ones((5, 4), np.float32)), np.zeros((0, 4), np.float32)):
        np.savez(tmp_path / "x.npz", x=x)
        assert run("run", compiled, "-i", tmp_path / "x.npz", "-o", tmp_path / "y.npy").code == 0
        assert np.load(tmp_path / "y.npy").shape == (len(x), 2)


def test_run_with_a_profile(run: Command, compiled: Path, inputs: Path) -> None:
    ran = run("run", compiled, "-i", inputs, "--profile")
    assert ran.code == 0
    assert "share" in ran.out
    rows = json.loads(run("run", compiled, "-i", inputs, "--profile", "--json").out)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert all(row["microseconds"] >= 0 for row in rows)


def test_run_sets_the_number_of_threads(compiled: Path, inputs: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from mercer.cli import main
assert main(["run", {str(compiled)!r}, "-i", {str(inputs)!r}, "-o", {str(tmp_path / "y.npz")!r}, "--threads", "1"]) == 0
import mercer
print(mercer.load({str(compiled)!r}).threads)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TVM_NUM_THREADS"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"


def test_wrong_inputs(run: Command, compiled: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "x.npz", tmp_path / "y.npz"
    command = ("run", compiled, "-i", path, "-o", out)
    good = np.ones((5, 4), np.float32)
    refused(run(*command), "cannot read", "No such file")
    for arrays, parts in (
        ({"X": good}, ["there is no input 'X'", "did you mean 'x'?"]),
        ({"x": good, "z": good}, ["there is no input 'z'", "the inputs are x"]),
        ({}, ["expected 1 input, found 0: x not given"]),
        ({"x": good[:, :3]}, ["input 'x': expected [N, 4], found [5, 3]: dim 1 is 3, not 4"]),
        ({"x": good[0]}, ["expected rank 2 [N, 4], found rank 1 [4]", "x[np.newaxis]"]),
        ({"x": good.astype(np.float64)}, ["expected dtype float32, found float64", "x.astype(np.float32)"]),
        ({"x": np.array([[None] * 4])}, ["Python objects, which are never unpickled"]),
    ):
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
        refused(run(*command), *parts)
    np.savez(path, x=good)
    content = path.read_bytes()
    for wrong in (content[: len(content) // 2], b"", b"text"):
        path.write_bytes(wrong)
        refused(run(*command), "is not a whole .npz or .npy file", "np.savez")
    assert not out.exists()


def test_wrong_outputs(run: Command, compiled: Path, inputs: Path, tmp_path: Path) -> None:
    command = ("run", compiled, "-i", inputs)
    refused(run(*command), "neither --output nor --profile")
    refused(run(*command, "-o", tmp_path / "no" / "y.npz"), "does not exist", "hint: mkdir -p")
    refused(run(*command, "-o", tmp_path), "is a folder")
    refused(run(*command, "-o", tmp_path / "y.csv"), "outputs are written as .npz or .npy", "y.npz")
    refused(run(*command, "-o", tmp_path / "y.npz", "--threads", "0"), "--threads")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npz"]


# --- bench, doctor ----------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BLOCK_SECONDS", 0.001)


@pytest.mark.usefixtures("quick_bench")
def test_bench(run: Command, compiled: Path) -> None:
    ran = run("bench", compiled, "--against", "torch", "--batch", "1,3")
    assert ran.code == 0
    assert ran.out.count("torch") == 2
    found = json.loads(run("bench", compiled, "--against", "torch", "--batch", "2", "--json").out)
    assert [(row["system"], row["batch"]) for row in found["latency"]] == [("mercer", 2), ("torch", 2)]
    assert all(row["microseconds"] > 0 for row in found["latency"])


@pytest.mark.usefixtures("quick_bench")
def test_bench_of_known_sizes_measures_once(run: Command, tmp_path: Path) -> None:
    (tmp_path / "w.mer").write_text("model W(x: f32[4]) -> f32[4] { return x + 1.0 }")
    assert run("compile", tmp_path / "w.mer", "-o", tmp_path / "w.mrc").code == 0
    assert run("bench", tmp_path / "w.mrc").out.count("torch") == 1
    found = json.loads(run("bench", tmp_path / "w.mrc", "--json").out)
    assert [(row["system"], row["batch"]) for row in found["latency"]] == [("mercer", None), ("torch", None)]


@pytest.mark.usefixtures("quick_bench")
def test_bench_says_what_is_missing(run: Command, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    found = json.loads(run("bench", compiled, "--against", "inductor", "--batch", "1", "--json").out)
    row = found["latency"][1]
    assert row["microseconds"] is None
    assert "g++" in row["missing"]


@pytest.mark.usefixtures("quick_bench")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_bench_against_engines(run: Command, compiled: Path, engine: str) -> None:
    parts = [part for part in (engine, "onnx", "onnxscript") if importlib.util.find_spec(part) is None]
    found = json.loads(run("bench", compiled, "--against", engine, "--batch", "2", "--json").out)
    row = found["latency"][1]
    assert row["system"] == engine
    if parts:
        assert row["microseconds"] is None
        assert row["missing"] == f"{', '.join(parts)} not installed: pip install 'mercer[bench]'"
    else:
        assert row["microseconds"] > 0


def test_wrong_requests_to_bench(run: Command, compiled: Path) -> None:
    refused(run("bench", compiled, "--against", "troch"), "there is no peer `troch`", "did you mean `torch`?")
    refused(run("bench", compiled, "--batch", "one"), "not a whole number")
    refused(run("bench", compiled, "--batch", "0"), "batch sizes begin at 1")
    refused(run("bench", compiled, "--set", "L=3"), "there is no dim `L`", "N")


def test_interleaved_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BLOCK_SECONDS", 0.0)
    order: list[str] = []
    times = bench.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert set(times) == {"a", "b"}
    assert "".join(order) == "aabb" * (bench.ROUNDS + 1)


def test_doctor(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(run("doctor", "--json").out)
    parts = {part["name"]: part["version"] for part in found["parts"]}
    assert parts["numpy"] == np.__version__
    assert {target["target"] for target in found["targets"]} == {"cpu", "cuda", "torch"}
    monkeypatch.setattr(shutil, "which", lambda _: None)
    ran = run("doctor")
    assert ran.code == 1
    assert "no g++ on the PATH" in ran.out
    assert "missing" in ran.out


# --- ops --------------------------------------------------------------------------------------------------------------


def test_ops(run: Command) -> None:
    rows = json.loads(run("ops", "--json").out)
    assert {"kind": "op", "name": "conv2d"}.items() <= next(row for row in rows if row["name"] == "conv2d").items()
    assert "KernelMachine" in run("ops").out
    text = run("ops", "kernel_machine").out
    assert text.startswith("# Kernel expansion")
    assert "op kernel_machine(" in text
    assert "torch       generated: index code\n" in text
    refused(run("ops", "KernelMashine"), "the library has no `KernelMashine`", "did you mean `KernelMachine`?")


def entry(run: Command, name: str) -> dict[str, Any]:
    return json.loads(run("ops", name, "--json").out)


def test_ops_says_how_an_operator_is_computed(run: Command) -> None:
    conv = entry(run, "conv2d")
    assert conv["family"] == "convolution"
    assert conv["signature"].startswith("op conv2d(x: T[n, c, h, w], weight: T[o, g, k, l]; stride = 1")
    assert conv["formula"][0].startswith("y[n, o, p, q] = sum[c < g, i < k, j < l] weight[o, c, i, j] * x[n, ")
    assert conv["sources"] == ["Dumoulin and Visin 2016"]
    assert conv["example"] == "conv2d(x: f32[N, 16, 32, 32], weight: f32[16, 16, 3, 3])"
    assert conv["backends"] == {"torch": "native: F.conv2d(x, weight)", "tvm cpu": "contraction", "tvm cuda": "threads"}
    assert "bit-exact on integers" in conv["exactness"]
    assert entry(run, "softmax")["backends"]["tvm cpu"] == "reduce, pointwise, reduce, pointwise"
    assert entry(run, "argsort")["backends"]["torch"] == "generated: argsort"


def test_ops_says_how_an_operator_rounds(run: Command) -> None:
    assert entry(run, "relu")["exactness"] == ["exact: nothing is rounded"]
    softmax = entry(run, "softmax")["exactness"]
    assert "the last bits of exp differ between backends" in softmax
    assert "reductions of floats: order not fixed" in softmax
    assert "bit-exact on integers" not in softmax
    assert "scan: steps in order" in entry(run, "linear_recurrence")["exactness"]
    assert entry(run, "fft")["exactness"] == ["fft_last: order of operations not fixed"]


def test_ops_says_what_a_kernel_or_a_layer_is_made_of(run: Command) -> None:
    gaussian = entry(run, "gaussian")
    assert gaussian["properties"] == ["stationary", "isotropic", "positive", "features = fourier"]
    assert gaussian["formula"] == ["exp(-gamma * sqdist(x, y))"]
    assert gaussian["uses"] == ["sqdist"]
    assert gaussian["backends"]["tvm cpu"] == "transpose, contraction"
    layer = entry(run, "KANLinear")
    assert (layer["example"], layer["backends"]) == (None, {})
    assert layer["uses"] == ["kan_linear", "unsqueeze"]
    assert "computed as what it uses" in run("ops", "KANLinear").out
    assert "no example follows from the signature" in run("ops", "deform_unfold").out


# --- reduce -----------------------------------------------------------------------------------------------------------

DEEP = """\
model Deep(x: f32[N, 4]) -> (f32[N, 4], f32[N, 8]) {
  a = x |> Linear(4) |> tanh |> Linear(4)
  b = a + sigmoid(a) * x
  return b |> relu, b |> Linear(8) |> exp
}
"""


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    path = tmp_path / "deep.mir"
    path.write_text(print_ir(mercer.parse_text(DEEP).graph))
    return path


def without(operator: str) -> reduce.Backend:
    """The reference with a fault: `operator` gives what it takes."""

    def run_with_fault(graph: Any, inputs: Any, weights: Any) -> Any:
        text = print_ir(graph).replace(f" = {operator}(", " = neg(")
        return reduce.run_reference(parse_ir(text)[0], inputs, weights)  # pyright: ignore[reportArgumentType]

    return run_with_fault


@pytest.mark.parametrize("operator", ["sigmoid", "tanh", "exp"])
def test_reduce_finds_the_operator(
    run: Command, deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operator: str
) -> None:
    monkeypatch.setitem(reduce.BACKENDS, "torch", without(operator))
    out = tmp_path / "small.mir"
    ran = run("reduce", deep, "--right", "torch", "-o", out)
    assert ran.code == 0
    assert "nodes became 1" in ran.err
    assert "reference and torch: differs: " in ran.err
    graph, _ = parse_ir(out.read_text())
    assert [node.operator for node in graph.nodes] == [operator]  # pyright: ignore[reportAttributeAccessIssue]
    assert not graph.parameters
    assert len(graph.outputs) == 1


def test_reduce_keeps_the_kind_of_failure(run: Command, deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(graph: Any, inputs: Any, weights: Any) -> Any:
        if any(node.operator == "mul" for node in graph.nodes):
            raise RuntimeError("no multiplier")
        return without("tanh")(graph, inputs, weights)

    monkeypatch.setitem(reduce.BACKENDS, "torch", crash)
    ran = run("reduce", deep, "--right", "torch")
    assert "right: RuntimeError: no multiplier" in ran.err
    assert " = mul(" in ran.out
    assert "tanh" not in ran.out


@pytest.mark.parametrize("right", ["torch", "cpu"])
def test_reduce_has_nothing_to_do_where_backends_agree(run: Command, deep: Path, right: str) -> None:
    ran = run("reduce", deep, "--right", right)
    assert ran.code == 1
    assert f"reference and {right} agree" in ran.err
    assert not ran.out


def test_wrong_requests_to_reduce(run: Command, deep: Path, tiny: Path, tmp_path: Path) -> None:
    refused(run("reduce", deep, "--right", "toch"), "there is no backend `toch`", "did you mean `torch`?")
    nests = tmp_path / "nests.mir"
    nests.write_text(run("ir", tiny, "--level", "nests").out)
    refused(run("reduce", nests), "holds nests; reduce works on a graph")
    big = tmp_path / "big.mir"
    big.write_text(run("ir", tiny, "--after", "bind", "--set", "width=32").out)
    refused(run("reduce", big, "--right", "torch"), "has no contents", "--weights")
