"""What errors look like: the whole text of each wrong file of `errors/`, and the parts they are made of."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from mercer.frontend.diagnostics import (
    DIAGNOSTICS,
    SOURCES,
    CompileError,
    Diagnostic,
    DiagnosticBag,
    SourceMap,
    did_you_mean,
    render,
    render_all,
)
from mercer.frontend.parser import parse
from mercer.ir.spans import Span
from mercer.runtime.errors import MercerError

ERRORS = Path(__file__).parent / "errors"


def errors_of(text: str, file: str = "a.mer") -> tuple[Diagnostic, ...]:
    with pytest.raises(CompileError) as caught:
        parse(text, file)
    return caught.value.diagnostics


@pytest.mark.parametrize("name", sorted(path.stem for path in ERRORS.glob("*.mer")))
def test_message(name: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(CompileError) as caught:
        parse((ERRORS / f"{name}.mer").read_text(encoding="utf-8"), f"{name}.mer")
    message = str(caught.value) + "\n"
    expected = ERRORS / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        expected.write_text(message, encoding="utf-8")
    assert message == expected.read_text(encoding="utf-8")


def test_messages_speak_of_no_grammar_terminal() -> None:
    texts = "\n".join(path.read_text(encoding="utf-8") for path in ERRORS.glob("*.txt"))
    assert len(texts) > 2000
    assert not re.findall(r"\b_?[A-Z]{3,}(?:_[A-Z]+)*\b|__ANON|\$END", texts.replace("`NAME[axes]`", ""))


def test_carets_stand_below_the_span() -> None:
    for path in ERRORS.glob("*.txt"):
        for block in path.read_text(encoding="utf-8").split("\n\n"):
            head, *rest = block.split("\n")
            place = re.match(r"\S+?:(\d+):(\d+): error\[([a-z-]+)\]: .", head)
            if place is None:
                assert re.fullmatch(r"\d+ errors", head.strip()), head
                continue
            assert place[3] in DIAGNOSTICS
            gutter = f"{place[1]:>3} | "
            assert rest[0].startswith(gutter)
            assert rest[1].startswith(" " * (len(gutter) - 2) + "| ") and set(rest[1][len(gutter) :]) <= set(" \t^")
            if "…" not in rest[0] and rest[0].isascii():
                assert rest[1].index("^") == len(gutter) + int(place[2]) - 1


def test_rendered_text_has_every_part() -> None:
    sources = SourceMap()
    sources.add("digits.mer", "model M(x) {\n\n\n  h = x |> Conv2D(16, 3)\n}\n")
    bag = DiagnosticBag(sources)
    diagnostic = bag.error(
        "unknown-name",
        "no layer or operator is named `Conv2D`",
        Span("digits.mer", 4, 12, 4, 18),
        expected="a layer",
        found="`Conv2D`",
        hint=did_you_mean("Conv2D", ["relu", "Conv2d"]),
        notes=["first", "second"],
    )
    assert render(diagnostic) == (
        "digits.mer:4:12: error[unknown-name]: no layer or operator is named `Conv2D`\n"
        "  4 |   h = x |> Conv2D(16, 3)\n"
        "    |            ^^^^^^\n"
        "  expected: a layer\n"
        "  found: `Conv2D`\n"
        "  hint: did you mean `Conv2d`?\n"
        "  note: first\n"
        "  note: second"
    )


def test_color_changes_nothing_but_color() -> None:
    (diagnostic,) = errors_of("fn f(x) = x +")
    colored = render(diagnostic, color=True)
    assert "\x1b[" in colored and re.sub(r"\x1b\[[0-9;]*m", "", colored) == render(diagnostic)
    assert "\x1b[" not in render(diagnostic)


def test_a_span_without_text_is_still_shown() -> None:
    bag = DiagnosticBag(SourceMap())
    assert render(bag.error("recursion", "it uses itself", Span("gone.mer", 3, 1, 3, 2))) == (
        "gone.mer:3:1: error[recursion]: it uses itself"
    )


@pytest.mark.parametrize(
    ("line", "span", "shown", "carets"),
    [
        ("\tx = é1", (6, 7), "\tx = é1", "\t    ^"),
        ("x = 日本", (6, 7), "x = 日本", "      ^^"),
        ("x = 1", (6, 7), "x = 1", "     ^"),
        ("x = 1", (3, 3), "x = 1", "  ^"),
    ],
)
def test_carets_follow_tabs_and_wide_characters(line: str, span: tuple[int, int], shown: str, carets: str) -> None:
    sources = SourceMap()
    sources.add("a.mer", line)
    bag = DiagnosticBag(sources)
    rows = render(bag.error("syntax-error", "m", Span("a.mer", 1, span[0], 1, span[1]))).split("\n")
    assert rows[1:] == [f"  1 | {shown}", f"    | {carets}"]


def test_long_lines_are_cut_around_the_error() -> None:
    sources = SourceMap()
    sources.add("a.mer", "x" * 500 + "HERE" + "y" * 500)
    bag = DiagnosticBag(sources)
    _, line, carets = render(bag.error("syntax-error", "m", Span("a.mer", 1, 501, 1, 505))).split("\n")
    assert len(line) < 140 and line[carets.index("^") : carets.rindex("^") + 1] == "HERE"


def test_spans_of_several_lines_are_marked_on_the_first() -> None:
    sources = SourceMap()
    sources.add("a.mer", "a = f(x,\n  y)\n")
    bag = DiagnosticBag(sources)
    diagnostic = bag.error("syntax-error", "m", Span("a.mer", 1, 5, 2, 5))
    assert diagnostic.lines == ("a = f(x,", "  y)")
    assert render(diagnostic).split("\n")[1:] == ["  1 | a = f(x,", "    |     ^^^^"]


def test_the_bag_sorts_and_raises_once() -> None:
    bag = DiagnosticBag()
    bag.raise_if_any()
    assert not bag
    for line, column in ((3, 1), (1, 9), (1, 2), (1, 2)):
        bag.error("syntax-error", f"at {line}:{column}", Span("a.mer", line, column, line, column + 1))
    with pytest.raises(MercerError) as caught:
        bag.raise_if_any()
    error = caught.value
    assert isinstance(error, CompileError)
    assert [d.message for d in error.diagnostics] == ["at 1:2", "at 1:9", "at 3:1"]
    assert str(error) == render_all(error.diagnostics) and str(error).endswith("\n\n3 errors")


def test_an_error_of_no_known_name_is_refused() -> None:
    with pytest.raises(ValueError, match="strange-error"):
        DiagnosticBag().error("strange-error", "m", Span("a.mer", 1, 1, 1, 2))


def test_the_table_is_fit_for_the_documentation() -> None:
    for name, line in DIAGNOSTICS.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert line[0].isupper() and line.endswith(".") and "\n" not in line


def test_a_compile_error_survives_pickle() -> None:
    with pytest.raises(CompileError) as caught:
        parse("fn f(x) = ", "a.mer")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.diagnostics == caught.value.diagnostics and str(copy) == str(caught.value)


def test_parsed_texts_can_be_shown_later() -> None:
    parse("fn f(x) = x\n", "kept.mer")
    assert SOURCES.lines(Span("kept.mer", 1, 4, 1, 5)) == ("fn f(x) = x",)


def test_one_error_per_wrong_item_and_none_for_the_others() -> None:
    places = [
        (d.span.line, d.name) for d in errors_of('fn f(x) = \nfn g(x) = x\nfn h(x) = )\nfn i(x) = "\nfn j(x) = x')
    ]
    assert places == [(1, "syntax-error"), (3, "unclosed-bracket"), (4, "unterminated-string")]


def test_the_file_is_named() -> None:
    assert str(errors_of("fn f(x) =", "dir/b.mer")[0].span) == "dir/b.mer:1:10"


@pytest.mark.parametrize("word", ["while"])
@pytest.mark.parametrize(
    "text", ["fn f(x) = {}(x)", "layer L(x) {{ {} x {{ }} }}", "fn {}(x) = x", "layer L(x; {}) {{ }}"]
)
def test_reserved_words(word: str, text: str) -> None:
    (diagnostic,) = errors_of(text.format(word))
    assert diagnostic.name == "reserved-word"
    assert diagnostic.message == f"`{word}` is not part of this version of the language"


def test_words_that_only_begin_like_a_keyword_are_names() -> None:
    parse("fn f(iffy, format, gradient, operator, scanned, notes, user) = iffy + format + inner + asp + orange")
