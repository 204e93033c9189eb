"""From text to artifact: the one file that knows every room below."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mercer.frontend.diagnostics import CompileError
from mercer.frontend.elaborate import elaborate, find_model
from mercer.frontend.library import DefinitionLibrary, default_library, load
from mercer.frontend.parser import parse as parse_syntax
from mercer.frontend.syntax import Definition
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import AttributeValue, Graph, Parameter, Value
from mercer.ir.initializers import initialize
from mercer.ir.lower import lower
from mercer.ir.nests import Nests
from mercer.ir.text import parse_program, print_graph, print_nests
from mercer.ir.types import Array, DType, TensorType
from mercer.ir.verify import verify
from mercer.passes.chunk_scan import ChunkScan
from mercer.passes.dumps import dump, made
from mercer.passes.manager import Lower, Pass, PassContext, Program as IR, parse_pipeline, run_passes
from mercer.passes.narrow import Narrow
from mercer.passes.pipeline import INFERENCE, PASSES, quantized
from mercer.passes.quantize.quantize import Plan, Quantize
from mercer.passes.quantize.ranges import PREFIX
from mercer.passes.quantize.training import training, typical
from mercer.runtime.artifact import Artifact, Signature, TensorSpec
from mercer.runtime.cache import cached, key
from mercer.runtime.collector import uncollected
from mercer.runtime.errors import MercerError, nearest
from mercer.runtime.session import Executable
from mercer.runtime.weights import save, store, widened_bytes
from mercer.version import VERSION

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int, str], None]
"""Called with (steps done, all steps, what comes next)."""


class UsageError(MercerError):
    """Arguments that do not fit: a missing file, an unknown target."""


@dataclass(frozen=True)
class Program:
    """A model that has been parsed and checked: its graph and the operators that it uses."""

    graph: Graph
    library: DefinitionLibrary = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return self.graph.parameters

    @property
    def signature(self) -> Signature:
        return signature_of(self.graph)

    @functools.cached_property
    def nests(self) -> Nests:
        """The loop nests of the graph, before any pass."""
        return lower(self.graph, self.library)

    def initial(self, seed: int = 0) -> dict[str, Array]:
        """First values of the parameters, the same for the same seed."""
        return {p.name: initialize(p, seed) for p in self.graph.parameters}

    def torch_source(self) -> str:
        """Python source of the `torch.nn.Module`, which needs PyTorch only."""
        from mercer.backends import torch as backend

        return backend.source(self.graph, self.library)

    def torch(
        self,
        seed: int = 0,
        *,
        weights: Mapping[str, Any] | None = None,
        data: Any = None,
        quantize: str | Quantize | None = None,
    ) -> torch.nn.Module:
        """The model as a trainable module; the keys of its state_dict are the parameter names.

        It starts with `weights`, or with the initial values of `seed`. With `quantize` it trains with the numbers that
        integers will have, and computes in integers after `eval()`: what `compile` makes of its state_dict. The first
        ranges come from `data`; the state_dict has them as buffers `ranges.VALUE`.
        """
        from mercer.backends import torch as backend

        values = self.initial(seed) if weights is None else as_arrays(weights)
        if quantize is None:
            return backend.module(self.graph, self.library, values)
        return _trainable(self, _scheme(quantize), values, data)

    def evaluate(
        self, *inputs: Array, weights: Mapping[str, Any] | None = None, precision: DType | None = None
    ) -> tuple[Array, ...]:
        """Run the NumPy reference; `precision=DType.F64` computes in double precision."""
        arrays = self.initial() if weights is None else as_arrays(weights)
        named = {v.name: x for v, x in zip(self.graph.inputs, inputs, strict=True)}
        return evaluate(self.nests, named, arrays, precision)


def signature_of(ir: Graph | Nests) -> Signature:
    """What a program takes and gives, as artifacts record it."""

    def spec(name: str, type_: TensorType) -> TensorSpec:
        shape = tuple(d.value if d.is_constant else str(d) for d in type_.shape)
        return TensorSpec(name, str(type_.dtype), shape)

    types = {value.name: value.type for value in ir.values()} if isinstance(ir, Graph) else ir.types()
    inputs = tuple(spec(v.name, v.type) for v in ir.inputs)
    return Signature(inputs, tuple(spec(name, types[name]) for name in ir.outputs))


def as_arrays(weights: Mapping[str, Any]) -> dict[str, Array]:
    """NumPy arrays from NumPy arrays or torch tensors, such as a state_dict.

    The counter `num_batches_tracked` that PyTorch's batch norm keeps is left out: no formula uses it.
    """
    arrays: dict[str, Array] = {}
    for name, value in weights.items():
        if name.rpartition(".")[2] == "num_batches_tracked":
            continue
        arrays[name] = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    return arrays


# --- parsing ----------------------------------------------------------------------------------------------------------


def parse(path: str | os.PathLike[str], model: str | None = None, **attributes: AttributeValue) -> Program:
    """Read a `.mer` file; `model` chooses one of several, `attributes` replace its defaults.

    Raises UsageError when the file cannot be read and CompileError when its text is wrong.
    """
    path = Path(path)
    return _program(read_text(path), str(path), path.parent, model, attributes)


def parse_text(text: str, name: str = "<text>", model: str | None = None, **attributes: AttributeValue) -> Program:
    """Like `parse`, from a string."""
    return _program(text, name, None, model, attributes)


def _program(
    text: str, name: str, folder: Path | None, model: str | None, attributes: dict[str, AttributeValue]
) -> Program:
    loaded = load(text, name, folder)
    library = default_library().extended(loaded.definitions)
    graph = elaborate(library, find_model(loaded.definitions, model, loaded.file), attributes)
    verify(graph, library)
    return Program(graph, library)


def read_text(path: Path) -> str:
    """The text of a file, without the byte order mark of some editors; raises UsageError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        siblings = [p.name for p in path.parent.glob(f"*{path.suffix}")] if path.parent.is_dir() else []
        near = nearest(path.name, siblings)
        raise UsageError(f"cannot read {path}: {error.strerror}", f"did you mean {near}?" if near else None) from error


