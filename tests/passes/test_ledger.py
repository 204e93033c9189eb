"""The ledger: adding up, and surviving JSON."""

from __future__ import annotations

import json

import pytest

from mercer.ir.spans import Span
from mercer.passes.ledger import Cost, Exactness, Ledger, LedgerEntry

SPAN = Span("model.mer", 3, 1, 3, 9)


def entry(exactness: Exactness, fired: bool = True, error: float | None = None) -> LedgerEntry:
    reason = None if fired else "too small"
    return LedgerEntry(
        "fold", "fold_constants", "y", "relu", SPAN, exactness, fired, reason, error, Cost(8, 64), Cost(0, 0)
    )


def test_json_round_trip() -> None:
    ledger = Ledger()
    ledger.add(entry(Exactness.APPROX, error=1e-3))
    ledger.add(entry(Exactness.REAL, fired=False))
    ledger.warn("bind", "weight", "3 of 4 elements are not finite")
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger


@pytest.mark.parametrize("row", [{"kind": "rewrite"}, {"kind": "warning", "unknown": 1}, {}])
def test_rows_of_another_format_are_refused(row: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Ledger.from_json([row])


def test_the_weakest_fired_claim_counts() -> None:
    ledger = Ledger()
    assert ledger.exactness() is Exactness.BIT
    ledger.add(entry(Exactness.APPROX, fired=False))
    ledger.add(entry(Exactness.BIT))
    ledger.add(entry(Exactness.REAL))
    assert ledger.exactness() is Exactness.REAL
    ledger.add(entry(Exactness.APPROX, error=0.25))
    ledger.add(entry(Exactness.APPROX, error=0.5))
    assert ledger.exactness() is Exactness.APPROX
    assert ledger.error() == 0.75
    assert ledger.hits()["fold", "fold_constants"] == 4
