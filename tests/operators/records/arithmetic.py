"""Pointwise arithmetic, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.operators.records.record import Operand, Record, bad, booleans, given, integers, normal, sample, uniform

SPECIAL = given([-2.5, -1.5, -0.5, -0.0, 0.0, 0.5, 1.5, 2.5])


def unary(name: str, reference: Callable[..., torch.Tensor], *operands: Operand, differentiable: bool = True) -> Record:
    return Record(
        name, tuple(sample(x) for x in operands or (normal(2, 3), normal())), reference, differentiable=differentiable
    )


def binary(
    name: str, reference: Callable[..., torch.Tensor], left: Operand, right: Operand, differentiable: bool = True
) -> Record:
    """Samples of one shape, and with broadcasting on both sides."""
    samples = (sample(left, right), sample(normal(4, 1, 3), uniform(2, 1, low=0.5, high=2.0)))
    if name == "pow":
        samples = samples[:1]
    refused = (bad("disagree in 3 and 4", (2, 3), (2, 4)),)
    return Record(name, samples, reference, refused, differentiable)


def comparison(name: str, reference: Callable[..., torch.Tensor]) -> Record:
    samples = (
        sample(integers(2, 5, low=-2, high=3), integers(5, low=-2, high=3)),
        sample(given([1.0, 2.0, -0.0]), given([1.0, 1.5, 0.0])),
    )
    return Record(name, samples, reference, (bad("disagree in 3 and 4", (3,), (4,)),), differentiable=False)


POSITIVE = uniform(3, 4, low=0.2, high=3.0)
INSIDE = uniform(3, 4, low=-0.95, high=0.95)

RECORDS: tuple[Record, ...] = (
    unary("neg", torch.neg),
    unary("abs", torch.abs),
    unary("sign", torch.sign, SPECIAL, differentiable=False),
    unary("floor", torch.floor, SPECIAL, differentiable=False),
    unary("ceil", torch.ceil, SPECIAL, differentiable=False),
    unary("round", torch.round, SPECIAL, differentiable=False),
    unary("trunc", torch.trunc, SPECIAL, differentiable=False),
    unary("square", torch.square),
    unary("reciprocal", torch.reciprocal, POSITIVE),
    unary("sqrt", torch.sqrt, POSITIVE),
    unary("rsqrt", torch.rsqrt, POSITIVE),
    unary("exp", torch.exp),
    unary("expm1", torch.expm1, normal(2, 3), normal(8, scale=1e-9)),
    unary("log", torch.log, POSITIVE),
    unary("log1p", torch.log1p, POSITIVE, normal(8, scale=1e-9)),
    unary("erf", torch.erf),
    unary("sin", torch.sin),
    unary("cos", torch.cos),
    unary("tan", torch.tan, INSIDE),
    unary("asin", torch.asin, INSIDE),
    unary("acos", torch.acos, INSIDE),
    unary("atan", torch.atan),
    unary("sinh", torch.sinh),
    unary("cosh", torch.cosh),
    binary("add", torch.add, normal(2, 3), normal(2, 3)),
    binary("sub", torch.sub, normal(2, 3), normal(2, 3)),
    binary("mul", torch.mul, normal(2, 3), normal(2, 3)),
    binary("div", torch.div, normal(2, 3), uniform(2, 3, low=0.5, high=2.0)),
    binary("pow", torch.pow, POSITIVE, normal(3, 4)),
    binary("maximum", torch.maximum, normal(2, 3), normal(2, 3)),
    binary("minimum", torch.minimum, normal(2, 3), normal(2, 3)),
    binary("atan2", torch.atan2, normal(2, 3), normal(2, 3)),
    Record(
        "floor_divide",
        (
            sample(integers(20, low=-9, high=10), integers(20, low=1, high=5)),
            sample(normal(20, scale=5), uniform(20, low=0.5, high=2)),
        ),
        torch.floor_divide,
        differentiable=False,
    ),
    Record(
        "mod",
        (
            sample(integers(20, low=-9, high=10), integers(20, low=1, high=5)),
            sample(normal(20, scale=5), given([-1.25] * 10 + [1.5] * 10)),
        ),
        torch.remainder,
        differentiable=False,
    ),
    comparison("eq", torch.eq),
    comparison("ne", torch.ne),
    comparison("lt", torch.lt),
    comparison("le", torch.le),
    comparison("gt", torch.gt),
    comparison("ge", torch.ge),
    Record("logical_and", (sample(booleans(3, 5), booleans(5)),), torch.logical_and, differentiable=False),
    Record("logical_or", (sample(booleans(3, 5), booleans(5)),), torch.logical_or, differentiable=False),
    Record("logical_not", (sample(booleans(3, 5)),), torch.logical_not, differentiable=False),
    Record("where", (sample(booleans(3, 1), normal(2, 1, 4), normal(4)),), torch.where),
    Record(
        "clamp",
        (sample(normal(3, 4), low=-0.5, high=0.7), sample(normal(9), low=0.1), sample(normal(9), high=0.1)),
        lambda x, low=None, high=None: torch.clamp(x, low, high),
        (bad("low is 2, high is 1", (3,), low=2, high=1),),
    ),
    Record(
        "cast",
        (
            sample(SPECIAL, dtype="i32"),
            sample(integers(5, low=-3, high=4), dtype="bool"),
            sample(booleans(6), dtype="f32"),
        ),
        lambda x, dtype: x.to({"i32": torch.int32, "bool": torch.bool, "f32": torch.float32}[dtype]),
        (bad("name of an element type", (3,), dtype="f31"),),
        differentiable=False,
    ),
)
