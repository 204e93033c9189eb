"""Distributing the arguments of a call over a signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mercer.frontend import syntax
from mercer.frontend.diagnostics import did_you_mean
from mercer.frontend.frames import Signature
from mercer.frontend.values import AnyValue, Tensor, describe

if TYPE_CHECKING:
    from mercer.frontend.evaluator import Evaluator


def holds_tensor(value: AnyValue) -> bool:
    return isinstance(value, tuple) and any(isinstance(v, Tensor) or holds_tensor(v) for v in value)


def bind_arguments(
    evaluator: Evaluator,
    signature: Signature,
    e: syntax.Call,
    positional: tuple[AnyValue, ...],
    attributes: tuple[AnyValue, ...],
    keywords: dict[str, AnyValue],
) -> tuple[tuple[AnyValue, ...], dict[str, AnyValue]]:
    """Distribute the arguments of a call: tensors, and the attributes that are given."""
    count = len(signature.tensors)
    folded = bool(positional) and isinstance(positional[0], tuple) and holds_tensor(positional[0])
    needed = 1 if folded else count
    tensors, rest = positional[:needed], positional[needed:]
    if len(tensors) < needed:
        missing = ", ".join(f"`{n}`" for n in signature.tensors[len(tensors) :])
        evaluator.fail("missing-argument", f"`{signature.name}` needs {missing}", e.span, expected=str(signature))
    if e.split and rest:
        evaluator.fail(
            "extra-argument",
            f"`{signature.name}` takes {count} tensor{'s' * (count != 1)}; found {len(positional)} before `;`",
            e.span,
            expected=str(signature),
        )
    known = [name for name, _ in signature.attributes]
    values = rest + attributes
    if len(values) > len(known):
        evaluator.fail(
            "extra-argument",
            f"`{signature.name}` takes {len(known)} attributes; found {len(values)}",
            e.span,
            expected=str(signature),
        )
    bound = dict(zip(known, values, strict=False))
    for keyword in e.keywords:
        if keyword.name not in known:
            hint = did_you_mean(keyword.name, known) or f"it has {', '.join(known) or 'no attributes'}"
            message = f"`{signature.name}` has no attribute `{keyword.name}`"
            evaluator.fail("unknown-attribute", message, keyword.span, hint=hint)
        if keyword.name in bound:
            evaluator.fail("duplicate-name", f"attribute `{keyword.name}` is given twice", keyword.span)
    bound |= keywords
    for name, default in signature.attributes:
        if default is None and name not in bound:
            message = f"`{signature.name}` needs attribute `{name}`"
            evaluator.fail("missing-argument", message, e.span, expected=str(signature))
    for name, value in bound.items():
        if isinstance(value, Tensor) and signature.kind == "op":
            message = f"attribute `{name}` of `{signature.name}` takes no tensor"
            evaluator.fail("type-mismatch", message, e.span, expected=str(signature), found=describe(value))
    return tensors, bound
