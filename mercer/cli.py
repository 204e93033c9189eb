"""The command line: `mercer COMMAND`.

Exit codes: 0 good, 1 a check failed, 2 the user's input was wrong, 70 a fault in Mercer itself, 130 interrupted. What a
command needs is imported inside it, so that `mercer --help` stays quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mercer.commands.options import (
    ArtifactFile,
    Attributes,
    Database,
    Json,
    Model,
    Sizes,
    SpecFile,
    Target,
    Threads,
    VerifyEach,
    Weights,
    read_model,
    read_sizes,
    read_weights,
    wrong,
)
from mercer.commands.show import (
    check_writable,
    note,
    progress_bar,
    settings,
    show_json,
    show_table,
    time_text,
    write_text,
)
from mercer.commands.tune import tune
from mercer.version import VERSION

CHECK_FAILED, WRONG_INPUT, INTERNAL, INTERRUPTED = 1, 2, 70, 130

app = typer.Typer(
    name="mercer",
    help="Compile kernel networks and convolution networks: from one short text to a binary.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# --- the frame --------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; errors become text on standard error."""
    settings.debug, settings.progress = False, None
    try:
        app(arguments, prog_name="mercer")
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            note("interrupted")
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as error:
        if settings.debug:
            traceback.print_exception(error)
        return _complain(error)
    return 0


def _complain(error: Exception) -> int:
    """Say what went wrong, and the exit code."""
    from mercer.frontend.diagnostics import CompileError, render_all
    from mercer.runtime.errors import MercerError

    if isinstance(error, CompileError):
        color = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        print(render_all(error.diagnostics, color), file=sys.stderr)
        return WRONG_INPUT
    if isinstance(error, MercerError):
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    what = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"internal error: {what}; run again with --debug for the traceback", file=sys.stderr)
    return INTERNAL


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mercer {VERSION}")
        raise typer.Exit


