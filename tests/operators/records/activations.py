"""Activations, against torch.nn.functional."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tests.operators.records.record import Bad, Record, bad, given, normal, sample

EXTREME = given([-800.0, -40.0, -7.3, -2.9, -1e-9, 1e-9, 2.9, 7.3, 40.0, 800.0])


def activation(
    name: str, reference: Callable[..., torch.Tensor], *attributes: dict[str, Any], refused: tuple[Bad, ...] = ()
) -> Record:
    """Samples of ordinary and of extreme values, and of each set of attributes."""
    samples = (sample(normal(3, 5, scale=3)), sample(EXTREME))
    return Record(name, (*samples, *(sample(normal(20, scale=3), **a) for a in attributes)), reference, refused)


RECORDS: tuple[Record, ...] = (
    activation("relu", F.relu),
    activation("relu6", F.relu6),
    activation("leaky_relu", lambda x, slope=0.01: F.leaky_relu(x, slope), {"slope": 0.2}),
    activation("elu", F.elu, {"alpha": 0.5}),
    activation("selu", F.selu),
    activation("celu", F.celu, {"alpha": 0.5}, refused=(bad("alpha is 0", (3,), alpha=0),)),
    activation("gelu", F.gelu, {"approximate": "tanh"}, refused=(bad('not "fast"', (3,), approximate="fast"),)),
    activation("sigmoid", torch.sigmoid),
    activation("logsigmoid", F.logsigmoid),
    activation("tanh", torch.tanh),
    activation("silu", F.silu),
    activation("mish", F.mish),
    activation(
        "softplus",
        lambda x, beta=1.0: torch.logaddexp(beta * x, torch.zeros_like(x)) / beta,
        {"beta": 2.5},
        refused=(bad("beta is 0", (3,), beta=0),),
    ),
    activation("softsign", F.softsign),
    activation(
        "dropout",
        lambda x, p=0.5: F.dropout(x, p, training=False),
        {"p": 0.1},
        refused=(bad("p is 1", (3,), p=1),),
    ),
    Record(  # PyTorch's derivative of hardsigmoid holds 1/6 in single precision, also for f64
        "hardsigmoid",
        (sample(normal(3, 5, scale=3)), sample(EXTREME)),
        F.hardsigmoid,
        gradient_tolerance=2**-25,
    ),
    activation("hardswish", F.hardswish),
    activation(
        "hardtanh",
        lambda x, low=-1.0, high=1.0: F.hardtanh(x, low, high),
        {"low": -0.3, "high": 0.4},
        refused=(bad("low is 1, high is 0", (3,), low=1, high=0),),
    ),
    activation("hardshrink", lambda x, threshold=0.5: F.hardshrink(x, threshold), {"threshold": 1.5}),
    activation(
        "softshrink",
        lambda x, threshold=0.5: F.softshrink(x, threshold),
        {"threshold": 1.5},
        refused=(bad("it is -1", (3,), threshold=-1),),
    ),
    activation("tanhshrink", F.tanhshrink),
    Record(
        "prelu",
        (
            sample(normal(2, 3, 4), given([0.25])),
            sample(normal(2, 3, 4, 2), given([0.25, -1.0, 2.0])),
            sample(normal(2, 3), given([0.25, -1.0, 2.0])),
        ),
        F.prelu,
        (bad("1 or 3 weights for 3 channels; weight has 2", (2, 3), (2,)),),
    ),
    Record(
        "glu",
        (sample(normal(2, 6)), sample(normal(4, 3, 2), axis=0), sample(normal(2, 6, 3), axis=1)),
        lambda x, axis=-1: F.glu(x, axis),
        (bad("axis -1 has 5 elements", (2, 5)),),
    ),
)
