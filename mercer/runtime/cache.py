"""What was made before, by what it was made from: artifacts and other files in the user's cache folder.

MERCER_CACHE names another folder, or is `off`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .artifact import Artifact, cpu_features
from .errors import ArtifactError

LARGEST = 1 << 30
"""Bytes that the cache keeps: what was not used for the longest time goes first."""


def user_folder() -> Path:
    """Where files of Mercer go that can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mercer")


def folder() -> Path | None:
    """Where artifacts are kept; None when they are not."""
    given = os.environ.get("MERCER_CACHE")
    return None if given == "off" else Path(given) if given else user_folder() / "artifacts"


def key(parts: Iterable[str | bytes | npt.NDArray[Any]]) -> str:
    """A digest of texts and arrays, of this machine's CPU, and of everything that compiles."""
    digest = hashlib.sha256(_compiler())
    for part in (_tuned(), *parts):
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape} ".encode())
            content: Any = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        else:
            content = part.encode() if isinstance(part, str) else part
        digest.update(f"{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def _tuned() -> bytes:
    """The user's measurements of schedules."""
    try:
        return Path(os.environ.get("MERCER_DATABASE") or user_folder() / "tuned.json").read_bytes()
    except OSError:
        return b""


@functools.cache
def _compiler() -> bytes:
    """The files of Mercer, by size and time, the version of TVM, the features of the CPU."""
    root = Path(__file__).parents[1]
    files = sorted(path for path in root.rglob("*") if path.suffix not in ("", ".pyc"))
    stamps = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    try:
        version = importlib.metadata.version("apache-tvm")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return repr((stamps, version, sorted(cpu_features() or ()))).encode()


def cached(name: str, make: Callable[[], Artifact]) -> Artifact:
    """The artifact of that key, made when it is not there. A cache that cannot be used is as good as none."""
    place = folder()
    if place is None:
        return make()
    path = place / f"{name}.mrc"
    try:
        found = replace(Artifact.load(path, check_cpu=False), origin="this artifact")
    except ArtifactError:
        found = make()
        with contextlib.suppress(OSError, ArtifactError):
            place.mkdir(parents=True, exist_ok=True)
            found.save(path)
            _prune(place)
    else:
        with contextlib.suppress(OSError):
            os.utime(path)
    return found


def remembered(name: str, parts: Iterable[str], make: Callable[[], str]) -> str:
    """The text that was made of the same parts before, made when it is not there or damaged."""
    place = folder()
    if place is None:
        return make()
    path = place / f"{name}-{hashlib.sha256(repr(tuple(parts)).encode()).hexdigest()}.txt"
    with contextlib.suppress(OSError, ValueError):
        digest, _, text = path.read_text(encoding="utf-8").partition("\n")
        if digest == _digest(text):
            return text
    text = make()
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{secrets.token_hex(8)}.partial")
        partial.write_text(f"{_digest(text)}\n{text}", encoding="utf-8")
        partial.replace(path)
    return text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _prune(place: Path) -> None:
    """Remove what was not used for the longest time, until the rest fits."""
    files = sorted(((stat := path.stat()).st_mtime, stat.st_size, path) for path in place.glob("*.mrc"))
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= LARGEST:
            return
        path.unlink(missing_ok=True)
        total -= size