def parse_ir(
    text: str, file: str = "<text>", weights: Mapping[str, Array] | None = None
) -> tuple[IR, DefinitionLibrary]:
    """Read IR text of either level, with the operators that its header defines."""
    program = parse_program(text, file, weights)
    return program, library_of(program) if isinstance(program, Graph) else default_library()


def library_of(graph: Graph) -> DefinitionLibrary:
    """The standard library with the definitions that a graph carries."""
    items = parse_syntax(graph.definitions, "<definitions>").items
    return default_library().extended([item for item in items if isinstance(item, Definition)])


def print_ir(ir: IR) -> str:
    """IR text of either level."""
    return print_graph(ir) if isinstance(ir, Graph) else print_nests(ir)


# --- compiling --------------------------------------------------------------------------------------------------------


def compile(
    program: Program | str | os.PathLike[str],
    target: str = "cpu",
    weights: Mapping[str, Any] | None = None,
    *,
    dump_ir: str | os.PathLike[str] | None = None,
    pipeline: str | Sequence[Pass] | None = None,
    data: Any = None,
    quantize: str | Quantize | None = None,
    verify_each: bool = False,
    database: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Executable:
    """Compile a program, or the file at a path, for `cpu`, `cpu:LEVEL`, `cuda`, `cuda:sm_NN`, `torch` or
    `fpga:DEVICE[:CYCLES]`, which needs a program in integers.

    `weights` maps every parameter name to an array (a state_dict will do); without it the initial values are taken and
    the ledger says so. `dump_ir` names a folder for the IR after every pass. `pipeline` replaces the standard passes.
    `data` is a batch of inputs, one array or arrays by name: approximations are fitted and measured on it. `quantize`,
    such as `w8a8`, makes it a program in integers, whose ranges come from the data, or from the weights when those are
    the state_dict of a module that was trained for it. `database` is a file of `mercer tune`.
    Raises MercerError: wrong text, target, weights, data, folder or database.
    """
    if not isinstance(program, Program):
        program = parse(program)
    kind = target.partition(":")[0]
    if kind not in TARGETS:
        near = nearest(kind, TARGETS)
        hint = f"did you mean `{near}`?" if near else f"one of {', '.join(TARGETS)}"
        raise UsageError(f"there is no target `{target}`", hint)
    if kind == "torch" and quantize is not None:
        raise UsageError("target torch keeps the program as it is trained", "quantize for cpu, or train a torch module")
    values, ranges = _split(program, program.initial() if weights is None else as_arrays(weights))
    context = PassContext(
        program.library, weights=values, data=_batch(program, data), ranges=ranges, verify_each=verify_each
    )
    if weights is None and program.parameters:
        context.ledger.warn("bind", program.name, "no weights given: the initial values of seed 0 are compiled in")
    if dump_ir is not None:
        context.dump = functools.partial(dump, made(dump_ir))
        context.dump(0, "elaborate", print_graph(program.graph))
    tuned = None if database is None else Path(database)
    job = _Job(program, target, context, _passes(pipeline, quantize), progress, tuned)
    make = functools.partial(TARGETS[kind], job)
    kept = kind == "cpu" and dump_ir is None and not verify_each
    with uncollected():
        return Executable(cached(_key(job), make) if kept else make(), start=False)


@dataclass(frozen=True)
class _Job:
    """What a target is asked to compile."""

    program: Program
    target: str
    context: PassContext
    passes: Sequence[Pass]
    progress: Progress | None
    database: Path | None

    def run(self, passes: Sequence[Pass]) -> tuple[Graph, Nests]:
        """Run passes: the last graph before lowering, and the nests."""
        graph, ir = self.program.graph, cast("IR", self.program.graph)
        for number, each in enumerate(passes):
            if self.progress is not None:
                self.progress(number, len(passes) + 1, each.name)
            ir = run_passes(ir, (each,), self.context)
            graph = ir if isinstance(ir, Graph) else graph
        return graph, lower(ir, self.program.library) if isinstance(ir, Graph) else ir


def _key(job: _Job) -> str:
    """Of everything that decides what is compiled."""
    context, program = job.context, job.program
    arrays = sorted((context.weights or {}).items()) + sorted((context.data or {}).items())
    files = [job.database.read_bytes()] if job.database is not None and job.database.is_file() else []
    names = [name for name, _ in arrays]
    facts = job.target, job.database, tuple(job.passes), context.ranges, context.ledger.to_json(), names
    return key((print_graph(program.graph), repr(facts), *(array for _, array in arrays), *files))


def _batch(program: Program, data: Any) -> dict[str, Array] | None:
    """Inputs by name; raises UsageError when their names are not those of the model."""
    if data is None:
        return None
    names = [value.name for value in program.graph.inputs]
    single = {name: data for name in names[:1] if len(names) == 1}
    given = cast("Mapping[str, Any]", data) if isinstance(data, Mapping) else single
    if set(given) != set(names):
        found = ", ".join(given) or "no input"
        raise UsageError(f"data are given for {found}, not for {', '.join(names)}", "map names of inputs to arrays")
    return as_arrays(given)


def _passes(pipeline: str | Sequence[Pass] | None, quantize: str | Quantize | None) -> Sequence[Pass]:
    if quantize is not None:
        if pipeline is not None:
            raise UsageError("`pipeline` and `quantize` are both given", "write the pass `quantize` into the pipeline")
        return quantized(_scheme(quantize))
    if pipeline is None:
        return INFERENCE
    return parse_pipeline(pipeline, PASSES) if isinstance(pipeline, str) else pipeline


def _scheme(quantize: str | Quantize) -> Quantize:
    return Quantize.scheme(quantize) if isinstance(quantize, str) else quantize


def _split(
    program: Program, values: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, tuple[float, float]] | None]:
    """The weights, and the ranges of values that training with fake quantization has added to them."""
    declared = {parameter.name for parameter in program.parameters}
    added = {name: array for name, array in values.items() if name.startswith(PREFIX) and name not in declared}
    ranges = {name: (float(array[0]), float(array[1])) for name, array in added.items()}
    return {name: array for name, array in values.items() if name not in added}, ranges or None


