"""The container: what goes in comes out, equal content gives equal bytes, and nothing damaged gets through."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from mercer.runtime import Artifact, ArtifactError, Manifest, Signature, TensorSpec, artifact
from mercer.runtime.artifact import MANIFEST, SEAL_LENGTH


def sealed(contents: Mapping[str, bytes]) -> bytes:
    """A well sealed zip of these members, whether or not they fit together."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        archive.comment = b"0" * SEAL_LENGTH
    body = buffer.getvalue()[:-SEAL_LENGTH]
    return body + artifact._seal(body)


def with_manifest(tiny: Artifact, **changes: object) -> bytes:
    manifest = dataclasses.replace(tiny.manifest, **changes)
    return sealed({MANIFEST: manifest.to_json()} | dict(tiny.members))


def test_round_trip(tiny: Artifact, tmp_path: Path) -> None:
    tiny.save(tmp_path / "tiny.mrc")
    again = Artifact.load(tmp_path / "tiny.mrc")
    assert again.manifest == tiny.manifest
    assert dict(again.members) == dict(tiny.members)
    assert again.manifest.signature.inputs[0].shape == ("N", 4)
    assert repr(again.manifest.signature) == "(x: f32[N, 4]) -> (y: f32[N, 3])"


def test_equal_content_gives_equal_bytes(tiny: Artifact, tmp_path: Path) -> None:
    shuffled = Artifact.create(
        target=tiny.manifest.target,
        signature=tiny.manifest.signature,
        members={name: tiny.members[name] for name in reversed(tiny.members)},
        version=tiny.manifest.version,
        entry=tiny.manifest.entry,
        ledger=tiny.manifest.ledger,
    )
    assert shuffled.to_bytes() == tiny.to_bytes()
    tiny.save(tmp_path / "a.mrc")
    Artifact.load(tmp_path / "a.mrc").save(tmp_path / "b.mrc")
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes() == tiny.to_bytes()


def test_is_an_ordinary_zip(tiny: Artifact) -> None:
    with zipfile.ZipFile(io.BytesIO(tiny.to_bytes())) as archive:
        assert archive.namelist() == [MANIFEST, "ir/graph.mir", "lib.so", "weights.safetensors"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.testzip() is None


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_any_flipped_byte_is_found(tiny: Artifact, tmp_path: Path, flip: int) -> None:
    content = tiny.to_bytes()
    assert len(content) < 4096
    path = tmp_path / "flipped.mrc"
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"damaged|cut off|changed|missing|not a Mercer|not in the man") as info:
            Artifact.load(path)
        assert info.value.message.startswith(f"{path}: "), position
        assert "\n" not in info.value.message and info.value.hint, position


def test_any_cut_is_found(tiny: Artifact, tmp_path: Path) -> None:
    content = tiny.to_bytes()
    path = tmp_path / "cut.mrc"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError) as info:
            Artifact.load(path)
        wanted = "empty" if length == 0 else "not a Mercer artifact" if length < 4 else "cut off"
        assert wanted in info.value.message, (length, info.value.message)


def test_a_changed_member_is_named(tiny: Artifact, tmp_path: Path) -> None:
    content = bytearray(tiny.to_bytes())
    content[content.index(b"graph tiny")] ^= 1
    path = tmp_path / "changed.mrc"
    path.write_bytes(content)
    with pytest.raises(
        ArtifactError, match=r"changed.mrc: member .ir/graph.mir. was changed: Bad CRC-32 for file 'ir/graph.mir'"
    ):
        Artifact.load(path)


def test_without_the_seal_a_change_would_pass(tiny: Artifact, tmp_path: Path) -> None:
    """The planted fault: file attributes in the zip directory are covered by no checksum but the seal."""
    content = bytearray(tiny.to_bytes())
    content[content.rindex(b"PK\1\2") + 38] ^= 1
    path = tmp_path / "changed.mrc"
    path.write_bytes(content)
    artifact._check_members(*artifact._unpack(artifact._read(path)))
    with pytest.raises(ArtifactError, match="bytes were changed, its seal does not fit"):
        Artifact.load(path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"lib.so": None}, "member 'lib.so' is missing"),
        ({"extra.txt": b"hello"}, "member 'extra.txt' is not in the manifest"),
        ({"lib.so": b"other"}, "member 'lib.so' was changed"),
        ({MANIFEST: None}, "it holds no manifest.json"),
        ({MANIFEST: b"{}"}, "manifest.json is not a Mercer manifest"),
        ({MANIFEST: b"[1]"}, "manifest.json is not a Mercer manifest"),
        ({MANIFEST: b"\xff"}, "manifest.json is not a Mercer manifest"),
    ],
)
@pytest.mark.parametrize("seal", [True, False])
def test_members_against_manifest(
    tiny: Artifact, tmp_path: Path, contents: dict[str, bytes | None], message: str, seal: bool
) -> None:
    members = {MANIFEST: tiny.manifest.to_json()} | dict(tiny.members) | contents
    file = sealed({name: content for name, content in members.items() if content is not None})
    path = tmp_path / "wrong.mrc"
    path.write_bytes(file if seal else file[:-SEAL_LENGTH] + b"0" * SEAL_LENGTH)
    with pytest.raises(ArtifactError, match=message):
        Artifact.load(path)


