"""Hand-made and random nests for the tests of the TVM backend."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from mercer.backends.tvm.build import Compiled, compile_nests
from mercer.backends.tvm.target import parse
from mercer.ir.evaluate import evaluate
from mercer.ir.graph import Constant, Value
from mercer.ir.index import Axis, Call, Const, Expr, Index, Read, Reduce, Reducer, call
from mercer.ir.integers import Computed, IntExpr
from mercer.ir.nests import Nest, Nests, Origin, Primitive, Statement
from mercer.ir.spans import NOWHERE
from mercer.ir.types import Array, Data, DType, TensorType

F32 = DType.F32
IndexLike = IntExpr | int | str


def extent(size: IndexLike) -> IntExpr:
    return IntExpr.dim(size) if isinstance(size, str) else IntExpr.of(size)


def index(value: IndexLike) -> IntExpr:
    return IntExpr.var(value) if isinstance(value, str) else IntExpr.of(value)


def tensor(*shape: IndexLike, dtype: DType = F32) -> TensorType:
    return TensorType(dtype, tuple(map(extent, shape)))


def axes(**extents: IndexLike) -> tuple[Axis, ...]:
    return tuple(Axis(name, extent(size)) for name, size in extents.items())


def read(name: str, *indices: IndexLike, pad: float | None = None, dtype: DType = F32) -> Read:
    return Read(name, tuple(map(index, indices)), dtype, None if pad is None else Const(pad, dtype))


def number(value: float, dtype: DType = F32) -> Const:
    return Const(value, dtype)


def total(body: Expr, reducer: Reducer = Reducer.SUM, **extents: IndexLike) -> Reduce:
    return Reduce(reducer, axes(**extents), body)


def mul(a: Expr, b: Expr) -> Call:
    return call("mul", a, b)


def position(value: Expr) -> IntExpr:
    """A tensor index computed from data."""
    return IntExpr.atom(Computed(value))


def as_real(value: IntExpr) -> Call:
    return call("cast", Index(value), dtype=F32)


def nest(target: str, loops: tuple[Axis, ...], body: Expr, operator: str = "test") -> Nest:
    shape = tuple(axis.extent for axis in loops)
    return Nest(target, TensorType(body.dtype, shape), loops, body, (Origin(operator, target, NOWHERE),))


def reshape(target: str, source: str, type: TensorType) -> Primitive:
    return Primitive("reshape", (Value(target, type),), (source,), (), ())


def program(
    inputs: Mapping[str, TensorType], constants: Mapping[str, Array], statements: Sequence[Statement], *outputs: str
) -> Nests:
    return Nests(
        "test",
        tuple(Value(name, type) for name, type in inputs.items()),
        (),
        tuple(Constant(name, TensorType.of(array), Data(array)) for name, array in constants.items()),
        tuple(statements),
        outputs,
    )


@dataclass(frozen=True)
class Binary:
    """A compiled program that can be called."""

    nests: Nests
    compiled: Compiled
    function: Any

    def __call__(self, **inputs: Array) -> list[Array]:
        arrays = [inputs[name] for name in self.compiled.arguments] + [array for _, array in self.compiled.constants]
        results = self.function(*(tvm.runtime.tensor(np.asarray(array, order="C")) for array in arrays))
        return [result.numpy() for result in ([results] if isinstance(results, tvm.runtime.Tensor) else results)]

    @property
    def families(self) -> list[str]:
        return [step.family for step in self.compiled.steps]


def build(nests: Nests, target: str = "cpu") -> Binary:
    compiled = compile_nests(nests, parse(target))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lib.so"
        path.write_bytes(compiled.library)
        machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    return Binary(nests, compiled, machine[compiled.entry])


def assert_agrees(binary: Binary, inputs: Mapping[str, Array], tolerance: float = 1e-5) -> None:
    """Same shapes and element types as the reference; errors relative to the largest value of each output."""
    for found, expected in zip(binary(**inputs), evaluate(binary.nests, inputs), strict=True):
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        if expected.dtype.kind in "iub":
            np.testing.assert_array_equal(found, expected)
        else:
            scale = np.abs(expected[np.isfinite(expected)]).max(initial=0.0) + 1e-6
            np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance)


@functools.cache
def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> Array:
    return generator(seed).standard_normal(shape).astype(np.float32)


# --- random nests -----------------------------------------------------------------------------------------------------

UNARY = ("neg", "abs", "exp", "tanh", "sigmoid", "sin", "floor", "sqrt")
BINARY = ("add", "sub", "mul", "max", "min")


def random_nest(rng: np.random.Generator, name: str) -> tuple[Nest, dict[str, TensorType]]:
    """A nest over one to four axes, the first perhaps symbolic, and the tensors that it reads."""
    extents: dict[str, IndexLike] = {"n": "N"} if rng.random() < 0.6 else {}
    for axis in "abc"[: rng.integers(1, 4)]:
        extents[axis] = int(rng.choice([1, 2, 3, 5, 8, 9, 12, 16, 17, 20]))
    inner = {axis: int(rng.choice([1, 3, 4, 7, 16, 33])) for axis in "kl"[: rng.integers(0, 3)]}
    types: dict[str, TensorType] = {}

    def random_read(names: Mapping[str, IndexLike]) -> Read:
        indices: list[IntExpr] = []
        shape: list[IndexLike] = []
        pad = float(rng.integers(-1, 2)) if rng.random() < 0.3 else None
        order = [n for n in names if rng.random() < 0.75]
        rng.shuffle(order)
        order.sort(key=lambda n: n != "n")
        for axis in order:
            size = names[axis]
            if isinstance(size, str):
                indices.append(IntExpr.var(axis))
                shape.append(size)
            elif rng.random() < 0.7:
                indices.append(IntExpr.var(axis))
                shape.append(size)
            else:
                step, other = int(rng.choice([1, 2])), rng.choice(list(names))
                far = names[other]
                value, last = IntExpr.var(axis) * step, (size - 1) * step
                if isinstance(far, int) and other != axis:
                    value, last = value + IntExpr.var(other), last + far - 1
                margin = int(rng.integers(0, 3)) if pad is not None else 0
                indices.append(value - margin)
                shape.append(max(1, last + 1 - margin - (int(rng.integers(0, 3)) if pad is not None else 0)))
        tensor_name = f"{name}_{len(types)}"
        types[tensor_name] = tensor(*shape)
        return Read(tensor_name, tuple(indices), F32, None if pad is None else number(pad))

    def random_expr(names: Mapping[str, IndexLike], depth: int) -> Expr:
        choice = rng.random()
        if depth == 0 or choice < 0.25:
            return random_read(names)
        if choice < 0.45:
            argument = random_expr(names, depth - 1)
            function = str(rng.choice(UNARY))
            return call(function, call("abs", argument) if function == "sqrt" else call("min", argument, number(3.0)))
        return call(str(rng.choice(BINARY)), random_expr(names, depth - 1), random_expr(names, depth - 1))

    if inner:
        body = random_expr({**extents, **inner}, 2)
        reducer = Reducer(rng.choice(["sum", "max", "min"]))
        reduced: Expr = Reduce(reducer, axes(**inner), body)
        result = call(str(rng.choice(BINARY)), reduced, random_expr(extents, 1))
    else:
        result = random_expr(extents, 3)
    return nest(name, axes(**extents), result, "random"), types
