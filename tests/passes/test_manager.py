"""Pipelines as text, levels, reports and what is told while passes run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from mercer.ir.graph import Graph
from mercer.passes.fuse import Fuse
from mercer.passes.manager import Level, Pass, PassContext, PipelineError, run_passes
from mercer.passes.pipeline import FACTORIZE, INFERENCE, PASSES, QUANTIZE, parse
from mercer.runtime.errors import MercerError

TEXT = "model M(x: f32[N, 4]) -> f32[N, 4] { return relu(exp(relu(relu(x)))) }"
Read = Callable[[str], Any]


def test_pipeline_text() -> None:
    passes = parse(" fold , dead-code,lower, fuse{max_ops = 8, max_repeated=0}")
    assert [each.name for each in passes] == ["fold", "dead_code", "lower", "fuse"]
    assert passes[-1] == Fuse(max_ops=8, max_repeated=0)
    assert parse("") == ()


def test_every_pass_writes_itself_as_text_that_reads_back() -> None:
    changed = (*INFERENCE, Fuse(max_ops=3))
    assert parse(",".join(map(str, changed))) == changed


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("fold,fuze", "there is no pass `fuze`", "did you mean `fuse`?"),
        ("zzz", "there is no pass `zzz`", "there are: "),
        ("fuse{max_op=8}", "the pass `fuse` has no option `max_op`", "did you mean `max_ops`?"),
        ("cse{x=8}", "the pass `cse` has no option `x`", "there are none"),
        ("fuse{max_ops=many}", "the option `max_ops` of the pass `fuse` is int, not `many`", "its default is 64"),
        ("fold,,fuse", "cannot read the pipeline at `,fuse`", "fold,fuse{max_ops=8}"),
        ("fuse{max_ops=8", "cannot read the pipeline at", "fold,fuse{max_ops=8}"),
    ],
)
def test_wrong_pipelines(text: str, message: str, hint: str) -> None:
    with pytest.raises(PipelineError) as error:
        parse(text)
    assert message in error.value.message
    assert hint in (error.value.hint or "")


@pytest.mark.parametrize(
    ("text", "hint"), [("fuse", "put `lower` before it"), ("lower,canonical", "put it before `lower`")]
)
def test_a_pass_on_the_wrong_level(model: Read, text: str, hint: str) -> None:
    program = model(TEXT)
    with pytest.raises(PipelineError) as error:
        program.run(text)
    assert hint == error.value.hint


def test_reports_dumps_and_progress(model: Read) -> None:
    program = model(TEXT)
    dumps: list[tuple[int, str, str]] = []
    progress: list[tuple[int, int, str]] = []
    context = PassContext(
        program.library,
        dump=lambda step, name, text: dumps.append((step, name, text)),
        progress=lambda done, total, name: progress.append((done, total, name)),
    )
    run_passes(program.graph, parse("canonical,lower,fuse"), context)
    assert [(step, name) for step, name, _ in dumps] == [(1, "canonical"), (2, "lower"), (3, "fuse")]
    assert dumps[0][2].startswith("mercer.graph") and dumps[1][2].startswith("mercer.nests")
    assert progress == [(0, 3, "canonical"), (1, 3, "lower"), (2, 3, "fuse"), (3, 3, "")]
    canonical, lower, fuse = context.reports
    assert (canonical.name, canonical.size_before, canonical.size_after, canonical.hits) == ("canonical", 4, 3, 1)
    assert canonical.rewrites["idempotent"].hits == 1
    assert canonical.rewrites["idempotent"].seconds > 0
    assert (lower.hits, fuse.size_after, fuse.rewrites["inline_producer"].hits) == (0, 1, 2)


def test_the_program_that_is_given_stays(model: Read) -> None:
    program = model(TEXT)
    before = replace(program.graph)
    program.run("canonical,lower,fuse")
    assert program.graph == before


@dataclass(frozen=True)
class Break(Pass):
    """A pass that leaves a node without its operand."""

    name: ClassVar[str] = "break"
    level: ClassVar[Level] = Level.GRAPH

    def on_graph(self, graph: Graph, context: PassContext) -> Graph:
        return replace(graph, nodes=graph.nodes[1:])


def test_verify_each_finds_a_pass_that_breaks_the_program(model: Read) -> None:
    program = model(TEXT)
    run_passes(program.graph, (Break(),), program.context(verify_each=False))
    with pytest.raises(MercerError, match="relu"):
        run_passes(program.graph, (Break(),), program.context())


def test_the_standard_pipeline_names_every_pass() -> None:
    assert PASSES.keys() == {each.name for each in (*INFERENCE, *FACTORIZE, *QUANTIZE)}
    assert all(kind.__doc__ and "Class:" in kind.__doc__ for kind in PASSES.values())
