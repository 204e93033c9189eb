"""Candidates of kernels compute the same; the database keeps what was measured, and compilation asks it."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mercer
from benchmarks.cpu.workloads import WORKLOADS
from mercer.backends.tvm.build import compile_nests
from mercer.backends.tvm.plan import Call, planned
from mercer.backends.tvm.target import parse
from mercer.backends.tvm.tuning import database as db, worker
from mercer.backends.tvm.tuning.database import NEAR, TUNED, DatabaseError, Machine, Record, Tuned
from mercer.backends.tvm.tuning.kernel import Kernel, kernel_of
from mercer.backends.tvm.tuning.tasks import Task, tasks
from mercer.backends.tvm.tuning.tune import Tuner
from mercer.commands.model import ir_after
from mercer.ir.nests import Nests
from mercer.runtime.executors import physical_cores

TARGET = parse("cpu:avx2")
MACHINE = Machine("znver3", "avx2")


def nests(body: str, signature: str = "x: f32[4, 16, 12, 12]") -> Nests:
    """A model after all passes."""
    program = mercer.parse_text(f"model Net({signature}) {{\n{body}\n}}")
    found = ir_after(program, "nests", None, "cpu:avx2", None)
    assert isinstance(found, Nests)
    return found


LINEAR = "  return Linear(x; 40)"
KERNELS = {
    "contraction": nests(LINEAR, "x: f32[24, 96]"),
    "reduce": nests("  return Linear(x; 3)", "x: f32[4, 256]"),
    "direct": nests("  return Conv2d(x; 24, 3, stride = 2, pad = 1)"),
    "winograd": nests("  return Conv2d(x; 32, 3, pad = 1)", "x: f32[1, 32, 12, 12]"),
    "stencil": nests("  return Conv2d(x; 16, 5, pad = 2, groups = 16)"),
    "rows": nests("  return Linear(x; 32) |> LayerNorm |> Linear(8)", "x: f32[N, 24]"),
}


@pytest.mark.parametrize("name", KERNELS)
def test_every_candidate_computes_the_same(name: str) -> None:
    here = worker.local(TARGET, 1)
    (task,) = tasks(KERNELS[name], TARGET)
    assert len(task.choices) > 1 and name in {choice["family"] for choice in task.choices}
    inputs = worker.random_inputs(task.nests, 37)
    expected = here.load(task.compile(), inputs).outputs()
    details = set[str]()
    for choice in task.choices[:: max(1, len(task.choices) // 3)]:
        compiled = task.compile(choice)
        details.add(compiled.steps[-1].detail)
        assert worker.same(here.load(compiled, inputs).outputs(), expected), choice
    assert len(details) > 1


def test_vectors_along_a_sum_and_tiles_are_candidates_for_one_another() -> None:
    """The first one is what the cost model takes, and every one is what is compiled for it."""
    (task,) = tasks(KERNELS["reduce"], TARGET)
    families = [choice["family"] for choice in task.choices]
    assert families[:2] == ["reduce", "contraction"] and task.compile().steps[-1].family == "reduce"
    assert [task.compile(choice).steps[-1].family for choice in task.choices] == families


def test_an_algorithm_gives_way_to_one_that_rounds_less() -> None:
    (task,) = tasks(KERNELS["winograd"], TARGET)
    assert {"winograd", "direct"} == {choice["family"] for choice in task.choices}
    assert all(choice["algorithm"] == "" for choice in task.choices if choice["family"] == "direct")


def test_other_numbers_are_no_candidate() -> None:
    assert not worker.same([np.array([1.0, 2.0])], [np.array([1.0, 2.001])])
    assert not worker.same([np.array([1.0, np.nan])], [np.array([1.0, 2.0])])
    assert not worker.same([np.array([1, 2])], [np.array([1, 3])])
    assert worker.same([np.array([1.0, np.inf], np.float32)], [np.array([1.00001, np.inf], np.float32)])


# --- the key ----------------------------------------------------------------------------------------------------------


def only(program: Nests) -> Kernel:
    (task,) = tasks(program, TARGET)
    return task.kernel


def test_names_are_no_part_of_a_kernel() -> None:
    text = "op f({x}: T[{n}, {k}], {w}: T[{o}, {k}]) -> T[{n}, {o}] {{\n"
    text += "  return y[{n}, {o}] = sum[{k}] {w}[{o}, {k}] * {x}[{n}, {k}]\n}}\n"
    text += "model Net(data: f32[{B}, 96]) {{\n  param p: f32[40, 96] = normal(0, 1)\n  return f(data, p)\n}}"

    def kernel(**names: str) -> Kernel:
        program = mercer.parse_text(text.format(**names)).nests
        known = [parameter.name for parameter in program.parameters]
        return kernel_of([s for s in program.statements if not hasattr(s, "name")], program.types(), known)  # pyright: ignore[reportArgumentType]

    one = kernel(x="x", w="w", n="n", o="o", k="k", B="N")
    assert one == kernel(x="zeta", w="alpha", n="z", o="a", k="b", B="Batch")
    assert one.sizes


def test_sizes_are_apart_from_the_structure() -> None:
    small, large, other = (nests(f"  return Linear(x; {n}){rest}", "x: f32[24, 96]") for n, rest in SHAPES)
    assert only(small).structure == only(large).structure != only(other).structure
    assert only(small).distance(only(large)) == pytest.approx(1.6)
    assert Kernel("a", (0, 2)).distance(Kernel("a", (1, 2))) == float("inf")


SHAPES = ((40, ""), (64, ""), (40, " |> tanh"))


# --- the database -----------------------------------------------------------------------------------------------------


def record(task: Task, position: int = 1) -> Record:
    return Record(MACHINE, 1, task.kernel, task.choices[position], 10.0, 20.0, "linear", "0")


def test_a_database_keeps_records(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tuned.json"
    (task,) = tasks(KERNELS["contraction"], TARGET)
    assert db.load(path) == ()
    db.merge(path, [record(task)])
    assert db.load(path) == (record(task),)
    other = replace(record(task), threads=2)
    db.merge(path, [other, record(task, 2)])
    assert sorted(db.load(path), key=lambda each: each.threads) == [record(task, 2), other]
    assert [each.name for each in path.parent.iterdir() if not each.name.endswith(".lock")] == ["tuned.json"]


def _write(path: Path, number: int) -> None:
    kernel = Kernel(f"k{number}", (number,))
    for _ in range(5):
        db.merge(path, [Record(MACHINE, 1, kernel, {"family": "x"}, 1.0, 1.0, "", "0")])


def test_writers_do_not_lose_what_others_write(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, number)) for number in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    assert {each.kernel.structure for each in db.load(path)} == {"k0", "k1", "k2", "k3"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", 'no "schema"'),
        (b'{"schema": "other", "version": 1, "records": []}', 'no "schema"'),
        (b'{"schema": "mercer.tuned", "version": 2, "records": []}', "another version: version 2, this Mercer reads 1"),
        (b'{"schema": "mercer.tuned", "version": 1}', "damaged"),
        (b'{"schema": "mercer.tuned", "version": 1, "records": [{"kernel": 3}]}', "damaged"),
    ],
)
def test_a_bad_file_is_refused_and_left_alone(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "tuned.json"
    path.write_bytes(content)
    for use in (lambda: db.load(path), lambda: db.merge(path, []), lambda: Tuned.of(TARGET, path)):
        with pytest.raises(DatabaseError, match=complaint) as error:
            use()
        assert str(path) in str(error.value) and "--database" in str(error.value.hint)
    assert path.read_bytes() == content


def test_a_record_with_a_wrong_value_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    (task,) = tasks(KERNELS["contraction"], TARGET)
    for change in ({"nanoseconds": -1.0}, {"choice": "fast"}, {"operators": 3}, {"extra": 1}):
        value = {"schema": db.SCHEMA, "version": db.VERSION, "records": [record(task).to_json() | change]}
        path.write_text(json.dumps(value))
        with pytest.raises(DatabaseError, match="damaged"):
            db.load(path)


@pytest.mark.parametrize("level", ["avx2", "avx512", "vnni"])
def test_what_ships_is_found(level: str, tmp_path: Path) -> None:
    """By the workloads on which it was measured: a change of a formula or of the candidates makes a record useless."""
    target, shipped = parse(f"cpu:{level}"), db.defaults(level)
    assert {record.machine.level for record in shipped} == {level.replace("vnni", "avx512")}
    program = mercer.parse_text(WORKLOADS["gaunt"].source)
    nests = ir_after(program, "nests", None, target.name, None)
    assert isinstance(nests, Nests)
    calls = planned(nests, target, Tuned.of(target, tmp_path / "none.json")).calls
    found = [call.tuned for call in calls if isinstance(call, Call)]
    assert found.count(TUNED) == len(shipped) == 1


# --- compiling --------------------------------------------------------------------------------------------------------


def test_compiling_takes_what_was_tuned() -> None:
    (task,) = tasks(KERNELS["contraction"], TARGET)
    plain = compile_nests(KERNELS["contraction"], TARGET).steps[-1]
    tuned = compile_nests(KERNELS["contraction"], TARGET, Tuned([record(task, 3)])).steps[-1]
    assert (plain.tuned, tuned.tuned) == ("", TUNED)
    assert tuned.detail != plain.detail


def test_a_near_shape_takes_the_choice_where_it_fits() -> None:
    (task,) = tasks(KERNELS["contraction"], TARGET)
    near, far = (nests(f"  return Linear(x; {n})", "x: f32[24, 96]") for n in (48, 400))
    common = [choice for choice in task.choices if choice in tasks(near, TARGET)[0].choices]
    known = replace(record(task), choice=common[-1])
    foreign = replace(record(task), choice={"family": "contraction", "tile": [999, 1], "lane": 0, "width": 8})
    found = [compile_nests(each, TARGET, Tuned([known])).steps[-1].tuned for each in (near, far)]
    assert found == [NEAR, ""]
    no_gain = Tuned([replace(known, untuned=known.nanoseconds)])
    assert compile_nests(near, TARGET, no_gain).steps[-1].tuned == ""
    assert compile_nests(near, TARGET, Tuned([foreign])).steps[-1].tuned == ""


def test_own_measurements_come_before_what_ships() -> None:
    (task,) = tasks(KERNELS["contraction"], TARGET)
    tuned = Tuned([record(task, 2)], [record(task, 3)])
    alone = compile_nests(KERNELS["contraction"], TARGET, Tuned([record(task, 2)])).steps[-1]
    assert compile_nests(KERNELS["contraction"], TARGET, tuned).steps[-1].detail == alone.detail


# --- tuning -----------------------------------------------------------------------------------------------------------


def test_tuning_measures_every_candidate_in_time() -> None:
    found = tasks(KERNELS["direct"], TARGET)
    tuner = Tuner(found, [1])
    tuner.run([lambda: worker.local(TARGET, 1)], 60.0)
    ((result,),) = tuner.found.values()
    assert result.measured == len(found[0].choices) - 1 and not result.wrong and not tuner.faults
    assert 0 < result.tuned <= result.untuned
    assert result.best == found[0].choices[0] or result.tuned < 0.98 * result.untuned


def test_no_time_is_no_candidates() -> None:
    tuner = Tuner(tasks(KERNELS["direct"], TARGET), [1])
    tuner.run([lambda: worker.local(TARGET, 1)], 0.0)
    assert all(each.measured == 0 for group in tuner.found.values() for each in group)


def test_a_worker_has_the_threads_that_it_says() -> None:
    """In a process of its own: TVM would take half of the processors unless told otherwise before its first call."""
    code = (
        "import sys, tvm\n"
        "from mercer.backends.tvm.target import parse\n"
        "from mercer.backends.tvm.tuning import worker\n"
        "for asked in map(int, sys.argv[1:]):\n"
        "    here = worker.local(parse('cpu:avx2'), asked)\n"
        "    print(here.threads, tvm.get_global_func('runtime.NumThreads')())"
    )
    unset = {name: value for name, value in os.environ.items() if name != "TVM_NUM_THREADS"}
    given = {physical_cores(): physical_cores(), 1: 1, 1000: physical_cores()}
    command = [sys.executable, "-c", code, *map(str, given)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=unset)
    assert done.stdout.splitlines() == [f"{threads} {threads}" for threads in given.values()]


def test_a_worker_that_fails_is_said() -> None:
    def broken() -> worker.Worker:
        raise worker.WorkerError("no machine")

    found = tasks(KERNELS["direct"], TARGET)
    with pytest.raises(worker.WorkerError):
        Tuner(found, [1]).run([broken], 1.0)
    tuner = Tuner(found, [1])
    tuner.run([broken, lambda: worker.local(TARGET, 1)], 5.0)
    assert len(tuner.faults) == 1 and all(each.rounds for group in tuner.found.values() for each in group)
