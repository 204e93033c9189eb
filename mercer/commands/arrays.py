"""Arrays in files: the inputs and outputs of `mercer run`. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from mercer.commands.show import write_whole
from mercer.compiler import UsageError
from mercer.ir.types import Array


def read_inputs(path: Path) -> tuple[tuple[Array, ...], dict[str, Array]]:
    """Inputs by position (one, from a `.npy` file) and by name (from a `.npz` file). Raises UsageError."""
    try:
        with path.open("rb") as file:
            content: Any = np.load(file, allow_pickle=False)
            if isinstance(content, np.lib.npyio.NpzFile):
                return (), {name: content[name] for name in content.files}
            return (content,), {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        if "Object arrays" in str(error):
            hint = "save arrays of numbers: np.savez(path, x=x.astype(np.float32))"
            raise UsageError(f"{path} holds Python objects, which are never unpickled", hint) from error
        hint = "np.savez(path, x=array) writes one; the keys are the names of the inputs"
        raise UsageError(f"{path} is not a whole .npz or .npy file", hint) from error


def read_batch(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Inputs of a model by name: from a `.npz` file, or a `.npy` file for a single one. Raises UsageError."""
    single, named = read_inputs(path)
    if single and len(names) != 1:
        raise UsageError(f"{path} holds one array; the model takes {', '.join(names)}", "save them by name: np.savez")
    return dict(zip(names, single, strict=True)) if single else named


def as_tuple(result: Any) -> tuple[Array, ...]:
    """What a call of an executable gives: one array, or a tuple of several."""
    return cast("tuple[Array, ...]", result) if isinstance(result, tuple) else (result,)


def write_outputs(path: Path, names: Sequence[str], arrays: Sequence[Array]) -> None:
    """Write a `.npz` with one array per output, or a `.npy` for a single one. Raises UsageError."""
    if path.suffix not in (".npz", ".npy"):
        raise UsageError(f"{path}: outputs are written as .npz or .npy", f"{path.with_suffix('.npz')}")
    if path.suffix == ".npz":
        write_whole(path, lambda file: np.savez(file, allow_pickle=False, **dict(zip(names, arrays, strict=True))))
        return
    if len(arrays) != 1:
        raise UsageError(f"{path}: a .npy file holds one array; there are {len(arrays)} outputs", "use .npz")
    write_whole(path, lambda file: np.save(file, arrays[0], allow_pickle=False))
