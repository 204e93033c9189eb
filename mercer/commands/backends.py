"""The three ways to run a model that commands compare: the NumPy reference, the PyTorch module, the binary."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mercer.commands.arrays import as_tuple
from mercer.compiler import Program, compile
from mercer.ir.types import Array
from mercer.runtime.session import Executable

Arrays: TypeAlias = Mapping[str, Array]
Runner: TypeAlias = Callable[[Sequence[Array]], tuple[Array, ...]]
"""From the inputs, in order, to the outputs."""


def reference(program: Program, weights: Arrays) -> Runner:
    """The meaning of the program."""
    return lambda inputs: program.evaluate(*inputs, weights=weights)


def torch(program: Program, weights: Arrays) -> Runner:
    """The generated PyTorch module, in evaluation mode."""
    library: Any = importlib.import_module("torch")
    from mercer.backends.torch import module

    net = module(program.graph, program.library, weights).eval()

    def run(inputs: Sequence[Array]) -> tuple[Array, ...]:
        with library.no_grad():
            results = as_tuple(net(*(library.from_numpy(np.array(x)) for x in inputs)))
        return tuple(np.asarray(result) for result in results)

    return run


@dataclass(frozen=True)
class Binary:
    """All passes, then what TVM builds; a Runner."""

    executable: Executable

    def __call__(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        return as_tuple(self.executable(*inputs))


def cpu(program: Program, weights: Arrays) -> Binary:
    """The binary for this machine."""
    return Binary(compile(program, "cpu", weights))