def test_newer_format(tiny: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "new.mrc"
    path.write_bytes(with_manifest(tiny, format=2))
    with pytest.raises(ArtifactError, match=r"written by a newer Mercer: format 2, this one reads 1\nhint: update"):
        Artifact.load(path)
    newer_in_every_way = zipfile.ZipFile(path, "w")
    newer_in_every_way.writestr(MANIFEST, '{"format": 7, "unheard": "of"}')
    newer_in_every_way.close()
    with pytest.raises(ArtifactError, match="format 7, this one reads 1"):
        Artifact.load(path)


def test_missing_cpu_feature(tiny: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "wide.mrc"
    path.write_bytes(with_manifest(tiny, cpu_features=("avx2", "sse4.2", "avx512vnni", "lzcnt")))
    monkeypatch.setattr(artifact, "cpu_features", lambda: frozenset({"avx2", "sse42", "avx512vnni", "abm"}))
    monkeypatch.setattr(artifact.platform, "machine", lambda: "x86_64")
    Artifact.load(path)
    monkeypatch.setattr(artifact, "cpu_features", lambda: frozenset({"avx2", "sse42"}))
    with pytest.raises(
        ArtifactError, match=rf"{path}: this CPU has no avx512vnni, lzcnt, which the binary uses\nhint:"
    ):
        Artifact.load(path)
    assert Artifact.load(path, check_cpu=False).manifest.cpu_features[0] == "avx2"
    monkeypatch.setattr(artifact, "cpu_features", lambda: None)
    Artifact.load(path)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux")
def test_cpu_features_of_this_machine() -> None:
    features = artifact.cpu_features()
    assert features
    assert "sse2" in features or "asimd" in features or "fp" in features


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match=r"none.mrc: no such file\nhint: `mercer compile"):
        Artifact.load(tmp_path / "none.mrc")
    with pytest.raises(ArtifactError, match="is a folder, not an artifact"):
        Artifact.load(tmp_path)
    (tmp_path / "text.mrc").write_text("model Digits(x: f32[N, 64])")
    with pytest.raises(ArtifactError, match=r"text.mrc: not a Mercer artifact: not a zip file\nhint: expected a .mrc"):
        Artifact.load(tmp_path / "text.mrc")

    def refuse(_path: Path, _mode: str) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ArtifactError, match=r"text.mrc: cannot be read: Permission denied"):
        Artifact.load(tmp_path / "text.mrc")


def test_unwritable(tiny: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match=r"the folder .*missing does not exist\nhint: mkdir -p"):
        tiny.save(tmp_path / "missing" / "tiny.mrc")
    (tmp_path / "folder.mrc").mkdir()
    with pytest.raises(ArtifactError, match=r"folder.mrc: is a folder"):
        tiny.save(tmp_path / "folder.mrc")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.mrc"]

    def refuse(*_arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ArtifactError, match=r"tiny.mrc: cannot be written: Permission denied\nhint: check the folder"):
        tiny.save(tmp_path / "tiny.mrc")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_save_leaves_no_file(
    tiny: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    def interrupt(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(os, failing, interrupt)
    wanted = ArtifactError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(wanted, match="No space left" if wanted is ArtifactError else None):
        tiny.save(tmp_path / "tiny.mrc")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "tiny.mrc").write_bytes(b"the one before")
    with pytest.raises(wanted):
        tiny.save(tmp_path / "tiny.mrc")
    assert (tmp_path / "tiny.mrc").read_bytes() == b"the one before"
    assert len(list(tmp_path.iterdir())) == 1


def test_saved_file_follows_umask(tiny: Artifact, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        tiny.save(tmp_path / "tiny.mrc")
    finally:
        os.umask(before)
    assert (tmp_path / "tiny.mrc").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["../up", "/root", "a/../b", "", "a//b", MANIFEST, ".hidden", "a\\b"])
def test_bad_member_names(name: str) -> None:
    with pytest.raises(ArtifactError, match="cannot be the name of a member"):
        Artifact.create(target="cpu", signature=Signature((), ()), members={name: b""}, version="0")


def test_ledger_must_be_json() -> None:
    with pytest.raises(ArtifactError, match="cannot be written as JSON: Out of range float"):
        Artifact.create(
            target="cpu", signature=Signature((), ()), members={}, version="0", ledger=[{"error": float("nan")}]
        )


@pytest.mark.parametrize("dim", ["2*", "f(N)", "N.real", "N if N else 1", "1.5"])
def test_bad_dims(dim: str) -> None:
    signature = Signature((TensorSpec("x", "f32", (dim,)),), ())
    with pytest.raises(ArtifactError, match="is not an expression over dims"):
        Artifact.create(target="cpu", signature=signature, members={}, version="0")


def test_manifest_is_plain_json(tiny: Artifact) -> None:
    assert Manifest.from_json(tiny.manifest.to_json()) == tiny.manifest
