"""Calling an executable: the engines' results, and a clear refusal of every input that does not fit."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mercer.runtime import (
    Artifact,
    ArtifactError,
    Executable,
    InputError,
    MercerError,
    Signature,
    TensorSpec,
    executors,
    load,
    nearest,
    session,
)
from mercer.runtime.artifact import evaluate_dim

from .conftest import SIGNATURE, expected


class Fake:
    """Records what it is given and gives it back."""

    threads = 1

    def __init__(self, artifact: Artifact) -> None:
        pass

    def set_threads(self, count: int) -> None:
        self.threads = count

    def run(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return tuple(inputs)

    def profile(self, inputs: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        return [("copy", 3.0), ("copy", 1.0)]


def fake(monkeypatch: pytest.MonkeyPatch, *inputs: TensorSpec) -> Executable:
    monkeypatch.setitem(executors.EXECUTORS, "fake", Fake)
    return Executable(Artifact.create(target="fake", signature=Signature(inputs, inputs), members={}, version="0"))


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Executable:
    return fake(
        monkeypatch,
        TensorSpec("image", "f32", ("N", 1, 8, 8)),
        TensorSpec("offset", "f32", ("N", "2*K")),
        TensorSpec("mask", "i8", ("K",)),
    )


def good(n: int = 2, k: int = 3) -> tuple[np.ndarray, ...]:
    return np.zeros((n, 1, 8, 8), np.float32), np.zeros((n, 2 * k), np.float32), np.zeros(k, np.int8)


def test_accepts(pair: Executable) -> None:
    assert [output.shape for output in pair(*good())] == [(2, 1, 8, 8), (2, 6), (3,)]
    assert pair(*good(0))[0].shape == (0, 1, 8, 8)
    image, offset, mask = good(4, 1)
    assert pair(image, mask=mask, offset=offset)[1].shape == (4, 2)
    assert repr(pair.signature).startswith("(image: f32[N, 1, 8, 8], offset: f32[N, 2*K], mask: i8[K]) -> ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, o, m: ((i, o), {}), r"expected 3 inputs, found 2: mask not given\nhint: the inputs are image: f32"),
        (lambda i, o, m: ((), {}), "expected 3 inputs, found 0: image, offset, mask not given"),
        (lambda i, o, m: ((i, o, m, m), {}), "expected 3 inputs, found 4"),
        (lambda i, o, m: ((i, o), {"masc": m}), r"there is no input 'masc'\nhint: did you mean 'mask'\?"),
        (lambda i, o, m: ((i, o), {"q": m}), r"there is no input 'q'\nhint: the inputs are image, offset, mask"),
        (lambda i, o, m: ((i, o, m), {"mask": m}), "input 'mask' is given twice, by position and by name"),
        (
            lambda i, o, m: ((i.astype(np.float64), o, m), {}),
            r"input 'image': expected dtype float32, found float64\nhint: cast it yourself: image.astype\(np.float32\)",
        ),
        (lambda i, o, m: ((i, o.astype(">f4"), m), {}), "input 'offset': expected dtype float32, found >f4"),
        (lambda i, o, m: ((i, o, m.astype(bool)), {}), r"expected dtype int8, found bool\nhint: .*np.int8"),
        (
            lambda i, o, m: ((i[0], o, m), {}),
            r"expected rank 4 \[N, 1, 8, 8\], found rank 3 \[1, 8, 8\]\nhint: for a batch of one: image\[np.newaxis\]",
        ),
        (lambda i, o, m: ((i, o[0, 0], m), {}), r"input 'offset': expected rank 2 \[N, 2\*K\], found rank 0 \[\]"),
        (
            lambda i, o, m: ((np.zeros((2, 3, 8, 7), "f4"), o, m), {}),
            r"expected \[N, 1, 8, 8\], found \[2, 3, 8, 7\]: dim 1 is 3, not 1; dim 3 is 7, not 8",
        ),
        (
            lambda i, o, m: ((i, o[:1], m), {}),
            r"input 'offset': expected \[N, 2\*K\], found \[1, 6\]: dim 0 is 1, but N = 2 from 'image'",
        ),
        (
            lambda i, o, m: ((i, o[:, :4], m), {}),
            r"found \[2, 4\]: dim 1 is 4, but 2\*K = 6 \(K = 3 from input 'mask'\)",
        ),
        (
            lambda i, o, m: ((i, o, [1, 2, 3]), {}),
            "input 'mask': expected a NumPy array or a DLPack object, found list",
        ),
        (lambda i, o, m: ((i, o, None), {}), "input 'mask': .* found NoneType"),
    ],
)
def test_refuses(pair: Executable, change: object, message: str) -> None:
    pair(*good())  # a good call before must not hide a bad one
    arrays, named = change(*good())
    with pytest.raises(InputError, match=message):
        pair(*arrays, **named)
    pair(*good())


def test_affine_dims_bind_their_symbol(monkeypatch: pytest.MonkeyPatch) -> None:
    exe = fake(monkeypatch, TensorSpec("a", "f32", ("2*N + 1",)), TensorSpec("b", "f32", ("N",)))
    exe(np.zeros(7, "f4"), np.zeros(3, "f4"))
    with pytest.raises(InputError, match=r"dim 0 is 6, but 2\*N \+ 1 = 7"):
        exe(np.zeros(6, "f4"), np.zeros(3, "f4"))
    alone = fake(monkeypatch, TensorSpec("a", "f32", ("2*N", "N + 1")))
    alone(np.zeros((6, 4), "f4"))
    with pytest.raises(InputError, match=r"dim 0 is 5, but 2\*N = 4"):
        alone(np.zeros((5, 3), "f4"))
    with pytest.raises(InputError, match=r"dim 1 is 5, but N \+ 1 = 4"):
        alone(np.zeros((6, 5), "f4"))


@pytest.mark.parametrize(
    ("dim", "value"), [(4, 4), ("N", 7), ("2*N", 14), ("(N - 3)/2 + 1", 3), ("max(N, 9)", 9), ("-N % 4 + 2**3", 9)]
)
def test_evaluate_dim(dim: int | str, value: int) -> None:
    assert evaluate_dim(dim, {"N": 7}) == value


def test_numpy_scalars_and_subclasses(monkeypatch: pytest.MonkeyPatch) -> None:
    exe = fake(monkeypatch, TensorSpec("x", "f32", ()))
    assert exe(np.float32(2.5)) == 2.5
    masked = fake(monkeypatch, TensorSpec("x", "f32", (2,)))(np.ma.masked_array([1, 2], dtype=np.float32))
    assert type(masked) is np.ndarray


def test_profile_of_fake(pair: Executable) -> None:
    rows = pair.profile(*good())
    assert [(row.name, row.microseconds, row.share) for row in rows] == [("copy", 3.0, 0.75), ("copy", 1.0, 0.25)]


def test_unknown_target(tiny: Artifact) -> None:
    strange = dataclasses.replace(tiny, manifest=dataclasses.replace(tiny.manifest, target="abacus:wood"))
    with pytest.raises(
        ArtifactError, match=r"target 'abacus:wood' is unknown to this runtime\nhint: it runs cpu, cuda"
    ):
        Executable(strange)


def test_dtype_that_numpy_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match=r"x: bf16\[3\] has a dtype that NumPy cannot hold"):
        fake(monkeypatch, TensorSpec("x", "bf16", (3,)))


def test_nearest() -> None:
    assert nearest("Wieght", ["weight", "bias"]) == "weight"
    assert nearest("zzz", ["weight", "bias"]) is None


# --- TVM --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tvm_exe(tvm_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executable]:
    path = tmp_path_factory.mktemp("saved") / "tiny.mrc"
    tvm_artifact.save(path)
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        yield load(path)
    assert list(temporary.glob("mercer-*")) == []


@pytest.mark.parametrize("batch", [1, 5, 0, 64])
def test_tvm_result(tvm_exe: Executable, batch: int) -> None:
    x = np.random.default_rng(batch).standard_normal((batch, 4)).astype(np.float32)
    y = tvm_exe(x)
    assert y.shape == (batch, 3) and y.dtype == np.float32 and y.flags.writeable
    np.testing.assert_allclose(y, expected(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(tvm_exe(x=x), y)


def test_tvm_strided_and_read_only_inputs(tvm_exe: Executable) -> None:
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    np.testing.assert_allclose(tvm_exe(x.T), expected(x.T), rtol=1e-6, atol=1e-6)
    wide = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    wide.flags.writeable = False
    np.testing.assert_allclose(tvm_exe(wide[::-2, ::2]), expected(wide[::-2, ::2]), rtol=1e-6, atol=1e-6)


def test_tvm_outputs_are_the_callers(tvm_exe: Executable) -> None:
    x = np.ones((2, 4), np.float32)
    first = tvm_exe(x)
    kept = first.copy()
    tvm_exe(-3 * x)
    np.testing.assert_array_equal(first, kept)


def test_tvm_takes_dlpack(tvm_exe: Executable) -> None:
    torch = pytest.importorskip("torch")
    x = torch.arange(8, dtype=torch.float32).reshape(2, 4)
    np.testing.assert_allclose(tvm_exe(x), expected(x.numpy()), rtol=1e-6)
    np.testing.assert_allclose(tvm_exe(x.reshape(4, 2).T), expected(x.reshape(4, 2).T.numpy()), rtol=1e-6)
    with pytest.raises(InputError, match=r"input 'x': this Tensor cannot be read by NumPy: .*\nhint: .*detach\(\).cpu"):
        tvm_exe(x.requires_grad_())
    with pytest.raises(InputError, match="expected dtype float32, found float64"):
        tvm_exe(x.detach().double())


def test_tvm_refuses(tvm_exe: Executable) -> None:
    with pytest.raises(InputError, match=r"input 'x': expected \[N, 4\], found \[2, 5\]: dim 1 is 5, not 4"):
        tvm_exe(np.zeros((2, 5), np.float32))


def test_tvm_profile(tvm_exe: Executable) -> None:
    rows = tvm_exe.profile(np.ones((256, 4), np.float32))
    assert [row.name for row in rows] == ["matmul", "add", "relu", "(other)"]
    assert rows[0].source == "tiny.mer:2:7" and rows[1].source == ""
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert all(row.microseconds >= 0 for row in rows)


def test_fewer_than_one_thread_is_refused(tvm_exe: Executable) -> None:
    with pytest.raises(InputError, match="at least 1 thread, not 0"):
        tvm_exe.threads = 0


def test_tvm_from_threads(tvm_exe: Executable) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal((seed + 1, 4)).astype(np.float32)
        for _ in range(50):
            if not np.allclose(tvm_exe(x), expected(x), atol=1e-5):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_tvm_broken_binary(tiny: Artifact, tmp_path: Path) -> None:
    tiny.save(tmp_path / "tiny.mrc")
    with pytest.raises(ArtifactError, match=r"tiny.mrc: lib.so cannot be loaded"):
        load(tmp_path / "tiny.mrc")


def test_missing_binary_and_weight(tvm_artifact: Artifact) -> None:
    def variant(members: dict[str, bytes], **entry: object) -> Artifact:
        return Artifact.create(target="cpu", signature=SIGNATURE, members=members, version="0", entry=entry)

    with pytest.raises(ArtifactError, match=r"member 'lib.so' is missing, target 'cpu' cannot run without it"):
        Executable(variant({}))
    with pytest.raises(ArtifactError, match=r"weights.safetensors has no v\nhint: compile it again"):
        Executable(variant(dict(tvm_artifact.members), weights=["w", "v"]))


def test_tvm_failure_while_running(tvm_artifact: Artifact) -> None:
    lying = Signature((TensorSpec("x", "f32", ("N", 5)),), SIGNATURE.outputs)
    exe = Executable(
        Artifact.create(
            target="cpu",
            signature=lying,
            members=tvm_artifact.members,
            version="0",
            entry=tvm_artifact.manifest.entry,
        )
    )
    with pytest.raises(MercerError, match="this artifact: failed while running: "):
        exe(np.zeros((2, 5), np.float32))


def test_cuda_without_device(tvm_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cuda = dataclasses.replace(tvm_artifact, manifest=dataclasses.replace(tvm_artifact.manifest, target="cuda:sm_90"))
    with pytest.raises(ArtifactError, match=r"needs a CUDA GPU.*\nhint: compile it with --target cpu"):
        Executable(cuda)


def test_device_path_with_the_cpu_as_device(tvm_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a CUDA artifact does (buffers on the device, copies both ways, waiting), with the CPU in its place."""
    monkeypatch.setattr(executors, "CUDA", executors.CPU)
    monkeypatch.setattr(executors, "load_cuda", lambda _origin: None)
    manifest = dataclasses.replace(tvm_artifact.manifest, target="cuda:sm_90")
    exe = Executable(dataclasses.replace(tvm_artifact, manifest=manifest))
    for batch in (3, 1, 0, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 4)).astype(np.float32)
        y = exe(x)
        assert y.shape == (batch, 3) and y.dtype == np.float32
        np.testing.assert_allclose(y, expected(x), rtol=1e-6, atol=1e-6)
    assert [row.name for row in exe.profile(np.ones((2, 4), np.float32))] == ["matmul", "add", "relu", "(other)"]