@app.callback()
def frame(
    debug: Annotated[bool, typer.Option("--debug", help="show the Python traceback of an error")] = False,
    progress: Annotated[
        bool | None, typer.Option("--progress/--no-progress", help="progress bars; on a terminal unless given")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Compile kernel networks and convolution networks: from one short text to a binary."""
    settings.debug, settings.progress = debug, progress


# --- models -----------------------------------------------------------------------------------------------------------


@app.command()
def check(file: SpecFile, model: Model = None, attributes: Attributes = None, as_json: Json = False) -> None:
    """Parse and check a model; print its signature, parameters, operators and cost."""
    from mercer.commands.model import describe_model, show_model

    summary = describe_model(read_model(file, model, attributes))
    show_json(summary) if as_json else show_model(summary)


@app.command()
def ir(
    file: SpecFile,
    level: Annotated[Literal["graph", "nests"] | None, typer.Option(help="named operators, or loop nests")] = None,
    after: Annotated[
        str | None, typer.Option(metavar="PASS", help="run the passes up to the last one of this name")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", "-t", help="run all passes that this target runs")] = None,
    weights: Weights = None,
    model: Model = None,
    attributes: Attributes = None,
) -> None:
    """Print the IR of a model: as it was written, or after passes."""
    from mercer.commands.model import ir_after
    from mercer.compiler import print_ir

    program = read_model(file, model, attributes)
    print(print_ir(ir_after(program, level, after, target, read_weights(weights))), end="")


@app.command("compile")
def compile_(
    file: SpecFile,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.mrc", help="the artifact to write")],
    target: Target = "cpu",
    weights: Weights = None,
    data: Annotated[Path | None, typer.Option(metavar="X.npz", help="a batch of inputs to quantize and fit on")] = None,
    quantize: Annotated[str | None, typer.Option(metavar="SCHEME", help="integers: w8a8, w4a8")] = None,
    database: Database = None,
    route: Annotated[bool, typer.Option("--route", help="FPGA: synthesize, place and route; takes minutes")] = False,
    dump_ir: Annotated[Path | None, typer.Option(metavar="DIR", help="write the IR after every pass here")] = None,
    model: Model = None,
    attributes: Attributes = None,
    verify_each: VerifyEach = False,
    as_json: Json = False,
) -> None:
    """Compile a model to an artifact."""
    import time

    from mercer.commands.arrays import read_batch
    from mercer.commands.explain import describe_artifact, show_compiled
    from mercer.compiler import compile, route as routed

    check_writable(out)
    if route and not target.startswith("fpga"):
        raise wrong(f"{target} is not routed", "`--route` is for targets fpga:DEVICE")
    start = time.perf_counter()
    program = read_model(file, model, attributes)
    with progress_bar("compile") as report:
        executable = compile(
            program,
            target,
            read_weights(weights),
            data=None if data is None else read_batch(data, [value.name for value in program.graph.inputs]),
            quantize=quantize,
            dump_ir=dump_ir,
            database=database,
            verify_each=verify_each,
            progress=report,
        )
    if route:
        with progress_bar("route") as report:
            executable = routed(executable, report)
    executable.save(out)
    facts: dict[str, Any] = {"file": str(out), "bytes": out.stat().st_size, "seconds": time.perf_counter() - start}
    summary = {**facts, **describe_artifact(executable.artifact)}
    if as_json:
        show_json(summary)
    else:
        show_compiled(summary)


@app.command()
def export(
    file: SpecFile,
    to: Annotated[Literal["torch"], typer.Option(help="source of a PyTorch module")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="write here instead of printing")] = None,
    model: Model = None,
    attributes: Attributes = None,
) -> None:
    """Write a model as source that needs Mercer no more."""
    del to  # PyTorch is the only one so far
    source = read_model(file, model, attributes).torch_source()
    print(source, end="") if out is None else write_text(out, source)


# --- IR ---------------------------------------------------------------------------------------------------------------


@app.command()
def opt(
    file: Annotated[Path, typer.Argument(metavar="FILE.mir", help="IR text of either level, `-` for standard input")],
    passes: Annotated[str, typer.Option("--passes", "-p", metavar="PIPELINE", help="such as 'fold,fuse{max_ops=8}'")],
    print_between: Annotated[
        bool, typer.Option("--print-between", help="the IR after every pass, on standard error")
    ] = False,
    time_passes: Annotated[
        bool, typer.Option("--time-passes", help="a table of the passes, on standard error")
    ] = False,
    verify_each: VerifyEach = False,
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="write here instead of printing")] = None,
) -> None:
    """Run passes on IR text: text in, text out."""
    from mercer.compiler import parse_ir, print_ir, read_text
    from mercer.passes.manager import PassContext, parse_pipeline, run_passes
    from mercer.passes.pipeline import PASSES

    if out is not None:
        check_writable(out)
    pipeline = parse_pipeline(passes, PASSES)
    text = sys.stdin.read() if str(file) == "-" else read_text(file)
    arrays = read_weights(weights)
    program, library = parse_ir(text, str(file), arrays)

    def show(_step: int, name: str, after: str) -> None:
        print(f"# after {name}\n{after}", file=sys.stderr)

    context = PassContext(library, weights=arrays, verify_each=verify_each, dump=show if print_between else None)
    with progress_bar("opt") as context.progress:
        program = run_passes(program, pipeline, context)
    if time_passes:
        rows = [
            (r.name, time_text(r.seconds * 1e6), r.size_before, r.size_after, r.hits, _hits(r.rewrites))
            for r in context.reports
        ]
        show_table(("pass", ">time", ">before", ">after", ">hits", "rewrites"), rows, to=sys.stderr)
    result = print_ir(program)
    print(result, end="") if out is None else write_text(out, result)


def _hits(rewrites: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {r.hits} in {time_text(r.seconds * 1e6)}" for name, r in rewrites.items() if r.hits)


@app.command("reduce")
def reduce_(
    file: Annotated[Path, typer.Argument(metavar="FILE.mir", help="a graph on which two backends disagree")],
    left: Annotated[str, typer.Option(help="reference, torch or cpu")] = "reference",
    right: Annotated[str, typer.Option(help="reference, torch or cpu")] = "cpu",
    weights: Weights = None,
    tolerance: Annotated[float, typer.Option(help="of the largest value of an output")] = 1e-4,
    size: Annotated[int, typer.Option(min=1, help="what symbolic dims are set to")] = 2,
    seed: Annotated[int, typer.Option(help="of the random inputs")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="write here instead of printing")] = None,
) -> None:
    """Shrink a graph while two backends disagree on it; exit code 1 when they agree from the start."""
    from mercer.commands.reduce import backend, reduce
    from mercer.compiler import parse_ir, print_ir, read_text
    from mercer.ir.graph import Graph

    if out is not None:
        check_writable(out)
    arrays = read_weights(weights)
    backends = backend(left), backend(right)
    graph, _ = parse_ir(read_text(file), str(file), arrays)
    if not isinstance(graph, Graph):
        raise wrong(f"{file} holds nests; reduce works on a graph", "give the IR from before `lower`")
    with progress_bar("reduce") as report:
        found = reduce(graph, *backends, arrays, tolerance=tolerance, size=size, seed=seed, progress=report)
    if found is None:
        note(f"{left} and {right} agree on {file}: nothing to reduce")
        raise typer.Exit(CHECK_FAILED)
    note(f"{len(graph.nodes)} nodes became {len(found.graph.nodes)} ({found.tried} graphs tried)")
    note(f"{left} and {right}: {found.failure.kind}: {found.failure.detail}")
    text = print_ir(found.graph)
    print(text, end="") if out is None else write_text(out, text)


app.command()(tune)


# --- artifacts --------------------------------------------------------------------------------------------------------


@app.command()
def run(
    file: ArtifactFile,
    inputs: Annotated[Path, typer.Option("--input", "-i", metavar="X.npz", help="arrays by input name, or one .npy")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="Y.npz", help="where the outputs go: .npz, or .npy for one")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="a table of the time per operator")] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Run an artifact on arrays from a file."""
    from mercer.commands.arrays import as_tuple, read_inputs, write_outputs
    from mercer.runtime.session import load

    if output is None and not profile:
        raise wrong("nothing to do: neither --output nor --profile is given", "--output Y.npz keeps the result")
    if output is not None:
        check_writable(output)
    executable = load(file)
    if threads is not None:
        executable.threads = threads
    positional, named = read_inputs(inputs)
    simulation = executable.simulation
    with progress_bar("simulate" if simulation else "run") as report:
        if simulation is not None:
            simulation.progress = lambda done, samples: report(done, samples, "")
        result = executable(*positional, **named)
    if simulation is not None:
        note(f"{len(simulation.cycles)} samples in {simulation.cycles[-1] + 1 if simulation.cycles else 0} cycles")
    if output is not None:
        names = [spec.name for spec in executable.signature.outputs]
        write_outputs(output, names, as_tuple(result))
    if profile:
        rows = executable.profile(*positional, **named)
        if as_json:
            show_json([row._asdict() for row in rows])
            return
        cells = [(r.name, time_text(r.microseconds), f"{r.share:.1%}", r.source) for r in rows]
        show_table(("operator", ">time", ">share", "source"), cells, title=f"{file} on {executable.target}")


@app.command()
def explain(
    file: ArtifactFile,
    time: Annotated[bool, typer.Option("--time/--no-time", help="run it, for the time of each step")] = True,
    sizes: Sizes = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Say what is in an artifact, what every rewrite did or why it did not, how exact the result is, and how long each
    step takes beside what this machine allows."""
    from dataclasses import asdict

    from mercer.commands.explain import describe_artifact, show_artifact
    from mercer.runtime.artifact import Artifact

    artifact = Artifact.load(file, check_cpu=False)
    summary = {"file": str(file), **describe_artifact(artifact)}
    if time:
        from mercer.commands.step_times import measure

        summary["times"] = asdict(measure(artifact, read_sizes(sizes), threads))
    show_json(summary) if as_json else show_artifact(summary)


@app.command()
def bench(
    file: ArtifactFile,
    against: Annotated[
        str, typer.Option(help="torch (eager), inductor (torch.compile), onnxruntime, openvino, separated by commas")
    ] = "torch",
    batch: Annotated[str, typer.Option(help="sizes of the symbolic dims, separated by commas")] = "1,64",
    sizes: Sizes = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Latency side by side in one run, the calls of all systems taken in turns."""
    from dataclasses import asdict

    from mercer.commands.bench import bench as measure
    from mercer.runtime.session import load

    try:
        batches = [int(part) for part in batch.split(",")]
    except ValueError:
        raise wrong("a batch size is not a whole number", "--batch 1,64") from None
    dims = read_sizes(sizes)
    if min(batches) < 1:
        raise wrong(f"batch sizes begin at 1, not {min(batches)}")
    executable = load(file)
    if threads is not None:
        executable.threads = threads
    peers = [name.strip() for name in against.split(",") if name.strip()]
    with progress_bar("bench") as report:
        rows = measure(executable, peers, batches, dims, report)
    if as_json:
        show_json(
            {"target": executable.target, "threads": executable.threads, "latency": [asdict(row) for row in rows]}
        )
        return
    ours = {row.batch: row.microseconds or 1.0 for row in rows if row.system == "mercer"}
    cells = [
        (row.batch or "–", row.system, row.missing, "", "")
        if row.microseconds is None
        else (
            row.batch or "–",
            row.system,
            time_text(row.microseconds),
            f"{row.microseconds / ours[row.batch]:.2f} x",
            row.threads,
        )
        for row in rows
    ]
    title = f"{file} on {executable.target}, median per call"
    show_table((">batch", "system", ">time", ">of mercer", ">threads"), cells, title=title)
    if peers:
        note("the peers run the graph after Mercer's passes; each with one thread and with all, whichever is faster")


# --- the machine and the demo -----------------------------------------------------------------------------------------


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine can build and run, and what is missing; exit code 1 when the CPU target cannot."""
    from dataclasses import asdict

    from mercer.commands.doctor import examine

    report = examine()
    if as_json:
        show_json(asdict(report) | {"good": report.good})
    else:
        show_table(
            ("", "version", "needed for"), [(p.name, p.version or "missing", p.needed_for) for p in report.parts]
        )
        yes = {True: "yes", False: "no"}
        rows = [(t.target, yes[t.builds], yes[t.runs], t.detail) for t in report.targets]
        show_table(("target", "builds here", "runs here", "detail"), rows)
    raise typer.Exit(0 if report.good else CHECK_FAILED)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="where everything goes")] = Path("build/demo"),
    target: Target = "cpu",
    as_json: Json = False,
) -> None:
    """Train a model on handwritten digits, compile it, run the binary, and compare the two."""
    from mercer.commands import demo as job

    result = job.run(out, target=target)
    job.show(result, as_json)
    for fault in result.faults:
        note(f"failed: {fault}", style="red")
    raise typer.Exit(CHECK_FAILED if result.faults else 0)


@app.command()
def ops(
    name: Annotated[str | None, typer.Argument(help="an operator, layer or kernel")] = None, as_json: Json = False
) -> None:
    """The operators, layers and kernels of the standard library; with a name, all that is known of one."""
    if name is None:
        from mercer.commands.model import definitions

        rows = definitions()
        show_json(rows) if as_json else show_table(("kind", "name", "what"), [tuple(row.values()) for row in rows])
        return
    from mercer.commands.operators import describe, show_entry

    entry = describe(name)
    show_json(entry.as_json()) if as_json else show_entry(entry)


@app.command()
def zoo(
    only: Annotated[list[str] | None, typer.Option("--only", metavar="ID", help="these systems or passes")] = None,
    passes: Annotated[bool, typer.Option("--passes", help="the factorizing passes on their examples")] = False,
    folder: Annotated[Path, typer.Option("--zoo", metavar="DIR", help="where the systems are")] = Path("zoo"),
    as_json: Json = False,
) -> None:
    """Hold the systems from the literature to their independent references, on every backend."""
    from mercer.commands import zoo as systems, zoo_passes

    job: Any = zoo_passes if passes else systems
    with progress_bar("checking") as progress:
        rows = job.run(folder, only or (), progress)
    show_json(job.as_json(rows, folder)) if as_json else job.show(rows, folder)
    raise typer.Exit(0 if all(row.works for row in rows) else CHECK_FAILED)


if __name__ == "__main__":
    sys.exit(main())
