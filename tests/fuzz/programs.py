"""Random well-typed programs, as text.

A program grows statement by statement: a candidate is drawn from templates over the tensors at hand, and stays when the
elaborator accepts it. Functions are chosen so that values stay near 1 and errors do not explode.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import mercer
from mercer.compiler import Program
from mercer.ir.graph import Value

UNARY = ("relu", "sigmoid", "tanh", "sin", "cos", "gelu", "silu", "softplus", "elu", "abs", "square", "softmax")
SCALAR = (
    "tanh({0})",
    "sin({0})",
    "sigmoid({0})",
    "max({0}, {1})",
    "min({0}, {1})",
    "{0} + {1}",
    "{0} - {1}",
    "{0} * {1}",
    "0.5 * {0}",
    "abs({0})",
    "exp(-abs({0}))",
    "sqrt(abs({0}) + 1)",
    "where({0} > {1}, {0}, {1})",
    "erf({0})",
    "{0} / (1 + abs({1}))",
    "log1p(abs({0}))",
    "rsqrt({0} * {0} + 1)",
)


@dataclass
class Draft:
    """Lines of a model body and of its own operators."""

    random: random.Random
    inputs: list[str]
    lines: list[str] = field(default_factory=list[str])
    operators: list[str] = field(default_factory=list[str])
    names: list[str] = field(default_factory=list[str])

    def text(self) -> str:
        returned = list(dict.fromkeys([self.names[-1], *self.unused()]))
        results = ", ".join(f"T[...r{k}]" for k in range(len(returned)))
        types = ", ".join(self.inputs)
        body = "\n".join(f"  {line}" for line in self.lines)
        head = "\n\n".join(self.operators)
        return f"{head}\n\nmodel Fuzz({types}) -> ({results}) {{\n{body}\n  return {', '.join(returned)}\n}}\n"

    def unused(self) -> list[str]:
        """Every statement's value that nothing else uses is a result, so that all of them are compared."""
        used = " ".join(self.lines)
        made = [line.partition(" = ")[0] for line in self.lines]
        return [name for name in made if used.count(name) == 1][:3]


def generate(seed: int, statements: int = 6) -> tuple[str, Program]:
    """The text of a random program and the program itself."""
    rng = random.Random(seed)
    channels, size = rng.choice((1, 2, 3, 4, 8)), rng.choice((4, 5, 7, 8))
    inputs = [f"x: f32[N, {channels}, {size}, {size + rng.choice((0, 1, 3))}]"]
    names = ["x"]
    if rng.random() < 0.4:
        inputs.append(f"z: f32[N, {rng.choice((3, 8, 16))}]")
        names.append("z")
    draft = Draft(rng, inputs, names=names)
    program: Program | None = None
    attempts = 0
    while (len(draft.lines) < statements or program is None) and attempts < 200:
        attempts += 1
        lines, operators = list(draft.lines), list(draft.operators)
        known = list(draft.names)
        name = f"t{len(draft.lines)}"
        operator, line = _candidate(draft, name)
        if operator:
            draft.operators.append(operator)
        draft.lines.append(line)
        draft.names.append(name)
        try:
            program = mercer.parse_text(draft.text(), f"fuzz{seed}.mer")
            if not all(map(_tame, program.graph.values())):
                raise mercer.MercerError("this program is not wanted")
        except mercer.MercerError:
            draft.lines, draft.operators, draft.names = lines, operators, known
    assert program is not None
    text = draft.text()
    return text, mercer.parse_text(text, f"fuzz{seed}.mer")


def _tame(value: Value) -> bool:
    """Small, and symbolic in the batch axis alone: a slice of a symbolic axis may end behind it for a small batch."""
    sizes = [d.value if d.is_constant else 0 for d in value.type.shape]
    return all(0 < n <= 4096 or (n == 0 and k == 0) for k, n in enumerate(sizes))