# --- torch ------------------------------------------------------------------------------------------------------------


def test_torch_result(torch_artifact: Artifact, tmp_path: Path) -> None:
    torch_artifact.save(tmp_path / "tiny.mrc")
    exe = load(tmp_path / "tiny.mrc")
    for x in (np.ones((3, 4), np.float32), np.ones((0, 4), np.float32), np.eye(4, dtype=np.float32)[::-1]):
        y = exe(x)
        assert y.flags.owndata and y.flags.writeable
        np.testing.assert_allclose(y, expected(x), rtol=1e-6, atol=1e-6)
    assert {"matmul", "add", "relu"} <= {row.name for row in exe.profile(np.ones((3, 4), np.float32))}
    assert exe.threads >= 1
    with pytest.raises(InputError, match="found float64"):
        exe(np.ones((3, 4)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": {}}, "member 'model.py' is missing"),
        ({"members": {"model.py": b"class Tiny(:"}}, "model.py cannot be loaded: SyntaxError"),
        ({"entry": {"class": "Absent"}}, "model.py cannot be loaded: AttributeError: .*'Absent'"),
        ({"entry": {}}, "model.py cannot be loaded: KeyError"),
    ],
)
def test_torch_refuses(torch_artifact: Artifact, change: dict[str, object], message: str) -> None:
    parts = {"members": torch_artifact.members, "entry": torch_artifact.manifest.entry} | change
    with pytest.raises(ArtifactError, match=message):
        Executable(Artifact.create(target="torch", signature=SIGNATURE, version="0", **parts))


