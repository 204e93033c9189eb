"""Every construct of the language, the structure that it gives, and the exact place of every node."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mercer.frontend import syntax as s
from mercer.frontend.diagnostics import CompileError
from mercer.frontend.parser import DEEPEST, outline, parse, parse_item
from mercer.ir.spans import Span

STDLIB = Path(__file__).parents[2] / "mercer" / "stdlib"


def show(node: Any) -> str:
    """A tree as text: operators as prefix forms in parentheses, everything else close to the language."""
    match node:
        case None:
            return "_"
        case tuple():
            return " ".join(show(part) for part in node)
        case str():
            return repr(node)
        case s.Number(value) | s.String(value):
            return repr(value)
        case s.Boolean(value):
            return str(value).lower()
        case s.NoneLiteral():
            return "none"
        case s.Name(name):
            return name
        case s.Ellipsis_(name):
            return "..." + name
        case s.ListLiteral(items):
            return f"[{show(items)}]"
        case s.Unary(operator, operand):
            return f"({operator} {show(operand)})"
        case s.Binary(operator, left, right):
            return f"({operator} {show(left)} {show(right)})"
        case s.Conditional(condition, then, otherwise):
            return f"(if {show(condition)} {show(then)} {show(otherwise)})"
        case s.Keyword(name, value):
            return f"{name}={show(value)}"
        case s.Call():
            parts = [show(node.callee), *map(show, node.arguments), *([";"] if node.split else [])]
            parts += [*map(show, node.attributes), *map(show, node.keywords)]
            parts += ["as", node.instance.name] if node.instance else []
            return f"({'call ' + ' '.join(parts)})"
        case s.Pipe(value, stage):
            return f"(|> {show(value)} {show(stage)})"
        case s.Slice(start, stop, step):
            return f"{show(start)}:{show(stop)}:{show(step)}"
        case s.Subscript(value, items, pad):
            return f"(at {show(value)} [{show(items)}]{' pad ' + show(pad) if pad else ''})"
        case s.AxisBinder(name, extent):
            return f"{name}<{show(extent)}" if extent else name
        case s.Reduction(kind, axes, body):
            return f"({kind} [{show(axes)}] {show(body)})"
        case s.PlacedDim(name, position):
            return f"{name}@{show(position)}"
        case s.TypeSyntax(dtype, dims):
            return f"{dtype}[{show(dims)}]"
        case s.Assign(names, value, let):
            return f"({'let' if let else 'set'} {show(names)} = {show(value)})"
        case s.IndexAssign(target, axes, value, const):
            return f"({'const' if const else 'nest'} {show(target)}[{show(axes)}] = {show(value)})"
        case s.ParamDeclaration(name, type_, initializer, trainable):
            return f"({'param' if trainable else 'buffer'} {show(name)}: {show(type_)} = {show(initializer)})"
        case s.Return(values):
            return f"(return {show(values)})"
        case s.ReturnIndexed(statement):
            return f"(return {show(statement)})"
        case s.If(condition, then, otherwise):
            return f"(if {show(condition)} {{{show(then)}}} {{{show(otherwise)}}})"
        case s.For(variable, start, stop, instance, body):
            return f"(for {show(variable)} {show(start)}..{show(stop)} {show(instance)} {{{show(body)}}})"
        case s.Require(condition, message):
            return f"(require {show(condition)} {show(message)})"
        case s.Parameter(name, type_):
            return f"{show(name)}: {show(type_)}" if type_ else show(name)
        case s.Attribute(name, value) | s.Property(name, value):
            return f"{show(name)}={show(value)}" if value else show(name)
        case s.Use(path):
            return f"(use {path})"
        case s.Definition():
            parameters = ", ".join(map(show, node.parameters))
            attributes = ", ".join(map(show, node.attributes))
            results = ", ".join(map(show, node.results))
            properties = ", ".join(map(show, node.properties))
            head = f"{node.kind} {node.name.name}({parameters}; {attributes}) -> ({results})"
            return f"{head} {{{show(node.body)}}} : {properties}"
    raise AssertionError(f"no text for {node!r}")


def definition(text: str) -> s.Definition:
    (item,) = parse(text).items
    assert isinstance(item, s.Definition)
    return item


def expression(text: str) -> s.Expression:
    (statement,) = definition(f"fn f(x) = {text}").body
    assert isinstance(statement, s.Return)
    return statement.values[0]


def statements(text: str) -> list[str]:
    return [show(statement) for statement in definition(f"layer L(x) {{\n{text}\n}}").body]


def nodes(node: Any) -> Iterator[Any]:
    if isinstance(node, tuple):
        for part in node:
            yield from nodes(part)
    elif dataclasses.is_dataclass(node) and not isinstance(node, Span):
        yield node
        for field in dataclasses.fields(node):
            yield from nodes(getattr(node, field.name))


def slice_of(text: str, span: Span) -> str:
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    return text[starts[span.line - 1] + span.column - 1 : starts[span.end_line - 1] + span.end_column - 1]


# --- expressions ------------------------------------------------------------------------------------------------------

EXPRESSIONS = {
    # literals
    "1": "1",
    "1.5": "1.5",
    ".5": "0.5",
    "1e-5": "1e-05",
    "2.5E+3": "2500.0",
    "true": "true",
    "false": "false",
    "none": "none",
    r'"a \"b\"\n"': repr('a "b"\n'),
    "[]": "[]",
    "[1, [x, 2],]": "[1 [x 2]]",
    # arithmetic
    "a + b - c": "(- (+ a b) c)",
    "a - b*c/d % e": "(- a (% (/ (* b c) d) e))",
    "(a + b) * c": "(* (+ a b) c)",
    "-a * b": "(* (- a) b)",
    "a * -b": "(* a (- b))",
    "--a": "(- (- a))",
    "-a ** 2": "(- (** a 2))",
    "a ** -b": "(** a (- b))",
    "a ** b ** c": "(** a (** b c))",
    "a[i] ** 2 * b": "(* (** (at a [i]) 2) b)",
    # comparison, logic, choice
    "a + 1 < b * 2": "(< (+ a 1) (* b 2))",
    "a == b and not c != d or e >= f": "(or (and (== a b) (not (!= c d))) (>= e f))",
    "not a and b": "(and (not a) b)",
    "not not a": "(not (not a))",
    "a if c else b": "(if c a b)",
    "a if c else b if d else e": "(if c a (if d b e))",
    "a + 1 if c or d else b": "(if (or c d) (+ a 1) b)",
    # reductions take the product that follows
    "sum[i] a": "(sum [i] a)",
    "sum[c, i < k] a * b + 1": "(+ (sum [c i<k] (* a b)) 1)",
    "1 + sum[i] a * b": "(+ 1 (sum [i] (* a b)))",
    "2 * sum[i] a * b": "(* 2 (sum [i] (* a b)))",
    "2 * a / sum[i] b % c": "(/ (* 2 a) (sum [i] (% b c)))",
    "sum[i] a * sum[j] b * c - d": "(- (sum [i] (* a (sum [j] (* b c)))) d)",
    "sum[i] sum[j] a": "(sum [i] (sum [j] a))",
    "-sum[i] x[i]": "(- (sum [i] (at x [i])))",
    "-sum[i] x[i] * y": "(- (sum [i] (* (at x [i]) y)))",
    "a * -sum[i] b * c": "(* a (- (sum [i] (* b c))))",
    "sum[i] -a ** 2": "(sum [i] (- (** a 2)))",
    "sum[i] (a + b) / c": "(sum [i] (/ (+ a b) c))",
    "(sum[i] a) * b": "(* (sum [i] a) b)",
    "sum[i < n + 1, ..., ...a] x": "(sum [i<(+ n 1) ... ...a] x)",
    "max[i] a < min[j] b": "(< (max [i] a) (min [j] b))",
    "not any[i] a": "(not (any [i] a))",
    "max(a, b)": "(call max a b)",
    "argmax[i] x[i]": "(argmax [i] (at x [i]))",
    "prod[i] x if c else mean[i] x": "(if c (prod [i] x) (mean [i] x))",
    # calls
    "f()": "(call f)",
    "f(a)": "(call f a)",
    "f(a;)": "(call f a ;)",
    "f(; 3)": "(call f ; 3)",
    "f(a, b; c, d = 1)": "(call f a b ; c d=1)",
    "f(a, 3, k = 1,)": "(call f a 3 k=1)",
    "f(kernel = gaussian(gamma = 0.05))": "(call f kernel=(call gaussian gamma=0.05))",
    "f(a == b)": "(call f (== a b))",
    "h + F(h) as n": "(+ h (call F h as n))",
    "F(h)[0] as n": "(at (call F h as n) [0])",
    "(F(h) as n)[0]": "(at (call F h as n) [0])",
    "F(h) as n * 2": "(* (call F h as n) 2)",
    # pipes
    "x |> f": "(|> x (call f))",
    "x |> f(1; k = 2) |> g": "(|> (|> x (call f 1 ; k=2)) (call g))",
    "a + b |> f": "(|> (+ a b) (call f))",
    "a if c else b |> f": "(|> (if c a b) (call f))",
    "x |> F(1) as one |> relu as two": "(|> (|> x (call F 1 as one)) (call relu as two))",
    "(x |> f) + 1": "(+ (|> x (call f)) 1)",
    "f(x |> g, y)": "(call f (|> x (call g)) y)",
    # subscripts
    "x[i, 0]": "(at x [i 0])",
    "x[i][j]": "(at (at x [i]) [j])",
    "x[:, :8]": "(at x [_:_:_ _:8:_])",
    "x[a:b:c, ::2, 1:]": "(at x [a:b:c _:_:2 1:_:_])",
    "x[1:2:]": "(at x [1:2:_])",
    "x[..., ...a, 0]": "(at x [... ...a 0])",
    "x[i - 1; pad = 0]": "(at x [(- i 1)] pad 0)",
    "x[]": "(at x [])",
    "f(x)[0]": "(at (call f x) [0])",
    "x[i if c else j]": "(at x [(if c i j)])",
    # the words of items are names elsewhere
    "kernel + op * use": "(+ kernel (* op use))",
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expression(text: str) -> None:
    assert show(expression(text)) == EXPRESSIONS[text]


# --- statements -------------------------------------------------------------------------------------------------------

STATEMENTS = {
    "let s = 1": ["(let s = 1)"],
    "let a, b = f(x)": ["(let a b = (call f x))"],
    "a, b = split2(h)": ["(set a b = (call split2 h))"],
    "y[n, i < k, ...a] = x[n]": ["(nest y[n i<k ...a] = (at x [n]))"],
    "y[] = sum[i] x[i]": ["(nest y[] = (sum [i] (at x [i])))"],
    "const g[i < 7, d < 2] = i/3.0": ["(const g[i<7 d<2] = (/ i 3.0))"],
    "param w: T[o, c*2] = normal(0, 1)": ["(param w: T[o (* c 2)] = (call normal 0 1))"],
    "param w: f32[]": ["(param w: f32[] = _)"],
    "buffer m: T[c] = zeros()": ["(buffer m: T[c] = (call zeros))"],
    "return a, b": ["(return a b)"],
    "return y[n, o < 2*k, ...] = x[n]": ["(return (nest y[n o<(* 2 k) ...] = (at x [n])))"],
    "if a { x = 1 }": ["(if a {(set x = 1)} {})"],
    "if a { x = 1 } else { x = 2 }": ["(if a {(set x = 1)} {(set x = 2)})"],
    "if a { x = 1 } else if b { x = 2 } else { x = 3; y = 4 }": [
        "(if a {(set x = 1)} {(if b {(set x = 2)} {(set x = 3) (set y = 4)})})"
    ],
    "for i in 0..2 { h = h + D(h; 16) as deform }": ["(for i 0..2 _ {(set h = (+ h (call D h ; 16 as deform)))})"],
    "for i in a + 1..len(b) as block { }": ["(for i (+ a 1)..(call len b) block {})"],
    "for i in 0..n as b {}": ["(for i 0..n b {})"],
    'require a == b, "no"': ["(require (== a b) 'no')"],
    'require a, "w takes {g*groups} of {{x}}; has {c}."': ["(require a 'w takes ' (* g groups) ' of {x}; has ' c '.')"],
    'require a, "{f(x, k = 2)}{c}"': ["(require a (call f x k=2) c)"],
    'require a, "mode \\"{mode}\\""': ["(require a 'mode \"' mode '\"')"],
    "a = 1; b = 2;": ["(set a = 1)", "(set b = 2)"],
    "": [],
}


@pytest.mark.parametrize("text", STATEMENTS)
def test_statement(text: str) -> None:
    assert statements(text) == STATEMENTS[text]


LINES = {
    "a line ends in an operator": ("y = a +\n  b *\n\n  c", ["(set y = (+ a (* b c)))"]),
    "a line ends in `=`, `,` or a pipe": ("a,\n b =\n  x |>\n f", ["(set a b = (|> x (call f)))"]),
    "the next line begins with a pipe": (
        "y = x\n  |> f\n  # why\n\n  |> g\nz = y",
        ["(set y = (|> (|> x (call f)) (call g)))", "(set z = y)"],
    ),
    "within brackets": (
        "y = f(a\n,\n b\n)\nz = [1,\n 2\n ]\nw = z[\n0\n]",
        ["(set y = (call f a b))", "(set z = [1 2])", "(set w = (at z [0]))"],
    ),
    "after a reduction": ("y[] = sum[i < 3,\n j]\n  a * b", ["(nest y[] = (sum [i<3 j] (* a b)))"]),
    "a choice": ("y = a if c else\n  b\nz = a if c\n else b", ["(set y = (if c a b))", "(set z = (if c a b))"]),
    "else on its own line": (
        "if a {\n x = 1\n}\n# or\nelse {\n x = 2\n}\ny = 3",
        ["(if a {(set x = 1)} {(set x = 2)})", "(set y = 3)"],
    ),
    "a comment that looks like a pipe": (
        "y = x  # |> f\nz = 1\n# |> {\nw = 2",
        ["(set y = x)", "(set z = 1)", "(set w = 2)"],
    ),
    "semicolons and line breaks": ("a = 1;\nb = 2;\n\nc = 3", ["(set a = 1)", "(set b = 2)", "(set c = 3)"]),
    "tabs and carriage returns": ("\ta = 1\r\n\tb = 2\r", ["(set a = 1)", "(set b = 2)"]),
    "a block within brackets' lines": (
        "if f(a,\n b) {\n x = 1\n y = 2 }",
        ["(if (call f a b) {(set x = 1) (set y = 2)} {})"],
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_line_breaks(case: str) -> None:
    text, expected = LINES[case]
    assert statements(text) == expected


# --- items and types --------------------------------------------------------------------------------------------------

ITEMS = {
    "use blocks": "(use blocks)",
    "use lib.blocks": "(use lib.blocks)",
    "kernel g(x, y; gamma) = exp(-gamma * d(x, y))    : stationary, positive, features = fourier": (
        "kernel g(x, y; gamma) -> () {(return (call exp (* (- gamma) (call d x y))))} "
        ": stationary, positive, features=fourier"
    ),
    "kernel g(x, y) { let d = x; return d } : a = 1 + 2": (
        "kernel g(x, y; ) -> () {(let d = x) (return d)} : a=(+ 1 2)"
    ),
    "fn sqdist(x: T[d], y: T[d]) = sum[i < d] (x[i] - y[i])**2": (
        "fn sqdist(x: T[d], y: T[d]; ) -> () {(return (sum [i<d] (** (- (at x [i]) (at y [i])) 2)))} : "
    ),
    "fn f(image: T[h, w], u, v; pad = 0) -> T[] { return u }": (
        "fn f(image: T[h w], u, v; pad=0) -> (T[]) {(return u)} : "
    ),
    "op relu(x: T[...]) -> T[...] { return y[...] = max(x[...], 0) }": (
        "op relu(x: T[...]; ) -> (T[...]) {(return (nest y[...] = (call max (at x [...]) 0)))} : "
    ),
    "op s(x: T[...a, k @ axis, ...b]; axis = -1) -> T[...a, ...b] { return y[...a, ...b] = sum[k] x[...a, k, ...b] }": (
        "op s(x: T[...a k@axis ...b]; axis=(- 1)) -> (T[...a ...b]) "
        "{(return (nest y[...a ...b] = (sum [k] (at x [...a k ...b]))))} : "
    ),
    "op two(x: U1[n, 2*k*l]) -> (T[n], i32[n, 1],) { return a, b }": (
        "op two(x: U1[n (* (* 2 k) l)]; ) -> (T[n], i32[n 1]) {(return a b)} : "
    ),
    "layer Conv2d(x: T[n, c, h, w]; out, k, stride = 1, bias = true,) { return x }": (
        "layer Conv2d(x: T[n c h w]; out, k, stride=1, bias=true) -> () {(return x)} : "
    ),
    "layer L(x; out) { return x }": "layer L(x; out) -> () {(return x)} : ",
    "layer L(;) {}": "layer L(; ) -> () {} : ",
    "model D(x: f32[N, 1, 8, 8]; width = 16) -> f32[N, 10] { return x |> f }": (
        "model D(x: f32[N 1 8 8]; width=16) -> (f32[N 10]) {(return (|> x (call f)))} : "
    ),
    "op f(x: T[n],\n     w: T[n];\n     k = 1)\n  -> T[n]\n{\n  return x\n}\n": (
        "op f(x: T[n], w: T[n]; k=1) -> (T[n]) {(return x)} : "
    ),
    "kernel g(x, y) = x\n  : stationary": "kernel g(x, y; ) -> () {(return x)} : stationary",
    "layer use(kernel; op) { model = fn(kernel); return model }": (
        "layer use(kernel; op) -> () {(set model = (call fn kernel)) (return model)} : "
    ),
}


@pytest.mark.parametrize("text", ITEMS)
def test_item(text: str) -> None:
    (item,) = parse(text).items
    assert show(item) == ITEMS[text]


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "i8", "i4", "i32", "bool", "c64", "T", "U", "T12"])
def test_dtypes(dtype: str) -> None:
    parameter = definition(f"op f(x: {dtype}[n]) -> {dtype}[n] {{ return x }}").parameters[0]
    assert parameter.type is not None and parameter.type.dtype == dtype


@pytest.mark.parametrize("text", ["", "\n", "# only a comment", "\n\n# a\n\n# b\n", "   ", "\t\n"])
def test_files_without_items(text: str) -> None:
    assert parse(text, "empty.mer") == s.File("empty.mer", text, ())


def test_a_file_keeps_the_order_of_its_items() -> None:
    text = "use a\nfn f(x) = x\n\nfn g(x) =\n  f(x)\nlayer L(x) { return x }\n"
    file = parse(text, "m.mer")
    assert (file.name, file.text) == ("m.mer", text)
    assert [show(item).split("(")[0].strip() for item in file.items[1:]] == ["fn f", "fn g", "layer L"]


def test_comment_block_and_source_of_a_definition() -> None:
    text = (
        "# The file.\n\n"
        "# Adds one.\n#   To all.\n#\n# End\n"
        "fn f(x) = x + 1  # not this\n"
        "# Of g.\nlayer g(x) {\n  # inside\n  return x\n}   # nor this\n\nfn h(x) = x"
    )
    f, g, h = parse(text).items
    assert isinstance(f, s.Definition) and isinstance(g, s.Definition) and isinstance(h, s.Definition)
    assert (f.doc, f.source) == ("Adds one.\n  To all.\n\nEnd", "fn f(x) = x + 1")
    assert (g.doc, g.source) == ("Of g.", "layer g(x) {\n  # inside\n  return x\n}")
    assert (h.doc, h.source) == ("", "fn h(x) = x")


# --- places -----------------------------------------------------------------------------------------------------------

PLACES = """\
# A comment.
use lib.blocks
kernel g(x, y; gamma = 1) = exp(-gamma * (x - y))  : positive, features = fourier