def _candidate(draft: Draft, name: str) -> tuple[str, str]:
    rng = draft.random
    a = draft.names[-1] if rng.random() < 0.7 else rng.choice(draft.names)
    b = rng.choice(draft.names)
    if rng.random() < 0.35:
        return _own_operator(rng, name, a, b)
    k = rng.choice((1, 2, 3))
    width = rng.choice((1, 2, 3, 8, 17))
    axis = rng.choice((-1, 1, 2, 3))
    lines = (
        f"{a} |> {rng.choice(UNARY)}",
        f"{a} + {b}",
        f"{a} * {b}",
        f"{a} - 0.5 * {b}",
        f"{a} |> Conv2d({width}, {k}, pad = {rng.choice((0, 1))}, stride = {rng.choice((1, 1, 2))})",
        f"{a} |> Conv2d({width}, 3, pad = {rng.choice((1, 2))}, dilation = {rng.choice((1, 2))}, bias = false)",
        f"{a} |> Linear({width})",
        f"{a} |> flatten |> Linear({width})",
        f"{a} |> BatchNorm",
        f"{a} |> LayerNorm",
        f"{a} |> max_pool2d(2)",
        f"{a} |> avg_pool2d({k}, stride = 1)",
        f"sum({a}; axis = {axis})",
        f"mean({a}; axis = {axis})",
        f"max({a}; axis = {axis})",
        f"softmax({a}; axis = {axis})",
        f"transpose({a}; 1, {rng.choice((2, 3))})",
        f"concat([{a}, {b}]; axis = {axis})",
        f"{a}[:, :{rng.choice((1, 2, 3))}]",
        f"{a}[:, {rng.choice((0, 1))}]",
        f"{a}[..., ::{rng.choice((2, 3))}]",
        f"{a} |> flatten |> KernelMachine({rng.choice((2, 5))}, {rng.choice((3, 9))}, gaussian(gamma = 0.02))",
        f"{a} |> flatten |> KANLinear({rng.choice((2, 4))})",
        f"reshape({a}; shape = [N, -1])",
    )
    return "", f"{name} = {rng.choice(lines)}"


def _own_operator(rng: random.Random, name: str, a: str, b: str) -> tuple[str, str]:
    """An operator in index notation: shifted and padded reads, reductions, arithmetic."""
    rank = rng.choice((2, 4))
    dims = ("n", "c") if rank == 2 else ("n", "c", "h", "w")
    left = [d for d in dims if d == "n" or rng.random() < 0.8]
    bound = [d for d in dims if d not in left]
    window = rng.random() < 0.4
    binders = [*bound, *(["k < 3"] if window else [])]

    def read(tensor: str) -> str:
        indices: list[str] = []
        padded = False
        for position, d in enumerate(dims):
            shift = "k" if window and position == len(dims) - 1 else rng.choice(("", "", "1"))
            if position and shift and rng.random() < 0.7:
                indices.append(f"{d} {rng.choice('+-')} {shift}")
                padded = True
            else:
                indices.append(d)
        return f"{tensor}[{', '.join(indices)}{'; pad = 0' if padded else ''}]"

    def scalar(depth: int) -> str:
        if depth == 0 or rng.random() < 0.2:
            return read(rng.choice(("a", "b")))
        return rng.choice(SCALAR).format(f"({scalar(depth - 1)})", f"({scalar(depth - 1)})")

    body = scalar(2)
    if binders:
        reducer = rng.choice(("mean", "max", "min", "mean"))
        body = f"{reducer}[{', '.join(binders)}] ({body})"
        if rng.random() < 0.5:
            body = f"tanh({body})"
    shape = ", ".join(dims)
    result = ", ".join(left)
    text = f"op own_{name}(a: T[{shape}], b: T[{shape}]) -> T[{result}] {{\n  return y[{result}] = {body}\n}}"
    return text, f"{name} = own_{name}({a}, {b if rng.random() < 0.4 else a})"
