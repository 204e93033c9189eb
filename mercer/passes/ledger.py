"""The ledger: every rewrite taken or refused, with its exactness, its error and its cost."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mercer.ir.spans import Span


class Exactness(enum.Enum):
    """What a rewrite keeps, from strongest to weakest."""

    BIT = "bit"
    """The same bits, NaN, infinities and signed zeros included (the payload of a NaN does not count)."""
    REAL = "real"
    """Equal over the real numbers; rounding may differ."""
    APPROX = "approx"
    """An error remains, bounded or measured: relative L2 norm of the difference."""

    @staticmethod
    def weakest(claims: Iterable[Exactness]) -> Exactness:
        """What a sequence of rewrites keeps; BIT when there is none."""
        order = list(Exactness)
        return max(claims, key=order.index, default=Exactness.BIT)


@dataclass(frozen=True)
class Cost:
    """Scalar operations, and bytes read and written; symbolic dims count as 1."""

    flops: int
    bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class LedgerEntry:
    """One rewrite at one place.

    `reason` says why it was refused (`fired` is False). `error` is the relative L2 error of an approximation: a
    bound for every input, or, when `measured`, what the outputs of the model show on its calibration data.
    """

    pass_name: str
    rewrite: str
    node: str
    operator: str
    span: Span
    exactness: Exactness
    fired: bool
    reason: str | None = None
    error: float | None = None
    cost_before: Cost | None = None
    cost_after: Cost | None = None
    measured: bool = False


@dataclass(frozen=True)
class LedgerWarning:
    """Something the user should know, such as a weight that is not finite."""

    pass_name: str
    subject: str
    message: str


@dataclass(frozen=True)
class LayerError:
    """How well a quantized program knows the value of a node of the program in real numbers.

    `bits` are those of the codes, 32 for sums; `error` is the relative L2 error on the calibration data, with what
    earlier layers have lost.
    """

    node: str
    operator: str
    span: Span
    bits: int
    error: float


@dataclass
class Ledger:
    """Append-only record of a compilation."""

    entries: list[LedgerEntry] = field(default_factory=list[LedgerEntry])
    warnings: list[LedgerWarning] = field(default_factory=list[LedgerWarning])
    layers: list[LayerError] = field(default_factory=list[LayerError])

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entry: LedgerEntry) -> None:
        self.entries.append(entry)

    def warn(self, pass_name: str, subject: str, message: str) -> None:
        self.warnings.append(LedgerWarning(pass_name, subject, message))

    def fired(self) -> tuple[LedgerEntry, ...]:
        return tuple(entry for entry in self.entries if entry.fired)

    def refused(self) -> tuple[LedgerEntry, ...]:
        return tuple(entry for entry in self.entries if not entry.fired)

    def hits(self) -> Counter[tuple[str, str]]:
        """How often each (pass, rewrite) fired."""
        return Counter((entry.pass_name, entry.rewrite) for entry in self.fired())

    def exactness(self) -> Exactness:
        """What the whole compilation keeps."""
        return Exactness.weakest(entry.exactness for entry in self.fired())

    def error(self) -> float:
        """Sum of the errors of the approximations: their first-order total."""
        return sum(entry.error or 0.0 for entry in self.fired())

    def to_json(self) -> list[dict[str, Any]]:
        """Rows of strings, numbers, dicts and None, ready for `json.dumps`; entries, layers, warnings."""
        rows = [{"kind": "rewrite", **asdict(entry), "exactness": entry.exactness.value} for entry in self.entries]
        rows += [{"kind": "layer", **asdict(layer)} for layer in self.layers]
        return rows + [{"kind": "warning", **asdict(warning)} for warning in self.warnings]

    @staticmethod
    def from_json(rows: Iterable[Mapping[str, Any]]) -> Ledger:
        """Inverse of `to_json`; raises KeyError, TypeError or ValueError on other rows."""
        ledger = Ledger()
        for row in rows:
            fields = {key: value for key, value in row.items() if key != "kind"}
            if row["kind"] == "warning":
                ledger.warnings.append(LedgerWarning(**fields))
                continue
            fields["span"] = Span(**fields["span"])
            if row["kind"] == "layer":
                ledger.layers.append(LayerError(**fields))
                continue
            fields["exactness"] = Exactness(fields["exactness"])
            for side in ("cost_before", "cost_after"):
                fields[side] = None if fields[side] is None else Cost(**fields[side])
            ledger.add(LedgerEntry(**fields))
        return ledger
