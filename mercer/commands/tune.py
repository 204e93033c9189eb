"""`mercer tune`: measure the candidates of every kernel of a model and keep what is faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mercer.commands.options import (
    Attributes,
    Database,
    Json,
    Model,
    SpecFile,
    Target,
    Threads,
    Weights,
    read_model,
    read_weights,
    wrong,
)
from mercer.commands.show import note, progress_bar, show_json, show_table, time_text
from mercer.version import VERSION

if TYPE_CHECKING:
    from mercer.backends.tvm.target import Target as TvmTarget
    from mercer.backends.tvm.tuning.tune import Found
    from mercer.backends.tvm.tuning.worker import Worker

KEY = "mercer"
"""What machines are called at a tracker, unless --key says otherwise."""


def tune(
    file: SpecFile,
    model: Model = None,
    attributes: Attributes = None,
    target: Target = "cpu",
    weights: Weights = None,
    batch: Annotated[str, typer.Option(help="what symbolic dims are set to, separated by commas")] = "1,64",
    time: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="when to stop; what was found is kept")] = 60.0,
    threads: Threads = None,
    database: Database = None,
    tracker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="measure on the machines that wait at this tracker of TVM")
    ] = None,
    key: Annotated[str, typer.Option(help="the key under which they wait")] = KEY,
    as_json: Json = False,
) -> None:
    """Measure other schedules for the kernels of a model; `mercer compile` takes those that are faster."""
    from mercer.backends.tvm.target import parse
    from mercer.backends.tvm.tuning import database as known
    from mercer.backends.tvm.tuning.tasks import tasks
    from mercer.backends.tvm.tuning.tune import Tuner
    from mercer.commands.model import ir_after
    from mercer.ir.nests import Nests

    try:
        sizes = [int(part) for part in batch.split(",")]
    except ValueError:
        raise wrong("a batch size is not a whole number", "--batch 1,64") from None
    if min(sizes) < 1:
        raise wrong(f"batch sizes begin at 1, not {min(sizes)}")
    if target.partition(":")[0] != "cpu":
        raise wrong(f"{target} is not tuned", "targets cpu and cpu:LEVEL are")
    path = database or known.default_path()
    records = known.load(path)
    chosen = parse(target)
    nests = ir_after(read_model(file, model, attributes), "nests", None, target, read_weights(weights))
    assert isinstance(nests, Nests)
    found = tasks(nests, chosen)
    if not any(size.dims() for task in found for value in task.nests.inputs for size in value.type.shape):
        sizes = sizes[:1]
    tuner = Tuner(found, sizes, records)
    try:
        with progress_bar("tune") as report:
            tuner.run(_workers(chosen, threads, tracker, key), time, report)
    finally:
        rows = [each for group in tuner.found.values() for each in group if each.rounds]
        known.merge(path, [each.record(VERSION) for each in rows])
    for fault in tuner.faults:
        note(f"warning: {fault}", style="yellow")
    if as_json:
        show_json({"database": str(path), "kernels": [_as_json(each) for each in rows]})
    else:
        _show(rows, f"{file}: {len(rows)} kernels in {path}")


def _workers(target: TvmTarget, threads: int | None, tracker: str | None, key: str) -> list[Callable[[], Worker]]:
    """What makes a worker, for each of them. Raises WorkerError."""
    from mercer.backends.tvm.tuning import worker

    if tracker is None:
        return [partial(worker.local, target, threads)]
    return [partial(worker.remote, tracker, key, target, threads)] * worker.waiting(tracker, key)


def _as_json(found: Found) -> dict[str, Any]:
    """Times are nanoseconds, geometric means over the batch sizes."""
    return {
        **found.record(VERSION).to_json(),
        "calls": found.task.calls,
        "measured": found.measured,
        "candidates": len(found.task.choices) - 1,
        "wrong": [dict(choice) for choice in found.wrong],
    }


def _show(rows: Sequence[Found], title: str) -> None:
    cells = [
        (
            each.task.operators,
            each.task.calls,
            time_text(each.untuned * 1e6),
            time_text(each.tuned * 1e6),
            f"{each.untuned / each.tuned:.2f} x",
            f"{each.measured} of {len(each.task.choices) - 1}",
            " ".join(f"{name} {value}" for name, value in each.best.items()),
        )
        for each in rows
    ]
    columns = ("kernel", ">calls", ">before", ">after", ">gain", ">measured", "choice")
    show_table(columns, cells, title=title)
    before = sum(each.untuned * each.task.calls for each in rows)
    after = sum(each.tuned * each.task.calls for each in rows)
    if rows:
        print(f"all of them: {time_text(before * 1e6)} before, {time_text(after * 1e6)} after")
    for each in rows:
        for choice in each.wrong:
            note(
                f"warning: {each.task.operators}: {dict(choice)} computes other numbers and was left out",
                style="yellow",
            )
