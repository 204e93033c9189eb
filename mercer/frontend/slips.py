"""Syntax errors in the user's words: what stands there, what could stand there, and which common slip it may be."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lexer import PatternStr

from mercer.frontend.diagnostics import DiagnosticBag
from mercer.ir.spans import Span

# --- common slips -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slip:
    """A hint for an error where the line matches `before` up to the error and `here` from it on.

    `needs` are terminals of which one must be allowed at the place.
    """

    before: str
    here: str
    hint: str
    message: str | None = None
    needs: frozenset[str] = frozenset()

    def matches(self, before: str, here: str, allowed: set[str]) -> bool:
        if self.needs and not self.needs & allowed:
            return False
        return bool(re.search(f"(?:{self.before})$", before) and re.match(self.here, here))


_ITEM = frozenset({"KIND"})
_OPERATOR = frozenset({"PLUS"})
_STATEMENT = frozenset({"LET"})

SLIPS: tuple[Slip, ...] = (
    # words of other languages
    Slip(
        "",
        r"(def|func|function|fun)\b",
        "a function is `fn name(x) = ...`, a layer `layer Name(x; out) { ... }`",
        needs=_ITEM,
    ),
    Slip("", r"(import|from|include)\b", "another file is taken in by `use name`", needs=_ITEM),
    Slip("", r"(class|struct)\b", "a layer is `layer Name(x; out) { ... }`", needs=_ITEM),
    Slip("", r"(const|let|param|buffer)\b", "this stands inside the body of a definition", needs=_ITEM),
    Slip(r"\blambda\b.*", "", "there is no `lambda`; define a `fn`, or a `kernel`, and give its name"),
    Slip("", r"elif\b", "write `else if`"),
    Slip(r"\bin\s+range\(.*\)\s*", "", "a range is written `0..n`"),
    Slip(r"^\s*(if|else|for)\b.*", ":", "a body stands in braces: `{ ... }`"),
    Slip(r"^\s*(def|op|fn|layer|model|kernel)\b.*\)\s*", r":\s*($|#)", "a body stands in braces: `{ ... }`"),
    Slip(r"\)\s*", r"=>", "the type of the result stands after `->`"),
    Slip(r"\)\s*=", r">", "the type of the result stands after `->`"),
    Slip(r"\)\s*-?", r"[>\s]*[A-Za-z]\w*\s*\[", "the type of the result stands after `->`", needs=frozenset({"ARROW"})),
    # operators of other languages
    Slip("", r":=", "an assignment is `name = value`"),
    Slip(r"[-+*/%]", r"=", "there is no assignment by operator; write `x = x + 1`"),
    Slip(r"(?<![=!<>])=", r"=", "an assignment has one `=`, a comparison two"),
    Slip("", r"&", "write `and`"),
    Slip(r"\|?", r"\|(?!>)", "write `or`; a pipe is `|>`"),
    Slip("", r"!", "write `not`"),
    Slip("", r"\^", "a power is `x ** 2`"),
    Slip(r"/", r"/", "`/` of whole numbers known at compile time already rounds down"),
    Slip("", r"@", "a matrix product is `matmul(a, b)`, or a sum over an index"),
    Slip(r"(==|!=|<=|>=|<|>)[^=<>]*", r"(==|!=|<=|>=|<|>)", "comparisons do not chain; write `a < b and b < c`"),
    Slip("", r"\?", "a choice is written `a if condition else b`"),
    Slip(r"\w", r"\.(?!\.)", "values have no members; write `f(x)` or `x |> f`"),
    Slip("", r"'", "a string stands in double quotes"),
    Slip("", r"%%|\$|`|\\", "a comment begins with `#`; a line goes on after an operator, a comma or inside brackets"),
    # parts of the language in the wrong place
    Slip(
        r";[^()]*\w\s*",
        r":",
        "a tensor parameter stands before the `;`, an attribute has no type",
        needs=frozenset({"EQUAL"}),
    ),
    Slip(
        r"\b(kernel|fn|op|layer|model)\b[^;]*",
        r"=(?!=)",
        "attributes stand after a `;`: `(x; k = 3)`",
        needs=frozenset({"SEMICOLON"}),
    ),
    Slip(
        r"\b(sum|prod|max|min|mean|any|all|argmax|argmin)\[.*\]\s*",
        r"=",
        "`sum`, `max` and the like begin a reduction; choose another name",
    ),
    Slip(r"\bconst\s+\w+\s*", r"=", "say its indices, `const x[i < n] = ...`; a single value is a `let`"),
    Slip(r"\blet\s+\w+\s*", r"\[", "a formula over indices has no `let`: `x[i] = ...`"),
    Slip(r"^\s*", r"(\*\*|[-+*/%<>]|==|!=|and\b|or\b)", "a line goes on when the one before it ends in the operator"),
    Slip(r"^\s*\w+\s*", r"\(", "a statement gives its value a name: `y = f(x)`", needs=frozenset({"EQUAL"})),
    Slip(
        r"\|>\s*[\w.]+\s*(\(.*\))?\s*",
        r"\*\*|[-+*/%<>\[]|==|and\b|or\b|if\b",
        "put the pipe in parentheses: `(x |> f) + 1`",
    ),
    Slip(r"\d", r"[A-Za-z_(]", "a product is written with its `*`: `2*x`", needs=_OPERATOR),
    Slip(
        r"[\w)\]]\s+",
        r"[\w(\"]",
        "two expressions stand side by side; is a `,` or an operator missing between them?",
        needs=_OPERATOR,
    ),
)

# --- words for terminals ----------------------------------------------------------------------------------------------

_EXPRESSION = {"NAME", "INT", "FLOAT", "STRING", "TRUE", "FALSE", "NONE", "LPAR", "LSQB", "MINUS", "NOT", "REDUCER"}
_STATEMENTS = {"NAME", "LET", "CONST", "PARAM", "RETURN", "IF", "FOR", "REQUIRE"}
_OPERATORS = {"POWER", "TIMES", "PLUS", "MINUS", "COMPARE", "LESS", "AND", "OR", "IF", "PIPE", "LSQB", "_AS"}
_ENDS = {"_NEWLINE", "SEMICOLON", "RBRACE", "$END"}
_WORDS = {
    "NAME": "a name",
    "INT": "a number",
    "FLOAT": "a number",
    "STRING": "a string",
    "ELLIPSIS": "`...`",
    "_NEWLINE": "the end of the line",
    "$END": "the end of the text",
    "KIND": "`kernel`, `fn`, `op`, `layer` or `model`",
    "USE": "`use`",
    "TIMES": "`*`, `/` or `%`",
    "COMPARE": "a comparison",
    "PARAM": "`param` or `buffer`",
    "REDUCER": "a reduction",
    "_FOR_AS": "`as`",
}
_KEYWORD = re.compile(r"(?:let|const|param|buffer|return|if|else|for|in|require|and|or|not|as|true|false|none)\b")


def expected_words(allowed: Iterable[str], lark: Lark) -> str:
    """What may stand at a place, for people: terminals that make one idea are named together."""
    left = set(allowed) - {"RESERVED"}
    words: list[str] = []

    def take(group: set[str], telling: set[str], word: str) -> None:
        nonlocal left
        if telling <= left:
            words.append(word)
            left -= group

    take(_STATEMENTS, {"LET", "RETURN"}, "a statement")
    take(_EXPRESSION, {"NAME", "INT", "LPAR"}, "an expression")
    if "_NEWLINE" in left:
        left -= _ENDS - {"_NEWLINE"}
    operators = {"PLUS"} <= left or "PIPE" in left
    if operators:
        left -= _OPERATORS
    words += sorted({_word(terminal, lark) for terminal in left})
    words += ["an operator"] if operators else []
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" or {words[-1]}" if words else "nothing"


def _word(terminal: str, lark: Lark) -> str:
    if terminal in _WORDS:
        return _WORDS[terminal]
    pattern = next((known.pattern for known in lark.terminals if known.name == terminal), None)
    if isinstance(pattern, PatternStr):
        return f"`{pattern.value}`"
    return f"`{terminal.lower().strip('_')}`"


def _found_words(token: Token) -> str:
    text = str(token)
    match token.type:
        case "_NEWLINE":
            return "the end of the line"
        case "NAME" | "KIND" | "USE":
            return f"the name `{text}`"
        case "INT" | "FLOAT":
            return f"the number `{text}`"
        case "STRING":
            return f"the string {text}"
        case _:
            return f"the word `{text}`" if _KEYWORD.fullmatch(text) else f"`{text}`"


# --- explaining -------------------------------------------------------------------------------------------------------


def too_deep(token: Token, file: str, deepest: int, bag: DiagnosticBag) -> None:
    """Add the error of an expression or block beyond the depth that is followed."""
    span = Span(file, token.line or 1, token.column or 1, token.line or 1, (token.column or 1) + 1)
    message = f"more than {deepest} operators or brackets stand within each other"
    bag.error("nesting-too-deep", message, span, hint="give parts of the expression names of their own")


def explain(
    error: UnexpectedInput, lark: Lark, text: str, file: str, piece: tuple[int, int], bag: DiagnosticBag
) -> None:
    """Add the error that stopped Lark in a piece of the text."""
    _Explanation(error, lark, text, file, piece, bag).give()


class _Explanation:
    def __init__(
        self, error: UnexpectedInput, lark: Lark, text: str, file: str, piece: tuple[int, int], bag: DiagnosticBag
    ) -> None:
        self.lark, self.text, self.file, self.piece, self.bag = lark, text, file, piece, bag
        self.token = error.token if isinstance(error, UnexpectedToken) else None
        self.allowed: set[str] = error.interactive_parser.accepts()  # pyright: ignore
        if isinstance(error, UnexpectedCharacters):
            self.start, self.end = error.pos_in_stream or 0, (error.pos_in_stream or 0) + 1
        elif self.token is None or self.token.type == "$END":
            self.start = self.end = max(piece[0], _end_of_code(text, *piece))
        elif self.token.type == "_NEWLINE":
            self.start = self.end = self.token.start_pos or 0
        else:
            self.start, self.end = self.token.start_pos or 0, self.token.end_pos or 0

    def span(self, start: int, end: int) -> Span:
        line, column = self.text.count("\n", 0, start) + 1, start - self.text.rfind("\n", 0, start)
        end = max(end, start + 1)
        return Span(self.file, line, column, line, column + end - start)

    def give(self) -> None:
        span = self.span(self.start, self.end)
        if self.token is not None and self.token.type == "RESERVED":
            message = f"`{self.token}` is not part of this version of the language"
            self.bag.error(
                "reserved-word", message, span, hint="the word is kept for a later version; choose another name"
            )
        elif not self.bracket():
            self.other(span)

    def bracket(self) -> bool:
        """Whether a bracket without partner is to blame."""
        openers, suspect = _open_brackets(self.text, self.piece[0], self.start)
        found = self.text[self.start : self.end]
        at_end = self.token is not None and self.token.type == "$END"
        if not openers:
            if found in (")", "]", "}"):
                self.bag.error("unclosed-bracket", f"`{found}` closes nothing", self.span(self.start, self.end))
            return bool(found in (")", "]", "}"))
        opener = suspect if suspect is not None and at_end else openers[-1]
        kind = self.text[opener]
        partner = {"(": ")", "[": "]", "{": "}"}[kind]
        if at_end:
            where = "the end of the text" if self.piece[1] == len(self.text) else "the next item"
        elif found in (")", "]", "}") and found != partner:
            where = f"the `{found}` of line {self.span(self.start, self.end).line}"
        elif kind != "{" and self.new_statement(opener):
            where = f"the statement of line {self.span(self.start, self.end).line}"
        else:
            return False
        self.bag.error(
            "unclosed-bracket",
            f"this `{kind}` is never closed",
            self.span(opener, opener + 1),
            expected=f"`{partner}` before {where}",
        )
        return True

    def new_statement(self, opener: int) -> bool:
        """Whether the line of the error begins a statement, no deeper than the line of the bracket."""
        here, there = (self.text.rfind("\n", 0, position) + 1 for position in (self.start, opener))
        if here == there:
            return False
        line = self.text[here:].split("\n", 1)[0]
        statement = re.match(
            r"\s*(?:(?:let|const|param|buffer|return|if|for|require)\b|\w+(?:\[[^\]]*\])?\s*=(?!=)|\})", line
        )
        return bool(statement) and _indent(self.text, here) <= _indent(self.text, there)

    def other(self, span: Span) -> None:
        line_start = self.text.rfind("\n", 0, self.start) + 1
        line_end = self.text.find("\n", self.start)
        before = self.text[max(line_start, self.piece[0]) : self.start]
        here = self.text[self.start : line_end if line_end >= 0 else len(self.text)]
        slip = next((slip for slip in SLIPS if slip.matches(before, here, self.allowed)), None)
        hint = slip.hint if slip else None
        expected = expected_words(self.allowed, self.lark)
        if self.token is None:
            if here.startswith('"'):
                message = 'this string has no closing `"`'
                self.bag.error(
                    "unterminated-string",
                    message,
                    self.span(self.start, self.start + len(here)),
                    hint='a string ends on its line; a quote inside it is written `\\"`',
                )
                return
            self.bag.error(
                "unknown-character",
                f"{_character(here[0])} is not a sign of the language",
                span,
                expected=expected,
                hint=hint,
            )
            return
        if self.token.type == "$END":
            found = "the end of the text" if self.piece[1] == len(self.text) else "the end of the item"
        else:
            found = _found_words(self.token)
        if hint is None and self.allowed <= {"NAME"} and _KEYWORD.fullmatch(self.token):
            hint = f"`{self.token}` is a word of the language and cannot be a name"
        self.bag.error("syntax-error", f"{found} cannot stand here", span, expected=expected, hint=hint)


def _character(character: str) -> str:
    return f"`{character}`" if character.isprintable() else f"the character U+{ord(character):04X}"


def _indent(text: str, line_start: int) -> int:
    return len(text[line_start:]) - len(text[line_start:].lstrip(" \t"))


_TOKENS = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|[()\[\]{}]')


def _open_brackets(text: str, start: int, end: int) -> tuple[list[int], int | None]:
    """Positions of the brackets open at `end`, and of the first `{` whose `}` stands at another indentation."""
    openers: list[int] = []
    suspect: int | None = None
    for match in _TOKENS.finditer(text, start, end):
        sign, position = match[0], match.start()
        if sign in ("(", "[", "{"):
            openers.append(position)
        elif sign in (")", "]", "}") and openers:
            opener = openers.pop()
            line, opener_line = (text.rfind("\n", 0, place) + 1 for place in (position, opener))
            first = not text[line:position].strip()
            if sign == "}" and suspect is None and first and _indent(text, line) != _indent(text, opener_line):
                suspect = opener
    return openers, suspect


def _end_of_code(text: str, start: int, end: int) -> int:
    """Where the last line with code ends, without its comment."""
    last = start
    for match in re.finditer(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|\S', text[start:end]):
        if not match[0].startswith("#"):
            last = start + match.end()
    return last
