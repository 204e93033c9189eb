"""Python text of straight-line functions: expressions are shared graphs that become lines with named temporaries."""

from __future__ import annotations

import builtins
import enum
import keyword
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mercer.backends.torch import integers

MAX_WIDTH = 100
"""An expression longer than this many characters is split over several lines."""


class Level(enum.IntEnum):
    """How tightly an expression binds in Python's grammar."""

    LOOSE = 0
    CONDITIONAL = 1
    OR = 2
    AND = 3
    NOT = 4
    COMPARE = 5
    BIT_OR = 6
    BIT_XOR = 7
    BIT_AND = 8
    ADD = 9
    MULTIPLY = 10
    UNARY = 11
    POWER = 12
    ATOM = 13


_HINTS = {Level.COMPARE: "inside", Level.BIT_AND: "inside"}


class Binding(enum.Enum):
    """Whether an expression gets a name: when it is used twice, always, or never."""

    SHARED = "shared"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, eq=False)
class Code:
    """A Python expression: every `{}` of the template takes the next operand.

    `needs` is how tightly each operand must bind to stand without parentheses, `hint` the name for a temporary.
    """

    template: str
    operands: tuple[Code, ...]
    needs: tuple[Level, ...]
    level: Level
    binding: Binding
    hint: str


class Names:
    """Python identifiers, each given once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = {*taken, "torch", "F", "nn", "self", integers.NAME}

    def new(self, wanted: str) -> str:
        """`wanted` as an identifier, with a number behind it when that is taken."""
        base = re.sub(r"\W", "_", wanted)
        if not base or base[0].isdigit():
            base = f"_{base}"
        name, count = base, 0
        while name in self.taken or keyword.iskeyword(name) or hasattr(builtins, name):
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name


class Block:
    """The body of one function: assignments in order, equal expressions computed once."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._interned: dict[tuple[str, tuple[int, ...]], Code] = {}
        self._assignments: list[tuple[str, Code]] = []
        self.definitions: list[str] = []

    # --- building -----------------------------------------------------------------------------------------------------

    def code(
        self,
        template: str,
        *operands: Code,
        needs: Sequence[Level] | None = None,
        level: Level = Level.ATOM,
        binding: Binding = Binding.SHARED,
        hint: str = "t",
    ) -> Code:
        """The expression; operands stand as arguments of a call unless `needs` says otherwise."""
        key = (template, tuple(map(id, operands)))
        if key not in self._interned:
            levels = tuple(needs) if needs is not None else (Level.LOOSE,) * len(operands)
            self._interned[key] = Code(template, operands, levels, level, binding, hint)
        return self._interned[key]

    def leaf(self, text: str) -> Code:
        """A name or a literal number."""
        return self.code(text, level=Level.UNARY if text.startswith("-") else Level.ATOM)

    def postfix(self, template: str, operand: Code, *others: Code, hint: str = "t") -> Code:
        """A method call or a subscript of `operand`, as in `{}.sum(1)`."""
        needs = (Level.ATOM, *(Level.LOOSE for _ in others))
        return self.code(template, operand, *others, needs=needs, hint=hint)

    def infix(self, operator: str, left: Code, right: Code, level: Level) -> Code:
        """A left-associative binary operation (`**` and comparisons: not associative)."""
        above = Level(level + 1)
        first = above if level in (Level.COMPARE, Level.POWER) else level
        second = Level.UNARY if level is Level.POWER else above
        return self.code(
            f"{{}} {operator} {{}}", left, right, needs=(first, second), level=level, hint=_HINTS.get(level, "t")
        )

    def prefix(self, operator: str, operand: Code, level: Level) -> Code:
        return self.code(f"{operator}{{}}", operand, needs=(level,), level=level)

    def assign(self, wanted: str, code: Code) -> str:
        """Add a line `name = code` unless the value has a name; the name, new and similar to `wanted`."""
        if not code.operands and code.template.isidentifier():
            return code.template
        known = next((name for name, other in self._assignments if other is code), None)
        if known is None:
            known = self.names.new(wanted)
            self._assignments.append((known, code))
        return known

    def define(self, wanted: str, text: str) -> str:
        """Add a local function in front of the assignments; its name, similar to `wanted`, goes into the first hole."""
        name = self.names.new(wanted)
        head, rest = text.split("\n", 1)
        self.definitions += [head.format(name), *rest.split("\n")]
        return name

    def inline(self, code: Code) -> str:
        """The expression as one piece of text, nothing named."""
        parts = [
            f"({self.inline(operand)})" if operand.level < needed else self.inline(operand)
            for operand, needed in zip(code.operands, code.needs, strict=True)
        ]
        return code.template.format(*parts) if parts else code.template

    # --- text ---------------------------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """The local functions and the assignments as text."""
        return [*self.definitions, *_Printer(self.names, self._assignments).lines()]