def _trainable(program: Program, scheme: Quantize, values: dict[str, Array], data: Any) -> torch.nn.Module:
    """A module with fake quantization, at the points that the pass `quantize` finds with the first weights."""
    from mercer.backends import torch as backend

    passes = quantized(scheme)
    lower = next(position for position, each in enumerate(passes) if isinstance(each, Lower))
    before = passes[: passes.index(scheme)]

    def build(state: Mapping[str, Any]) -> torch.nn.Module:
        weights, ranges = _split(program, as_arrays(state))
        context = PassContext(program.library, weights=weights, ranges=ranges)
        graph = run_passes(program.graph, passes[:lower], context)
        assert isinstance(graph, Graph)
        return backend.module(graph, program.library, {})

    weights, ranges = _split(program, values)

    def plan_with(weights: Mapping[str, Array]) -> Plan:
        context = PassContext(program.library, weights=weights, data=_batch(program, data), ranges=ranges)
        graph = run_passes(program.graph, before, context)
        assert isinstance(graph, Graph)
        return scheme.plan(graph, context)

    plan = training(program.graph, program.library, plan_with(weights), plan_with(typical(weights)), scheme)
    rounding = backend.Rounding(plan.ranges, plan.bits, plan.weights, plan.books)
    first = {name: np.array(ends, np.float32) for name, ends in plan.initial.items()}
    return backend.trainable(plan.graph, program.library, {**weights, **first}, rounding, build)


