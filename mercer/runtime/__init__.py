"""The runtime: reads an artifact and runs it. Needs NumPy and the engine of the target, and nothing else of Mercer."""

from __future__ import annotations

from .artifact import Artifact, Manifest, Member, Signature, TensorSpec
from .errors import ArtifactError, InputError, MercerError, nearest
from .profile import OpTime, median_microseconds
from .session import Executable, load

__all__ = [
    "Artifact",
    "ArtifactError",
    "Executable",
    "InputError",
    "Manifest",
    "Member",
    "MercerError",
    "OpTime",
    "Signature",
    "TensorSpec",
    "load",
    "median_microseconds",
    "nearest",
]