def wrapped(line: str, indent: int, width: int = 120) -> list[str]:
    """The line, broken inside its longest parenthesis when it is too long; a trailing comment does not count."""
    code, mark, comment = line.partition("  # ")
    if indent + len(code) <= width:
        return [line]
    start, end = _longest_bracket(code)
    if end - start < 2:
        return [line]
    inner = textwrap.wrap(code[start + 1 : end], width - indent - 4, break_long_words=False, break_on_hyphens=False)
    return [f"{code[: start + 1]}{mark}{comment}", *(f"    {part}" for part in inner), code[end:]]


def _longest_bracket(code: str) -> tuple[int, int]:
    """Where the longest outermost parenthesis opens and closes."""
    best, start, depth = (0, 0), 0, 0
    for position, character in enumerate(code):
        if character in "([":
            start = position if depth == 0 else start
            depth += 1
        elif character in ")]":
            depth -= 1
            if depth == 0 and character == ")" and position - start > best[1] - best[0]:
                best = (start, position)
    return best


class _Printer:
    def __init__(self, names: Names, assignments: Sequence[tuple[str, Code]]) -> None:
        self.names = names
        self.assignments = assignments
        self.uses = _uses([code for _, code in assignments])
        self.bound: dict[int, str] = {}
        self.output: list[str] = []

    def lines(self) -> list[str]:
        for name, code in self.assignments:
            text = self.text(code, named=False)
            self.output.append(f"{name} = {text}")
            if code.operands:
                self.bound.setdefault(id(code), name)
        return self.output

    def text(self, code: Code, named: bool = True) -> str:
        if id(code) in self.bound:
            return self.bound[id(code)]
        parts = [self.operand(*pair) for pair in zip(code.operands, code.needs, strict=True)]
        while parts and len(code.template) + sum(map(len, parts)) > MAX_WIDTH:
            longest = max(range(len(parts)), key=lambda i: len(parts[i]))
            if len(parts[longest]) < MAX_WIDTH // 4:
                break
            parts[longest] = self.bind(code.operands[longest], parts[longest])
        text = code.template.format(*parts) if parts else code.template
        shared = code.binding is Binding.SHARED and self.uses[id(code)] > 1
        if named and code.operands and (shared or code.binding is Binding.ALWAYS):
            return self.bind(code, text)
        return text

    def operand(self, code: Code, needed: Level) -> str:
        text = self.text(code)
        return f"({text})" if code.level < needed and id(code) not in self.bound else text

    def bind(self, code: Code, text: str) -> str:
        if text.startswith("(") and code.level < Level.ATOM:
            text = text[1:-1] if _encloses(text) else text
        name = self.names.new(code.hint)
        self.output.append(f"{name} = {text}")
        self.bound[id(code)] = name
        return name


def _encloses(text: str) -> bool:
    """Whether the first parenthesis closes at the very end."""
    depth = 0
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return position == len(text) - 1
    return False


def _uses(roots: Sequence[Code]) -> dict[int, int]:
    """How often each expression is written out; what is never named counts once for every place of its users."""
    order: list[Code] = []
    seen: set[int] = set()

    def visit(code: Code) -> None:
        if id(code) not in seen:
            seen.add(id(code))
            for operand in code.operands:
                visit(operand)
            order.append(code)

    for root in roots:
        visit(root)
    uses = dict.fromkeys(seen, 0)
    for root in roots:
        uses[id(root)] += 1
    for code in reversed(order):
        times = uses[id(code)] if code.binding is Binding.NEVER else 1
        for operand in code.operands:
            uses[id(operand)] += times
    return uses