def _tvm(job: _Job) -> Artifact:
    from mercer.backends.tvm.build import compile_nests
    from mercer.backends.tvm.target import parse as parse_target
    from mercer.backends.tvm.tuning.database import Tuned

    chosen, passes = parse_target(job.target), job.passes
    if chosen.is_cuda:  # a chunk is the work of one thread, not of one for every number of the state; pairs are of CPUs
        passes = [each for each in passes if not isinstance(each, ChunkScan | Narrow)]
    job.context.features = frozenset(chosen.features)
    tuned = Tuned.of(chosen, job.database)
    graph, nests = job.run(passes)
    if job.progress is not None:
        job.progress(len(passes), len(passes) + 1, "machine code")
    built = compile_nests(nests, chosen, tuned)
    opened = built.arguments[len(job.program.graph.inputs) :]
    weights = {name: (job.context.weights or {})[name] for name in opened} | dict(built.constants)
    steps = [step.to_json() for step in built.steps]
    content, narrow = store(weights)
    entry = {
        "function": built.entry,
        "narrow": narrow,
        "weights": [*opened, *(name for name, _ in built.constants)],
        "symbols": list(built.symbols),
        "parts": built.parts,
        "memory": {**asdict(built.memory), "widened": widened_bytes(weights, narrow)},
        "sources": {step["function"]: step["source"] for step in steps},
        "steps": steps,
    }
    members = {
        "lib.so": built.library,
        "weights.safetensors": content,
        "ir/graph.mir": print_graph(graph).encode(),
        "ir/nests.mir": print_nests(nests).encode(),
    }
    if built.source is not None:
        members["kernels.cu"] = built.source.encode()
    return Artifact.create(
        target=chosen.name,
        signature=signature_of(job.program.graph),
        members=members,
        version=VERSION,
        cpu_features=chosen.features,
        entry=entry,
        ledger=job.context.ledger.to_json(),
    )


