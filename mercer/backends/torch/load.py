"""The generated module, ready to run and to train."""

from __future__ import annotations

import hashlib
import linecache
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import cast

import numpy as np
import torch
from torch import nn

from mercer.backends.torch.fake import Quantized, Rounding
from mercer.backends.torch.functions import TORCH_TYPES
from mercer.backends.torch.generate import class_name, source
from mercer.ir.graph import Graph, Parameter
from mercer.ir.library import Library
from mercer.ir.types import Array, DType
from mercer.runtime.errors import InputError, nearest


def module(graph: Graph, library: Library, initial: Mapping[str, Array]) -> nn.Module:
    """The model as an `nn.Module` with the given values of its parameters.

    `initial` has one array of the declared shape for each parameter and buffer; float arrays are converted to the
    declared element type. Raises InputError for a missing, unknown or mis-shaped array.
    """
    generated = _imported(graph.name, source(graph, library))
    return _filled(cast("type[nn.Module]", getattr(generated, class_name(graph))), graph, initial)


def trainable(
    graph: Graph,
    library: Library,
    initial: Mapping[str, Array],
    rounding: Rounding,
    build: Callable[[Mapping[str, torch.Tensor]], nn.Module],
) -> nn.Module:
    """The model with fake quantization while it trains; else what `build` makes of its state, in integers."""
    generated = _imported(graph.name, source(graph, library, rounding))
    name = class_name(graph)
    bases = (Quantized, getattr(generated, name))
    return _filled(type(name, bases, {"build": staticmethod(build), "__doc__": bases[1].__doc__}), graph, initial)


def _filled(kind: type[nn.Module], graph: Graph, initial: Mapping[str, Array]) -> nn.Module:
    declared = {parameter.name: parameter for parameter in graph.parameters}
    for name in initial:
        if name not in declared:
            near = nearest(name, declared)
            raise InputError(f"the model has no parameter `{name}`", f"did you mean `{near}`?" if near else None)
    if missing := [name for name in declared if name not in initial]:
        raise InputError(f"no value is given for the parameter `{missing[0]}`")
    net = kind()
    net.load_state_dict({name: _tensor(parameter, initial[name]) for name, parameter in declared.items()})
    return net


def _imported(name: str, text: str) -> ModuleType:
    """The source as a module; its lines are known to tracebacks, debuggers and `torch.compile`."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    module_name = f"mercer_{name}_{digest}"
    if module_name not in sys.modules:
        file = f"<mercer {name} {digest}>"
        generated = ModuleType(module_name)
        generated.__file__ = file
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec"), generated.__dict__)
        sys.modules[module_name] = generated
    return sys.modules[module_name]


def _tensor(parameter: Parameter, array: Array) -> torch.Tensor:
    shape = tuple(extent.value for extent in parameter.type.shape)
    if array.shape != shape:
        raise InputError(
            f"parameter `{parameter.name}` has shape {list(shape)}; the array given has {list(array.shape)}"
        )
    if parameter.type.dtype is DType.BF16:  # NumPy has no bfloat16 that PyTorch reads
        return torch.from_numpy(np.asarray(array, np.float32)).to(torch.bfloat16)
    dtype: torch.dtype = getattr(torch, TORCH_TYPES[parameter.type.dtype].removeprefix("torch."))
    return torch.from_numpy(np.array(array, parameter.type.dtype.numpy)).to(dtype)
