"""The `.mrc` artifact: one sealed zip file that holds a compiled model and everything needed to check and explain it.

Layout: `manifest.json` first, then the members in sorted order, all stored without compression and without dates, the
weights at a multiple of 64 bytes; the zip comment is the seal, the SHA-256 of every byte before it. Reading verifies
the seal, the format, and each member against the manifest before anything is handed out. The seal finds damage, not
malice: an artifact holds machine code, so run only what you would run as a program.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import json
import mmap
import os
import platform
import re
import secrets
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import numpy as np

from .errors import ArtifactError
from .weights import ALIGNMENT, MEMBER as WEIGHTS

FORMAT = 1
MANIFEST = "manifest.json"
SEAL = b"mercer-seal sha256:"
SEAL_LENGTH = len(SEAL) + 64
AGAIN = "copy the file again from its source, or compile it again"

PADDING = 0xD935
"""The extra field of a zip member that aligns what follows (as in `zipalign` of Android)."""

LOCAL_HEADER = 30
"""Bytes before the name of a zip member: the last four are the lengths of the name and of the extra field."""

Content: TypeAlias = bytes | memoryview

Dim: TypeAlias = int | str
"""A size: a number, a symbol such as "N", or an expression over symbols such as "2*N"."""

DTYPES = {
    name: np.dtype(numpy_name)
    for name, numpy_name in {
        "f64": "float64", "f32": "float32", "f16": "float16", "i64": "int64", "i32": "int32", "i16": "int16",
        "i8": "int8", "i4": "int8", "u8": "uint8", "bool": "bool", "c64": "complex64",
    }.items()
}  # fmt: skip
"""Mercer dtype to NumPy dtype; i4 travels as one int8 per value."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, Mercer dtype (`f32`, `i8`, ...) and shape of one input or output."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True, repr=False)
class Signature:
    """What an executable takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __repr__(self) -> str:
        return f"({', '.join(map(str, self.inputs))}) -> ({', '.join(map(str, self.outputs))})"


def bind_dim(dim: Dim, size: int, symbols: dict[str, int]) -> int | None:
    """The size that `dim` stands for, None when that cannot be told; a symbol seen first is bound to fit `size`.

    An expression with one unknown symbol is solved when it is affine in it: 2*N = 6 binds N = 3.
    """
    if isinstance(dim, int):
        return dim
    unknown = free_symbols(dim) - symbols.keys()
    if not unknown:
        return evaluate_dim(dim, symbols)
    if dim in unknown:
        return symbols.setdefault(dim, size)
    if len(unknown) > 1:
        return None
    (symbol,) = unknown
    at = [evaluate_dim(dim, symbols | {symbol: value}) for value in range(3)]
    slope = at[1] - at[0]
    if slope == 0 or at[2] - at[1] != slope:
        return None
    symbols[symbol] = max(0, (size - at[0]) // slope)
    return evaluate_dim(dim, symbols)


def bind_symbols(shapes: Sequence[Sequence[Dim]], sizes: Sequence[Sequence[int]]) -> dict[str, int]:
    """The value of every symbol, where the sizes fit the shapes; a symbol alone on an axis comes before 2*N."""
    pairs = [pair for shape, size in zip(shapes, sizes, strict=True) for pair in zip(shape, size, strict=True)]
    symbols: dict[str, int] = {}
    for dim, size in sorted(pairs, key=lambda pair: isinstance(pair[0], str) and not pair[0].isidentifier()):
        bind_dim(dim, size, symbols)
    return symbols


OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a // b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b,
}


@functools.lru_cache(maxsize=1024)
def _parse_dim(dim: str) -> ast.expr:
    return ast.parse(dim, mode="eval").body


def free_symbols(dim: str) -> set[str]:
    """Names in an expression over dims, without the functions min and max."""
    return {node.id for node in ast.walk(_parse_dim(dim)) if isinstance(node, ast.Name)} - {"min", "max"}


def evaluate_dim(dim: Dim, symbols: Mapping[str, int]) -> int:
    """Value of a dim: integers, symbols, + - * / // % **, min and max; `/` rounds down. ValueError on anything else."""

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=name):
                return symbols[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(left), value(right))
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=args):
                return (min if name == "min" else max)(map(value, args))
            case _:
                raise ValueError(f"{dim!r} is not an expression over dims")

    return dim if isinstance(dim, int) else value(_parse_dim(dim))


