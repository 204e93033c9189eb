"""When a stage does what: the cycle model of one stage, from which the schedule of a whole design follows.

A stage consists of one or two processes. A process fires at most once per cycle, always in the same order, the same
number of times per sample; a firing takes at most one word of each input and issues at most one word (a cyclo-static
dataflow actor, Bilsen et al. 1996).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

NEVER = -(1 << 40)
"""The firing before all firings: waiting for it is no wait."""


@dataclass(frozen=True, eq=False)
class Events:
    """Which firings of a process take or issue the words of a sample, in order.

    A word that is taken makes room with the same firing, or with that of process `until`.
    """

    process: int
    firings: Indices
    until: int | None = None


@dataclass(frozen=True, eq=False)
class Wait:
    """Firing i of process `later` comes `delay` cycles or more after firing `needed[i]` of process `earlier`.

    Firings are counted from the start of the sample; a negative number is a firing of a sample before it.
    """

    earlier: int
    later: int
    needed: Indices
    delay: int


@dataclass(frozen=True, eq=False)
class Timing:
    """Firings of each process per sample, the words they move, and the cycles from issuing a word to its validity.

    `copies` are the words of each output where there are several.
    """

    firings: tuple[int, ...]
    takes: tuple[Events, ...]
    issues: Events
    latency: int
    waits: tuple[Wait, ...] = ()
    copies: tuple[Events, ...] = ()

    def issued(self, copy: int) -> Events:
        return self.copies[copy] if self.copies else self.issues

    @property
    def cycles(self) -> int:
        """Cycles per sample when neither input nor output makes it wait."""
        return max(self.firings)


def elementwise(beats: int, latency: int, inputs: int = 1) -> Timing:
    """Every firing takes a word of each input and issues one."""
    every = Events(0, np.arange(beats, dtype=np.int64))
    return Timing((beats,), (every,) * inputs, every, latency)


def forked(beats: int, copies: int) -> Timing:
    """Each of `copies` outputs gives the word when its reader has room; the next word comes when all have.

    Process 0 is the coming of a word, the last one its leaving, those between are the copies.
    """
    every = np.arange(beats, dtype=np.int64)
    last = copies + 1
    comes = Wait(last, 0, every - 1, 1)
    copied = tuple(Wait(0, copy, every, 0) for copy in range(1, last))
    leaves = tuple(Wait(copy, last, every, 0) for copy in range(1, last))
    issues = tuple(Events(copy, every) for copy in range(1, last))
    return Timing((beats,) * (last + 1), (Events(0, every, last),), issues[0], 0, (comes, *copied, *leaves), issues)


def periodic(groups: int, firings: int, takes: Indices, issues: Indices, latency: int) -> Timing:
    """`groups` times the same `firings`, of which those listed take or issue a word."""
    starts = np.arange(groups, dtype=np.int64)[:, np.newaxis] * firings

    def all_of(listed: Indices) -> Events:
        return Events(0, (starts + listed).reshape(-1))

    return Timing((groups * firings,), (all_of(takes),), all_of(issues), latency)
