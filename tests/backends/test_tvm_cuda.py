"""CUDA code is generated and compiled without a GPU."""

from __future__ import annotations

import shutil

import pytest

from mercer.backends.tvm.build import compile_nests
from mercer.backends.tvm.target import parse
from mercer.ir.index import call
from tests.backends.tvm_programs import axes, index, mul, nest, normal, number, program, read, tensor, total

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on the PATH")


def test_kernels_bind_threads_and_compile() -> None:
    window = read("x", "n", "c", index("p") + index("i") - 1, pad=0.0)
    body = call("exp", total(mul(window, read("w", "o", "c", "i")), c=3, i=3))
    nests = program(
        {"x": tensor("N", 3, 8)}, {"w": normal(4, 3, 3)}, [nest("y", axes(n="N", o=4, p=8), body, "conv1d")], "y"
    )
    compiled = compile_nests(nests, parse("cuda:sm_90"))
    assert compiled.source is not None
    assert "conv1d_kernel" in compiled.source
    assert "blockIdx.x" in compiled.source and "threadIdx.x" in compiled.source
    assert compiled.library[:4] == b"\x7fELF"
    assert compile_nests(nests, parse("cuda:sm_90")).library == compiled.library


def test_divisions_are_rounded_to_nearest() -> None:
    """Whatever the flags of the compiler."""
    body = call("div", read("x", "n", "i"), number(0.3))
    nests = program({"x": tensor("N", 3)}, {}, [nest("y", axes(n="N", i=3), body, "div")], "y")
    compiled = compile_nests(nests, parse("cuda:sm_90"))
    assert compiled.source is not None
    assert "__fdiv_rn(" in compiled.source