def check_dims(spec: TensorSpec) -> None:
    """Raise ArtifactError when a dim is neither a size, a symbol nor an expression over symbols."""
    for dim in spec.shape:
        try:
            evaluate_dim(dim, dict.fromkeys(free_symbols(str(dim)), 1))
        except (SyntaxError, ValueError) as error:
            raise ArtifactError(f"{spec}: {dim!r} is not an expression over dims") from error
        except ZeroDivisionError:
            continue


@dataclass(frozen=True, slots=True)
class Member:
    """Digest (hexadecimal SHA-256) and size of one member."""

    sha256: str
    bytes: int

    @classmethod
    def of(cls, content: Content) -> Member:
        return cls(hashlib.sha256(content).hexdigest(), len(content))


@dataclass(frozen=True)
class Manifest:
    """What an artifact says about itself.

    `entry` tells the executor of the target how to start (`weights`: names passed after the inputs, `function`,
    `class`, `sources`: operator -> source line); `ledger` is the list of rewrites, opaque here. `entry` and `ledger`
    hold only what JSON can.
    """

    target: str
    signature: Signature
    version: str
    cpu_features: tuple[str, ...] = ()
    entry: Mapping[str, Any] = field(default_factory=dict[str, Any])
    ledger: tuple[Mapping[str, Any], ...] = ()
    members: Mapping[str, Member] = field(default_factory=dict[str, Member])
    format: int = FORMAT

    def to_json(self) -> bytes:
        """UTF-8 text with sorted keys: equal manifests give equal bytes. Raises ArtifactError where JSON cannot."""
        plain = ("format", "version", "target", "cpu_features", "entry", "ledger")
        fields = {name: getattr(self, name) for name in plain}
        fields["signature"] = asdict(self.signature)
        fields["members"] = {name: asdict(member) for name, member in self.members.items()}
        try:
            return json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"the manifest cannot be written as JSON: {error}") from error

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Raises ArtifactError when the text is not a manifest, or is one of a newer format."""
        try:
            fields = cast("dict[str, Any]", json.loads(text))
            if (number := int(fields["format"])) > FORMAT:
                raise ArtifactError(
                    f"written by a newer Mercer: format {number}, this one reads {FORMAT}",
                    hint="update the Mercer runtime on this machine, or compile again with this version",
                )
            signature = {
                side: tuple(TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in specs)
                for side, specs in fields.pop("signature").items()
            }
            for spec in (*signature["inputs"], *signature["outputs"]):
                check_dims(spec)
            members = {name: Member(**member) for name, member in fields.pop("members").items()}
            features, ledger = tuple(fields.pop("cpu_features")), tuple(fields.pop("ledger"))
            return cls(
                signature=Signature(**signature), members=members, cpu_features=features, ledger=ledger, **fields
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{MANIFEST} is not a Mercer manifest ({type(error).__name__}: {error})") from error


@dataclass(frozen=True)
class Artifact:
    """A compiled model: its manifest and the bytes of its members. `origin` names it in error messages.

    The weights of a file that was loaded lie in the one copy of it in memory, which may be written to.
    """

    manifest: Manifest
    members: Mapping[str, Content] = field(repr=False)
    origin: str = field(default="this artifact", compare=False)

    @classmethod
    def create(
        cls,
        *,
        target: str,
        signature: Signature,
        members: Mapping[str, Content],
        version: str,
        cpu_features: Iterable[str] = (),
        entry: Mapping[str, Any] | None = None,
        ledger: Iterable[Mapping[str, Any]] = (),
    ) -> Artifact:
        """Build an artifact; digests are computed here. Raises ArtifactError on a bad member name or manifest."""
        for name in members:
            if name == MANIFEST or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", name, re.ASCII):
                raise ArtifactError(f"{name!r} cannot be the name of a member")
        manifest = Manifest(
            target=target,
            signature=signature,
            version=version,
            cpu_features=tuple(cpu_features),
            entry=dict(entry or {}),
            ledger=tuple(ledger),
            members={name: Member.of(members[name]) for name in sorted(members)},
        )
        return cls(Manifest.from_json(manifest.to_json()), MappingProxyType(dict(members)))

    def to_bytes(self) -> bytes:
        """The file as bytes; the same content always gives the same bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            contents = {MANIFEST: self.manifest.to_json()} | {name: self.members[name] for name in sorted(self.members)}
            for name, content in contents.items():
                info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o644 << 16
                if name == WEIGHTS:
                    begin = buffer.tell() + LOCAL_HEADER + len(name) + 4
                    info.extra = struct.pack("<HH", PADDING, -begin % ALIGNMENT) + bytes(-begin % ALIGNMENT)
                archive.writestr(info, content)
            archive.comment = SEAL + b"0" * 64
        body = buffer.getvalue()[:-SEAL_LENGTH]
        return body + _seal(body)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all. Raises ArtifactError when the folder is missing or not writable."""
        path = Path(path)
        content = self.to_bytes()
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        try:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            raise _cannot_write(path, error) from error
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise _cannot_write(path, error) from error
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, check_cpu: bool = True) -> Artifact:
        """Read a file and check all of it; `check_cpu = False` is for those who only look inside.

        Raises ArtifactError: unreadable, not an artifact, cut off, changed in any byte, a member missing or too many,
        a newer format, a CPU feature missing here.
        """
        path = Path(path)
        try:
            artifact = cls._parse(_read(path), str(path))
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error.message}", error.hint) from error
        if check_cpu:
            artifact.check_cpu()
        return artifact

    @classmethod
    def _parse(cls, content: mmap.mmap, origin: str) -> Artifact:
        whole = memoryview(content)
        if bytes(whole[-SEAL_LENGTH:]) != _seal(whole[:-SEAL_LENGTH]):
            raise _diagnose(content)
        manifest, members = _unpack(content)
        _check_members(manifest, members)
        return cls(manifest, MappingProxyType(members), origin)

    def check_cpu(self) -> None:
        """Raise ArtifactError when this machine is known to lack a CPU feature that the binary uses."""
        present = cpu_features()
        if present is None:
            return
        missing = [feature for feature in self.manifest.cpu_features if _feature_key(feature) not in present]
        if missing:
            raise ArtifactError(
                f"{self.origin}: this CPU has no {', '.join(missing)}, which the binary uses",
                hint="compile it again on this machine",
            )

    def member(self, name: str) -> bytes:
        """The bytes of a member that the target needs. Raises ArtifactError when there is none of that name."""
        if name not in self.members:
            raise ArtifactError(
                f"{self.origin}: member {name!r} is missing, target {self.manifest.target!r} cannot run without it",
                hint="compile it again",
            )
        return bytes(self.members[name])


@functools.cache
def cpu_features() -> frozenset[str] | None:
    """Features of this CPU, spelled without punctuation; None where they cannot be found out (not Linux)."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(map(_feature_key, flags[1].split())) if flags else None