model M(x: f32[N, ...a, k @ axis];
        width = 16) -> (f32[N], T[]) {
  const grid[i < 7, ...] = where(d == 0, i, j)/3.0
  let a, b = x |> F(width; 3, k = [1, 2]) as one
    |> relu
  param w: f32[N] = uniform(-0.1, 0.1)
  for i in 0..2 as blocks { h = x[:, 1:2, ::2; pad = -1.5] }
  if not true { y = (a + b) * c } else if none { y = 1 } else { y = 2 }
  require a < 2, "has {a*b} and {c}"
  return y[n, i < k] = 2 * sum[c < g,
                               j] -x[n] ** 2 + "s" if q else 0
}
"""

TEXT_OF_NODE = {
    s.Use: ["use lib.blocks"],
    s.Property: ["positive", "features = fourier"],
    s.Attribute: ["gamma = 1", "width = 16"],
    s.Parameter: ["x", "y", "x: f32[N, ...a, k @ axis]"],
    s.TypeSyntax: ["f32[N, ...a, k @ axis]", "f32[N]", "T[]", "f32[N]"],
    s.PlacedDim: ["k @ axis"],
    s.Ellipsis_: ["...a", "..."],
    s.AxisBinder: ["i < 7", "n", "i < k", "c < g", "j"],
    s.IndexAssign: [
        "const grid[i < 7, ...] = where(d == 0, i, j)/3.0",
        'y[n, i < k] = 2 * sum[c < g,\n                               j] -x[n] ** 2 + "s" if q else 0',
    ],
    s.Assign: [
        "let a, b = x |> F(width; 3, k = [1, 2]) as one\n    |> relu",
        "h = x[:, 1:2, ::2; pad = -1.5]",
        "y = (a + b) * c",
        "y = 1",
        "y = 2",
    ],
    s.Pipe: ["x |> F(width; 3, k = [1, 2]) as one\n    |> relu", "x |> F(width; 3, k = [1, 2]) as one"],
    s.Call: [
        "exp(-gamma * (x - y))",
        "where(d == 0, i, j)",
        "F(width; 3, k = [1, 2]) as one",
        "relu",
        "uniform(-0.1, 0.1)",
    ],
    s.Keyword: ["k = [1, 2]"],
    s.ListLiteral: ["[1, 2]"],
    s.ParamDeclaration: ["param w: f32[N] = uniform(-0.1, 0.1)"],
    s.For: ["for i in 0..2 as blocks { h = x[:, 1:2, ::2; pad = -1.5] }"],
    s.Subscript: ["x[:, 1:2, ::2; pad = -1.5]", "x[n]"],
    s.Slice: [":", "1:2", "::2"],
    s.If: [
        "if not true { y = (a + b) * c } else if none { y = 1 } else { y = 2 }",
        "if none { y = 1 } else { y = 2 }",
    ],
    s.Unary: ["-gamma", "-0.1", "-1.5", "not true", "-x[n] ** 2"],
    s.Binary: [
        "-gamma * (x - y)",
        "(x - y)",
        "where(d == 0, i, j)/3.0",
        "d == 0",
        "(a + b) * c",
        "(a + b)",
        "a < 2",
        "a*b",
        '2 * sum[c < g,\n                               j] -x[n] ** 2 + "s"',
        "2 * sum[c < g,\n                               j] -x[n] ** 2",
        "x[n] ** 2",
    ],
    s.Reduction: ["sum[c < g,\n                               j] -x[n] ** 2"],
    s.Conditional: ['2 * sum[c < g,\n                               j] -x[n] ** 2 + "s" if q else 0'],
    s.Require: ['require a < 2, "has {a*b} and {c}"'],
    s.ReturnIndexed: [
        'return y[n, i < k] = 2 * sum[c < g,\n                               j] -x[n] ** 2 + "s" if q else 0'
    ],
    s.String: ['"s"'],
    s.Boolean: ["true"],
    s.NoneLiteral: ["none"],
}


@pytest.mark.parametrize("kind", TEXT_OF_NODE, ids=lambda kind: kind.__name__)
def test_spans_are_exact(kind: type) -> None:
    found = [slice_of(PLACES, node.span) for node in nodes(parse(PLACES, "p.mer").items) if type(node) is kind]
    assert sorted(found) == sorted(TEXT_OF_NODE[kind])


def test_names_and_numbers_lie_where_they_are_written() -> None:
    for node in nodes(parse(PLACES, "p.mer").items):
        if isinstance(node, s.Name):
            assert slice_of(PLACES, node.span) in (node.name, f"({node.name})")
            assert node.span.file == "p.mer"
        elif isinstance(node, s.Number):
            assert float(slice_of(PLACES, node.span)) == node.value


def test_the_span_of_a_definition_is_its_source() -> None:
    kernel, model = parse(PLACES).items[1:]
    assert isinstance(kernel, s.Definition) and isinstance(model, s.Definition)
    assert kernel.source == slice_of(PLACES, kernel.span) == PLACES.split("\n")[2]
    assert model.source == slice_of(PLACES, model.span)
    assert model.source.startswith("model M(") and model.source.endswith("}")


# --- limits -----------------------------------------------------------------------------------------------------------

DEEP = {
    "parentheses": "(" * 2000 + "x" + ")" * 2000,
    "open parentheses": "(" * 2000,
    "lists": "[" * 2000 + "]" * 2000,
    "calls": "f(" * 2000 + ")" * 2000,
    "subscripts": "x" + "[0]" * 2000,
    "minus": "-" * 2000 + "x",
    "not": "not " * 2000 + "x",
    "powers": "x ** " * 2000 + "x",
    "sums": "x + " * 2000 + "x",
    "reductions": "sum[i] " * 2000 + "x",
    "choices": "x if c else " * 2000 + "x",
    "pipes": "x" + " |> f" * 2000,
}


@pytest.mark.parametrize("case", DEEP)
def test_deep_nesting_is_an_error_with_a_place(case: str) -> None:
    with pytest.raises(CompileError) as caught:
        parse(f"fn f(x) = {DEEP[case]}")
    assert [diagnostic.name for diagnostic in caught.value.diagnostics] == ["nesting-too-deep"]


def test_deep_blocks_are_an_error() -> None:
    for body in ("if a {\n" * 2000 + "}" * 2000, "if a { }" + " else if a { }" * 2000):
        with pytest.raises(CompileError, match="nesting-too-deep"):
            parse(f"layer L(x) {{ {body} }}")


def test_long_flat_text_is_no_nesting() -> None:
    numbers = ", ".join(f"-{i} + 1" for i in range(3000))
    lines = "\n".join(f"  y = x + {i}" for i in range(1000))
    blocks = "\n".join("  if a { y = 1 }" for _ in range(500))
    file = parse(f"layer L(x) {{\n  let a = [{numbers}]\n{lines}\n{blocks}\n}}")
    assert isinstance(file.items[0], s.Definition) and len(file.items[0].body) == 1501


def test_what_is_allowed_is_safe_to_walk() -> None:
    half = DEEPEST // 2 - 2
    tree = parse("fn f(x) = " + "(" * half + "x" + " + 1)" * half)
    assert tree == parse(tree.text) and repr(tree).count("Binary") == half
    assert sum(1 for _ in nodes(tree.items)) > half


def test_items_can_be_parsed_alone() -> None:
    """What the library does: outline a file, then parse an item where it stands."""
    for path in sorted(STDLIB.glob("*.mer")):
        text = path.read_text()
        assert tuple(parse_item(text, path.name, item) for item in outline(text)) == parse(text, path.name).items


# --- fuzzing ----------------------------------------------------------------------------------------------------------

TOKENS = (
    "use kernel fn op layer model let const param buffer return if else for in require and or not as true false none "
    'sum max[ sum[i] scan while T[ f32[n] x y i n 0 1 2.5 .5 1e3 99999999999999999999 1e999 "s" "{x}" "{" "{x+}" " '
    "( ) [ ] { } ; , : :: . .. ... ...a = == := -> => < <= > |> | & && + - * ** / // % @ ! ^ ? ' \\ # $ é \x00 \t \r"
).split(" ") + ["\n", "\nfn f(x) = ", "\nop f(x: T[n]) -> T[n] {\n", "; pad = ", "y[n] = ", "x |> f(", "\n\n"]


def outcome(text: str) -> s.File | CompileError:
    try:
        return parse(text, "fuzz.mer")
    except CompileError as error:
        return error


def only_compile_errors(text: str) -> None:
    result = outcome(text)
    if isinstance(result, CompileError):
        assert result.diagnostics
        for diagnostic in result.diagnostics:
            assert diagnostic.message in str(result)
            assert 1 <= diagnostic.span.line <= text.count("\n") + 1
    else:
        for node in nodes(result.items):
            span = node.span
            assert (span.line, span.column) < (span.end_line, span.end_column), node


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(TOKENS), max_size=40), st.sampled_from([" ", ""]))
def test_token_soup_gives_only_compile_errors(tokens: list[str], glue: str) -> None:
    only_compile_errors(glue.join(tokens))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(TOKENS), max_size=25))
def test_token_soup_in_a_body(tokens: list[str]) -> None:
    only_compile_errors("layer L(x; k) {\n  y = " + " ".join(tokens) + "\n}\nfn g(x) = x\n")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_text_gives_only_compile_errors(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(PLACES)))
    end = data.draw(st.integers(start, min(len(PLACES), start + 20)))
    only_compile_errors(PLACES[:start] + data.draw(st.text(max_size=3)) + PLACES[end:])
