"""Mercer: a compiler for kernel networks and convolution networks.

`parse` reads a model, `compile` makes an executable of it, `load` reads one back. Nothing heavy is imported before it
is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mercer.version import VERSION as __version__

if TYPE_CHECKING:
    from mercer.compiler import Program, compile, parse, parse_text
    from mercer.frontend.diagnostics import CompileError
    from mercer.runtime.errors import ArtifactError, InputError, MercerError
    from mercer.runtime.session import Executable, load

_HOMES = {
    "Program": "mercer.compiler",
    "compile": "mercer.compiler",
    "parse": "mercer.compiler",
    "parse_text": "mercer.compiler",
    "CompileError": "mercer.frontend.diagnostics",
    "ArtifactError": "mercer.runtime.errors",
    "InputError": "mercer.runtime.errors",
    "MercerError": "mercer.runtime.errors",
    "Executable": "mercer.runtime.session",
    "load": "mercer.runtime.session",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'mercer' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "ArtifactError",
    "CompileError",
    "Executable",
    "InputError",
    "MercerError",
    "Program",
    "__version__",
    "compile",
    "load",
    "parse",
    "parse_text",
]
