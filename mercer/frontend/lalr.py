"""Lark's parser loop, made faster for a grammar with many levels of precedence.

A lone name becomes an expression in nine reductions that build nothing. Here they are one step, looked up by the two
states and the terminal that decide it. Tables, lexer and errors stay Lark's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from lark import Lark, Token
from lark.lexer import LexerState, LexerThread
from lark.parsers.lalr_analysis import Shift
from lark.parsers.lalr_parser_state import ParseConf, ParserState
from lark.utils import TextSlice


class _Shift(NamedTuple):
    state: int


class _Reduce(NamedTuple):
    rule: str
    size: int
    build: Callable[[list[Any]], Any] | None  # None for a step from one level to the next


class Loop:
    """Runs the tables of a Lark parser (`parser="lalr"`) that was made with a transformer."""

    def __init__(self, lark: Lark) -> None:
        frontend: Any = lark.parser
        self._lexer: Any = frontend.lexer
        self._parser: Any = frontend.parser.parser
        self._actions: dict[int, dict[str, _Shift | _Reduce]] = {
            state: {str(symbol): self._action(*action) for symbol, action in actions.items()}
            for state, actions in self._parser.parse_table.states.items()
        }
        self._settled: dict[tuple[int, int, str], int] = {}

    def _action(self, action: Any, argument: Any) -> _Shift | _Reduce:
        if action is Shift:
            return _Shift(argument)
        options, expansion = argument.options, argument.expansion
        passes_on = options.expand1 and not argument.alias and len(expansion) == 1 and not expansion[0].is_term
        build = None if passes_on else self._parser.callbacks[argument]
        return _Reduce(str(argument.origin.name), len(expansion), build)

    def parse(self, text: TextSlice[str], start: str) -> Any:
        """What the transformer makes of `text`. Raises lark's UnexpectedInput."""
        thread: Any = LexerThread(self._lexer, LexerState(text))
        state = _State(ParseConf(self._parser.parse_table, self._parser.callbacks, start), thread)
        state.actions, state.settle, state.goto = self._actions, self._settle, self._goto
        return self._parser.parse_from_state(state)

    def _settle(self, below: int, state: int, terminal: str) -> int:
        """The state after all steps that only pass a value on, for the state `below` it and the terminal ahead."""
        key = (below, state, terminal)
        known = self._settled.get(key)
        if known is None:
            known = state
            while isinstance(action := self._actions[known].get(terminal), _Reduce) and action.build is None:
                known = self._goto(below, action.rule)
            self._settled[key] = known
        return known

    def _goto(self, state: int, rule: str) -> int:
        action = self._actions[state][rule]
        assert isinstance(action, _Shift)
        return action.state


class _State(ParserState[Any]):
    __slots__ = ("actions", "goto", "settle")
    actions: dict[int, dict[str, _Shift | _Reduce]]
    settle: Callable[[int, int, str], int]
    goto: Callable[[int, str], int]
    value_stack: list[Any]

    def feed_token(self, token: Token, is_end: bool = False) -> Any:
        states: list[int] = self.state_stack
        values = self.value_stack
        terminal = token.type
        while True:
            action = self.actions[states[-1]].get(terminal)
            if action is None:
                return super().feed_token(token, is_end)  # raises the error
            if isinstance(action, _Shift):
                states.append(action.state)
                values.append(token)
                return None
            rule, size, build = action
            if build is None:
                states[-1] = self.settle(states[-2], states[-1], terminal)
            else:
                parts = values[len(values) - size :]
                if size:
                    del states[-size:]
                    del values[-size:]
                states.append(self.goto(states[-1], rule))
                values.append(build(parts))
            if is_end and states[-1] == self.parse_conf.end_state:
                return values[-1]

    def copy(self, deepcopy_values: bool = True) -> ParserState[Any]:
        """For Lark's question of what could have followed: its own slow state."""
        return ParserState(self.parse_conf, self.lexer, list(self.state_stack), list(self.value_stack))