def _torch(job: _Job) -> Artifact:
    """The generated module with its weights: no pass runs, so what is kept is what was trained."""
    from mercer.backends import torch as backend
    from mercer.passes.bind import check_weights

    program, values = job.program, dict(job.context.weights or {})
    check_weights(program.parameters, values)
    source = backend.source(program.graph, program.library)
    state = backend.module(program.graph, program.library, values).state_dict()
    members = {
        "model.py": source.encode(),
        "weights.safetensors": save({name: np.asarray(tensor) for name, tensor in state.items()}),
        "ir/graph.mir": print_graph(program.graph).encode(),
        "ir/nests.mir": print_nests(program.nests).encode(),
    }
    return Artifact.create(
        target=job.target,
        signature=program.signature,
        members=members,
        version=VERSION,
        entry={"class": backend.class_name(program.graph)},
        ledger=job.context.ledger.to_json(),
    )


def _fpga(job: _Job) -> Artifact:
    """The design of a program in integers; passes after `lower` are for loop nests and do not run."""
    from mercer.backends.fpga.design import build
    from mercer.backends.fpga.folding import parse_target

    parse_target(job.target)  # before the passes run
    ends = [position for position, each in enumerate(job.passes) if isinstance(each, Lower)]
    graph, nests = job.run(job.passes[: ends[0]] if ends else job.passes)
    design = build(graph, job.program.library, job.target, job.context.weights)
    members = {
        **{f"fpga/{name}": content for name, content in design.files.items()},
        "weights.safetensors": save({}),
        "ir/graph.mir": print_graph(graph).encode(),
        "ir/nests.mir": print_nests(nests).encode(),
    }
    return Artifact.create(
        target=job.target,
        signature=job.program.signature,
        members=members,
        version=VERSION,
        entry=design.entry(),
        ledger=job.context.ledger.to_json(),
    )


def route(executable: Executable, progress: Progress | None = None) -> Executable:
    """An FPGA design with what Yosys, nextpnr and ecppack make of it, which takes minutes for a whole net.

    Adds the member `fpga/implementation.json`, counts of Yosys, with the cells and the clock (MHz) of an ECP5, and then
    `fpga/design.bit`. Raises MercerError: another target, a design that is too large, a missing tool.
    """
    from mercer.backends.fpga.folding import parse_target
    from mercer.backends.fpga.implement import implement

    artifact = executable.artifact
    target = artifact.manifest.target
    if not target.startswith("fpga"):
        raise UsageError(f"{target} is not routed", "targets fpga:DEVICE are")
    files = {name.removeprefix("fpga/"): artifact.member(name) for name in artifact.members if name.startswith("fpga/")}
    made = implement(files, parse_target(target)[0], progress)
    added = {"fpga/implementation.json": made.to_json()}
    if made.bitstream is not None:
        added["fpga/design.bit"] = made.bitstream
    manifest = artifact.manifest
    whole = Artifact.create(
        target=target,
        signature=manifest.signature,
        members={**artifact.members, **added},
        version=manifest.version,
        entry=manifest.entry,
        ledger=manifest.ledger,
    )
    return Executable(whole, start=False)


TARGETS: dict[str, Callable[[_Job], Artifact]] = {
    "cpu": _tvm,
    "cuda": _tvm,
    "torch": _torch,
    "fpga": _fpga,
}


def load_weights(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read a safetensors file; raises UsageError when it cannot be read or is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_bytes

    try:
        return load_bytes(Path(path).read_bytes())
    except (SafetensorError, ValueError) as error:
        raise UsageError(f"{path} is not a safetensors file: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


__all__ = ["CompileError", "Program", "UsageError", "Value", "compile", "parse", "parse_text"]
