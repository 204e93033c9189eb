"""Kernels as values: sums, products and multiples of kernels, and what is declared of them."""

from __future__ import annotations

from mercer.frontend import syntax
from mercer.frontend.arithmetic import OperandError
from mercer.frontend.frames import Definitions
from mercer.frontend.values import AnyValue, Reference, as_attribute, describe
from mercer.ir.graph import AttributeValue, KernelValue
from mercer.ir.index import FUNCTIONS

PROPERTIES = ("stationary", "isotropic", "dot_product", "positive", "conditionally_positive", "compact")
"""What the language knows of kernels besides `features`."""


def is_kernel(value: AnyValue) -> bool:
    return isinstance(value, KernelValue) or (isinstance(value, Reference) and value.definition.kind == "kernel")


def combine_kernels(symbol: str, left: AnyValue, right: AnyValue) -> KernelValue:
    """`k + l`, `k * l`, `2.0 * k`, `k * 2.0` and `k / 2.0` as kernels. Raises OperandError for anything else."""
    first, second = _value(left), _value(right)
    if is_kernel(left) and is_kernel(right) and symbol in ("+", "*"):
        name = "kernel_sum" if symbol == "+" else "kernel_product"
        return KernelValue(name, (("left", first), ("right", second)))
    kernel, factor = (first, second) if is_kernel(left) else (second, first)
    if isinstance(factor, int | float) and (symbol == "*" or (symbol == "/" and kernel is first)):
        scale = float(factor) if symbol == "*" else 1.0 / factor
        return KernelValue("kernel_scale", (("kernel", kernel), ("factor", scale)))
    message = f"`{symbol}` of {describe(left)} and {describe(right)}"
    raise OperandError(message, "kernels are added and multiplied, also by numbers")


def _value(value: AnyValue) -> AttributeValue:
    """A kernel without its brackets is the kernel with its defaults."""
    return as_attribute(value)  # type: ignore[arg-type]


def takes_number(definition: syntax.Definition) -> bool:
    """Whether a function of the language is one of a number, which a vector can go through element by element."""
    if definition.name.name in FUNCTIONS:
        return FUNCTIONS[definition.name.name].arity == 1
    return definition.kind == "fn" and len(definition.parameters) == 1 and definition.parameters[0].type is None


def has(library: Definitions, kernel: AnyValue, name: AnyValue) -> bool:
    """`has(kernel, "positive")`: whether the property is declared, or follows from the kernels that it is made of."""
    if not is_kernel(kernel):
        raise OperandError(f"`has` asks a kernel; found {describe(kernel)}")
    if name not in PROPERTIES:
        raise OperandError(f"{describe(name)} is no property of kernels", f"one of {', '.join(PROPERTIES)}")
    value = _value(kernel)
    assert isinstance(value, KernelValue)
    return str(name) in properties(library, value)


def properties(library: Definitions, kernel: KernelValue) -> frozenset[str]:
    """The properties of a kernel.

    `p` in its declaration says so always, `p = all` when all kernels among its attributes have it, `p = any`
    when one of them does.
    """
    definition = library.definition(kernel.name)
    assert definition is not None
    inner = [value for _, value in kernel.attributes if isinstance(value, KernelValue)]
    parts = [properties(library, value) for value in inner if _kind(library, value) == "kernel"]
    found: set[str] = set()
    for declared in definition.properties:
        name, how = declared.name.name, declared.value
        if how is None or (isinstance(how, syntax.Name) and _holds(how.name, name, parts)):
            found.add(name)
    return frozenset(found)


def _kind(library: Definitions, value: KernelValue) -> str:
    definition = library.definition(value.name)
    return "" if definition is None else definition.kind


def _holds(how: str, name: str, parts: list[frozenset[str]]) -> bool:
    each = [name in part for part in parts]
    return (how == "all" and bool(each) and all(each)) or (how == "any" and any(each))
