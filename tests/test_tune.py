"""`mercer tune`: what it measures, keeps and prints, and what becomes of an interruption, a bad file, a tracker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mercer.backends.tvm.tuning import worker
from mercer.cli import main
from mercer.commands import tune as command

NET = """\
model Net(x: f32[4, 16, 12, 12]) -> f32[4, 10] {
  h = x |> Conv2d(24, 5, stride = 2, pad = 2) |> relu
  return h |> flatten |> Linear(10)
}
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.mer"
    path.write_text(NET)
    return path


def tune(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["tune", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_what_is_tuned_is_compiled(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = tmp_path / "tuned.json"
    code, out, _ = tune(capsys, net, "--time", 5, "--threads", 1, "--database", database, "--json")
    found = json.loads(out)
    assert code == 0 and found["database"] == str(database)
    kernels = {kernel["operators"]: kernel for kernel in found["kernels"]}
    assert len(kernels) == 2 and all(kernel["nanoseconds"] <= kernel["untuned"] for kernel in kernels.values())
    assert not any(kernel["wrong"] for kernel in kernels.values())

    def steps(*options: object) -> list[str]:
        artifact = tmp_path / "net.mrc"
        assert main(["compile", str(net), "-o", str(artifact), *map(str, options)]) == 0
        capsys.readouterr()
        assert main(["explain", str(artifact), "--json"]) == 0
        return [step["tuned"] for step in json.loads(capsys.readouterr().out)["steps"]]

    assert steps("--database", database).count("tuned") == 2
    assert "tuned" not in steps("--database", tmp_path / "none.json", "--target", "cpu:generic")


def test_the_table(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = tmp_path / "tuned.json"
    code, out, _ = tune(capsys, net, "--time", 3, "--threads", 1, "--database", database)
    assert code == 0 and "before" in out and "conv2d" in out and "all of them:" in out
    before = database.read_bytes()
    assert tune(capsys, net, "--time", 0, "--database", database)[0] == 0
    assert database.read_bytes() == before


def test_explain_says_tuned(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database, artifact = tmp_path / "tuned.json", tmp_path / "net.mrc"
    assert tune(capsys, net, "--time", 3, "--threads", 1, "--database", database)[0] == 0
    assert main(["compile", str(net), "-o", str(artifact), "--database", str(database)]) == 0
    assert main(["explain", str(artifact)]) == 0
    assert "; tuned" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [("tune",), ("compile", "-o", "out.mrc")])
def test_a_bad_database_is_wrong_input(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    database = tmp_path / "tuned.json"
    database.write_text("not this")
    name, *rest = [str(tmp_path / part) if part == "out.mrc" else part for part in arguments]
    assert main([name, str(net), *rest, "--database", str(database)]) == 2
    error = capsys.readouterr().err
    assert error.count("error:") == 1 and "no tuning database" in error and "hint:" in error
    assert database.read_text() == "not this"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--target", "cuda"), "cuda is not tuned"),
        (("--batch", "1,x"), "not a whole number"),
        (("--batch", "0"), "batch sizes begin at 1"),
        (("--tracker", "nowhere"), "`nowhere` is not the address of a tracker"),
        (("--tracker", "127.0.0.1:1"), "no tracker answers at 127.0.0.1:1"),
    ],
)
def test_wrong_input(net: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], complaint: str) -> None:
    code, _, error = tune(capsys, net, *arguments)
    assert code == 2 and complaint in error


def test_an_interruption_keeps_what_was_found(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupted(_title: str) -> Generator[object]:
        def report(done: int, _total: int, _what: str) -> None:
            if done:
                raise KeyboardInterrupt

        yield report

    monkeypatch.setattr(command, "progress_bar", interrupted)
    database = tmp_path / "tuned.json"
    code, _, error = tune(capsys, net, "--time", 60, "--threads", 1, "--database", database)
    assert code == 130 and "interrupted" in error
    assert len(json.loads(database.read_text())["records"]) == 2


# --- several machines -------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def service(folder: Path, name: str, module: str, *arguments: object) -> Generator[None]:
    """A module of TVM as a process; what it starts ends with it."""
    command = [sys.executable, "-m", f"tvm.exec.{module}", "--host", "127.0.0.1", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow  # TVM is imported by six processes
def test_two_machines_behind_a_tracker(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tornado")
    port, database = free_port(), tmp_path / "tuned.json"
    tracker = f"127.0.0.1:{port}"
    with service(tmp_path, "tracker", "rpc_tracker", "--port", port, "--port-end", port + 1):
        deadline = time.monotonic() + 240
        while not _answers(port):
            assert time.monotonic() < deadline, (tmp_path / "tracker.log").read_text()
            time.sleep(0.25)
        code, _, error = tune(capsys, net, "--tracker", tracker)
        assert code == 2 and "no machine waits" in error
        ports = [free_port() for _ in range(2)]
        starts = [("--port", p, "--port-end", p + 1, "--tracker", tracker, "--key", "mercer") for p in ports]
        one, two = (service(tmp_path, name, "rpc_server", *start) for name, start in zip(SERVERS, starts, strict=True))
        with one, two:
            deadline = time.monotonic() + 240
            while _waiting(tracker) < 2:
                assert time.monotonic() < deadline, (tmp_path / "first.log").read_text()
                time.sleep(0.25)
            code, out, error = tune(
                capsys, net, "--tracker", tracker, "--time", 40, "--threads", 1, "--database", database, "--json"
            )
    assert code == 0 and "warning" not in error
    kernels = json.loads(out)["kernels"]
    assert len(kernels) == 2 and all(kernel["measured"] for kernel in kernels)
    assert len(json.loads(database.read_text())["records"]) == 2
    assert all("load_module" in (tmp_path / f"{name}.log").read_text() for name in SERVERS)


SERVERS = ("first", "second")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _waiting(tracker: str) -> int:
    try:
        return worker.waiting(tracker, "mercer")
    except worker.WorkerError:
        return 0