def _feature_key(name: str) -> str:
    """LLVM and Linux spell features differently: sse4.2 and sse4_2, avx512vnni and avx512_vnni, lzcnt and abm."""
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    linux = {"sse3": "pni", "lzcnt": "abm", "rdrnd": "rdrand", "prfchw": "3dnowprefetch", "sahf": "lahflm"}
    arm = {"neon": "asimd", "fullfp16": "asimdhp", "dotprod": "asimddp"}
    return (arm if platform.machine() in ("aarch64", "arm64") else linux).get(key, key)


def _seal(body: Content) -> bytes:
    return SEAL + hashlib.sha256(body).hexdigest().encode()


class _Memory(mmap.mmap):
    """A file in memory of its own, at the beginning of a page, as zipfile wants to see it."""

    def seekable(self) -> bool:
        return True


def _read(path: Path) -> _Memory:
    """Raises ArtifactError."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise ArtifactError("the file is empty", hint=AGAIN)
            content = _Memory(-1, size)
            file.readinto(content)
            return content
    except FileNotFoundError as error:
        raise ArtifactError("no such file", hint="`mercer compile FILE.mer -o OUT.mrc` makes one") from error
    except IsADirectoryError as error:
        raise ArtifactError("is a folder, not an artifact", hint="give the .mrc file inside it") from error
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", hint="check the permissions of the file") from error


def _cannot_write(path: Path, error: OSError) -> ArtifactError:
    if not path.parent.exists():
        return ArtifactError(f"{path}: the folder {path.parent} does not exist", hint=f"mkdir -p {path.parent}")
    if path.is_dir():
        return ArtifactError(f"{path}: is a folder", hint="give the name of a file inside it")
    return ArtifactError(f"{path}: cannot be written: {error.strerror}", hint=f"check the folder {path.parent}")


def _unpack(content: mmap.mmap) -> tuple[Manifest, dict[str, Content]]:
    """Manifest and members of a zip file. Raises ArtifactError on a bad manifest, zipfile's errors on a bad zip."""
    with zipfile.ZipFile(cast("Any", content)) as archive:
        names = archive.namelist()
        if MANIFEST not in names:
            raise ArtifactError(f"not a Mercer artifact: it holds no {MANIFEST}", hint="expected a .mrc file")
        contents: dict[str, Content] = {}
        for name in names:
            try:
                contents[name] = _in_place(content, archive.getinfo(name)) or archive.read(name)
            except zipfile.BadZipFile as error:
                raise ArtifactError(f"member {name!r} was changed: {error}", hint=AGAIN) from error
    return Manifest.from_json(bytes(contents.pop(MANIFEST))), contents