def test_torch_missing_weight_is_named(torch_artifact: Artifact) -> None:
    members = {"model.py": torch_artifact.members["model.py"]}
    artifact = Artifact.create(
        target="torch", signature=SIGNATURE, members=members, version="0", entry={"class": "Tiny"}
    )
    with pytest.raises(ArtifactError, match=r"Missing key.*w.*b"):
        Executable(artifact)


# --- standing alone ---------------------------------------------------------------------------------------------------


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stdout.strip()


def test_import_loads_nothing_else() -> None:
    listed = run_python(
        "import sys, mercer.runtime\n"
        "heavy = {'torch', 'tvm', 'tvm_ffi', 'safetensors', 'scipy'} & set(sys.modules)\n"
        "mine = {name for name in sys.modules if name.startswith('mercer.')} - {'mercer.runtime', 'mercer.version'}\n"
        "print(sorted(heavy), sorted(name for name in mine if not name.startswith('mercer.runtime.')))"
    )
    assert listed == "[] []"


def test_runs_without_the_rest_of_mercer(tvm_artifact: Artifact, tmp_path: Path) -> None:
    """The folder copied alone, under another name, loads and runs an artifact; TVM's compiler stays unloaded."""
    source = Path(session.__file__).parent
    (tmp_path / "deployed").mkdir()
    for file in source.glob("*.py"):
        (tmp_path / "deployed" / file.name).write_bytes(file.read_bytes())
    tvm_artifact.save(tmp_path / "tiny.mrc")
    printed = run_python(
        "import sys, numpy, deployed\n"
        f"exe = deployed.load({str(tmp_path / 'tiny.mrc')!r})\n"
        "y = exe(numpy.ones((2, 4), 'float32'))\n"
        "print(y.shape, exe.threads, 'tvm' in sys.modules, any(name.startswith('mercer') for name in sys.modules))",
        PYTHONPATH=str(tmp_path),
        TVM_NUM_THREADS="1",
    )
    assert printed == "(2, 3) 1 False False"


def test_threads_can_be_set(tvm_artifact: Artifact, tmp_path: Path) -> None:
    tvm_artifact.save(tmp_path / "tiny.mrc")
    code = (
        "import numpy as np\n"
        "from mercer.runtime import load\n"
        f"exe = load({str(tmp_path / 'tiny.mrc')!r})\n"
        "x = np.ones((5, 4), np.float32)\n"
        "found = []\n"
        "for count in (1, 2, 1):\n"
        "    exe.threads = count\n"
        "    found.append((exe.threads, exe(x).tobytes()))\n"
        "print([threads for threads, _ in found], len({y for _, y in found}))"
    )
    assert run_python(code, TVM_NUM_THREADS="2") == "[1, 2, 1] 1"
