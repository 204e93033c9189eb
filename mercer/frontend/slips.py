"""Syntax errors in the user's words: what stands there, what could stand there, and which common slip it may be."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lark import Lark, Token
from lark.exceptions import UnexpectedInput, UnexpectedToken
from lark.lexer import PatternStr

from mercer.frontend.diagnostics import DiagnosticBag
from mercer.ir.spans import Span

# --- common slips -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slip:
    """A hint for an error where the line matches `before` up to the error and `here` from it on.

    `needs` names a terminal that must be allowed there, which tells the place in the grammar.
    """

    before: str
    here: str
    hint: str
    needs: str | None = None

    def matches(self, before: str, here: str, allowed: set[str]) -> bool:
        if self.needs and self.needs not in allowed:
            return False
        return bool(re.search(f"(?:{self.before})$", before) and re.match(self.here, here))


_REDUCERS = "sum|prod|max|min|mean|any|all|argmax|argmin"

SLIPS: tuple[Slip, ...] = (
    # words of other languages
    Slip(
        "",
        r"(def|func|function|fun)\b",
        "a function is `fn name(x) = ...`, a layer `layer Name(x; out) { ... }`",
        "KIND",
    ),
    Slip("", r"(import|from|include)\b", "another file is taken in by `use name`", "KIND"),
    Slip("", r"(class|struct)\b", "a layer is `layer Name(x; out) { ... }`", "KIND"),
    Slip("", r"(const|let|param|buffer|return)\b", "this stands inside the body of a definition", "KIND"),
    Slip(r"\blambda\b.*", "", "there is no `lambda`; define a `fn`, or a `kernel`, and give its name"),
    Slip("", r"elif\b", "write `else if`"),
    Slip(r"\bin\s+range\(.*\)\s*", "", "a range is written `0..n`"),
    Slip(r"^\s*(if|else|for)\b.*", ":", "a body stands in braces: `{ ... }`"),
    Slip(r"^\s*(op|fn|layer|model|kernel)\b.*\)\s*", r":\s*($|#)", "a body stands in braces: `{ ... }`"),
    Slip(r"\)\s*=?", r"=?>", "the type of the result stands after `->`"),
    Slip(r"\)\s*", r":?\s*[A-Za-z]\w*\s*\[", "the type of the result stands after `->`", "ARROW"),
    Slip(r"^\s*(use|kernel|fn|op|layer|model)\s+", r"\w", "a definition stands outside of other ones", "EQUAL"),
    # operators of other languages
    Slip("", r":=", "an assignment is `name = value`"),
    Slip(r"[-+*/%]", r"=", "there is no assignment by operator; write `x = x + 1`"),
    Slip("", r"[-+*/%]=", "there is no assignment by operator; write `x = x + 1`"),
    Slip(r"(?<![=!<>])=", r"=", "an assignment has one `=`, a comparison two"),
    Slip("", r"&", "write `and`"),
    Slip(r"\|?", r"\|(?!>)", "write `or`; a pipe is `|>`"),
    Slip("", r"!", "write `not`"),
    Slip("", r"\^", "a power is `x ** 2`"),
    Slip(r"/", r"/", "`/` of whole numbers known at compile time already rounds down"),
    Slip("", r"@", "a matrix product is `matmul(a, b)`, or a sum over an index"),
    Slip(r"(==|!=|<=|>=|<|>)[^=<>]*", r"(==|!=|<=|>=|<|>)", "comparisons do not chain; write `a < b and b < c`"),
    Slip("", r"[×·∙⋅]", "a product is written with `*`"),
    Slip("", r"\?", "a choice is written `a if condition else b`"),
    Slip(r"\w", r"\.(?!\.)", "values have no members; write `f(x)` or `x |> f`"),
    Slip("", r"'", "a string stands in double quotes"),
    Slip("", r"\\", "a line goes on after an operator or a comma, and inside brackets"),
    # parts of the language in the wrong place
    Slip(r";[^()]*\w\s*", r":", "a tensor parameter stands before the `;`, an attribute has no type", "EQUAL"),
    Slip(r"\b(kernel|fn|op|layer|model)\b[^;]*", r"=(?!=)", "attributes stand after a `;`: `(x; k = 3)`", "SEMICOLON"),
    Slip(rf"\b({_REDUCERS})\[.*\]\s*", r"=", "`max[` and the like begin a reduction; choose another name"),
    Slip(r"\bconst\s+\w+\s*", r"=", "say its indices, `const x[i < n] = ...`; a single value is a `let`"),
    Slip(r"\blet\s+\w+\s*", r"\[", "a formula over indices has no `let`: `x[i] = ...`"),
    Slip(r"^\s*", r"(\*\*|[-+*/%<>]|==|!=|and\b|or\b)", "a line goes on when the one before it ends in the operator"),
    Slip(r"^\s*\w+\s*", r"\(", "a statement gives its value a name: `y = f(x)`", "EQUAL"),
    Slip(
        r"\|>\s*\w+\s*(\(.*\))?\s*", r"\*\*|[-+*/%<>\[]|==|(and|or|if)\b", "put the pipe in parentheses: `(x |> f) + 1`"
    ),
    Slip(
        r"^\s*(let|const|param|buffer|return|if|for|require)\s*",
        r"=(?!=)|,|\[",
        "the line begins with a word of the language, which cannot be a name",
    ),
    Slip(r"\d", r"[A-Za-z_(]", "a product is written with its `*`: `2*x`", "PLUS"),
    Slip(r"[\w)\]]\s+", r"\w+(\[.*\])?\s*=(?!=)", "two statements on one line are separated by `;`", "_NEWLINE"),
    Slip(r"[\w)\]]\s+", r"[A-Za-z0-9_(\"]", "is a `,` or an operator missing between the two?", "PLUS"),
)

# --- words for terminals ----------------------------------------------------------------------------------------------

_EXPRESSION = {"NAME", "INT", "FLOAT", "STRING", "TRUE", "FALSE", "NONE", "LPAR", "LSQB", "MINUS", "NOT", "REDUCER"}
_STATEMENTS = {
    "NAME",
    "LET",
    "CONST",
    "PARAM",
    "RETURN",
    "IF",
    "FOR",
    "REQUIRE",
    "SCAN",
    "ITERATE",
    "CARRY",
    "EMIT",
    "UNTIL",
}
_OPERATORS = {"LPAR", "POWER", "TIMES", "PLUS", "MINUS", "COMPARE", "LESS", "AND", "OR", "IF", "PIPE", "LSQB", "_AS"}
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
    take({"KIND", "USE", "_NEWLINE", "$END"}, {"KIND", "USE"}, "`use`, `kernel`, `fn`, `op`, `layer` or `model`")
    if "_NEWLINE" in left:
        left -= _ENDS - {"_NEWLINE"}
    operators = "PLUS" in left or "PIPE" in left
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
    line, column = token.line or 1, token.column or 1
    message = f"more than {deepest} operators or brackets stand within each other"
    hint = "give parts of the expression names of their own"
    bag.error("nesting-too-deep", message, Span(file, line, column, line, column + 1), hint=hint)


def explain(
    error: UnexpectedInput, lark: Lark, text: str, file: str, piece: tuple[int, int], bag: DiagnosticBag
) -> None:
    """Add the error that stopped Lark in a piece of the text."""
    lark_error: Any = error  # Lark does not annotate the fields of its errors
    allowed: set[str] = lark_error.interactive_parser.accepts()
    if isinstance(error, UnexpectedToken):
        token: Token = lark_error.token
        if token.type == "$END":
            start = end = _end_of_code(text, *piece)
        else:
            start = token.start_pos or 0
            end = start if token.type == "_NEWLINE" else token.end_pos or 0
        _Explanation(token, start, end, allowed, lark, text, file, piece, bag).give()
    else:
        start: int = lark_error.pos_in_stream
        _Explanation(None, start, start + 1, allowed, lark, text, file, piece, bag).give()


@dataclass(frozen=True, slots=True)
class _Explanation:
    """An error at `text[start:end]`; `token` is None for a character that begins no token."""

    token: Token | None
    start: int
    end: int
    allowed: set[str]
    lark: Lark
    text: str
    file: str
    piece: tuple[int, int]
    bag: DiagnosticBag

    def give(self) -> None:
        if self.token is None:
            self.character()
        elif self.token.type == "RESERVED":
            message = f"`{self.token}` is not part of this version of the language"
            hint = "the word is kept for a later version; choose another name"
            self.bag.error("reserved-word", message, self.span(), hint=hint)
        elif not self.bracket(self.token):
            self.unexpected(self.token)

    def span(self, start: int | None = None, end: int | None = None) -> Span:
        start = self.start if start is None else start
        end = max(self.end if end is None else end, start + 1)
        line, column = self.text.count("\n", 0, start) + 1, start - self.text.rfind("\n", 0, start)
        return Span(self.file, line, column, line, column + end - start)

    def line_start(self, position: int) -> int:
        return self.text.rfind("\n", 0, position) + 1

    def rest(self) -> str:
        """The text of the line from the error on."""
        return self.text[self.start :].split("\n", 1)[0]

    def hint(self) -> str | None:
        before = self.text[max(self.line_start(self.start), self.piece[0]) : self.start]
        found = (slip.hint for slip in SLIPS if slip.matches(before, self.rest(), self.allowed))
        return next(found, None)

    def character(self) -> None:
        rest = self.rest()
        if rest.startswith('"'):
            hint = 'a string ends on its line; a quote inside it is written `\\"`'
            span = self.span(self.start, self.start + len(rest))
            self.bag.error("unterminated-string", 'this string has no closing `"`', span, hint=hint)
            return
        sign = f"`{rest[0]}`" if rest[0].isprintable() else f"the character U+{ord(rest[0]):04X}"
        message = f"{sign} is not a sign of the language"
        expected = expected_words(self.allowed, self.lark)
        self.bag.error("unknown-character", message, self.span(), expected=expected, hint=self.hint())

    def unexpected(self, token: Token) -> None:
        found = _found_words(token)
        if token.type == "$END":
            found = {"": "the end of the text", "}": "`}`"}.get(self.text[self.piece[1] :][:1], "the end of the item")
        hint = self.hint()
        if hint is None and "NAME" in self.allowed and "INT" not in self.allowed and _KEYWORD.fullmatch(token):
            hint = f"`{token}` is a word of the language and cannot be a name"
        expected = expected_words(self.allowed, self.lark)
        self.bag.error("syntax-error", f"{found} cannot stand here", self.span(), expected=expected, hint=hint)

    def bracket(self, token: Token) -> bool:
        """Whether a bracket without partner is to blame; then the error is added."""
        openers, suspect = _open_brackets(self.text, self.piece[0], self.start)
        closing = str(token) if token.type in ("RPAR", "RSQB", "RBRACE") else None
        if not openers:
            if closing:
                self.bag.error("unclosed-bracket", f"`{closing}` closes nothing", self.span())
            return closing is not None
        at_end = token.type == "$END"
        opener = suspect if suspect is not None and at_end else openers[-1]
        bracket = self.text[opener]
        partner = {"(": ")", "[": "]", "{": "}"}[bracket]
        if at_end:
            where = "the end of the text" if self.piece[1] == len(self.text) else "the next item"
        elif closing and closing != partner:
            where = f"the `{closing}` of line {self.span().line}"
        elif bracket != "{" and self.begins_statement(opener):
            where = f"the statement of line {self.span().line}"
        else:
            return False
        span = self.span(opener, opener + 1)
        expected = f"`{partner}` before {where}"
        self.bag.error("unclosed-bracket", f"this `{bracket}` is never closed", span, expected=expected)
        return True

    def begins_statement(self, opener: int) -> bool:
        """Whether the line of the error begins a statement, no deeper than the line of the bracket."""
        here, there = self.line_start(self.start), self.line_start(opener)
        return (
            here != there
            and bool(_STATEMENT_LINE.match(self.text, here))
            and (_indent(self.text, here) <= _indent(self.text, there))
        )


_STATEMENT_LINE = re.compile(
    r"[ \t]*(?:(?:let|const|param|buffer|return|if|for|require)\b|\w+(?:\[[^\]\n]*\])?[ \t]*=(?!=)|\})"
)
_TOKENS = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|[()\[\]{}]')
_CODE = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|\S')


def _indent(text: str, line_start: int) -> int:
    end = line_start
    while text[end : end + 1] in (" ", "\t"):
        end += 1
    return end - line_start


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
    for match in _CODE.finditer(text, start, end):
        if not match[0].startswith("#"):
            last = match.end()
    return last