def _in_place(content: mmap.mmap, info: zipfile.ZipInfo) -> memoryview | None:
    """The weights where they lie; None for what else there is, which is small."""
    if info.filename != WEIGHTS or info.compress_type != zipfile.ZIP_STORED:
        return None
    start = info.header_offset + LOCAL_HEADER
    start += sum(struct.unpack("<HH", content[start - 4 : start]))  # the lengths of the name and of the extra field
    return memoryview(content)[start : start + info.file_size]


def _check_members(manifest: Manifest, members: Mapping[str, Content]) -> None:
    for name in sorted(manifest.members.keys() | members.keys()):
        if name not in members:
            fault = f"member {name!r} is missing"
        elif name not in manifest.members:
            fault = f"member {name!r} is not in the manifest"
        elif Member.of(members[name]) != manifest.members[name]:
            fault = f"member {name!r} was changed: its SHA-256 differs from the manifest"
        else:
            continue
        raise ArtifactError(fault, hint=AGAIN)


def _diagnose(content: mmap.mmap) -> ArtifactError:
    """Why a file whose seal does not fit is refused, as exactly as can be told."""
    end = content.rfind(b"PK\5\6")
    if end < 0 and content[:4] != b"PK\3\4":
        return ArtifactError("not a Mercer artifact: not a zip file", hint="expected a .mrc file")
    comment = int.from_bytes(content[end + 20 : end + 22], "little")
    if end < 0 or len(content) < end + 22 + comment:
        return ArtifactError("cut off: the end of the file is missing", hint=AGAIN)
    try:
        _check_members(*_unpack(content))
    except ArtifactError as error:
        return error
    except Exception as error:  # damaged zip structures raise almost anything
        return ArtifactError(f"damaged: {error}", hint=AGAIN)
    return ArtifactError("damaged: bytes were changed, its seal does not fit", hint=AGAIN)
