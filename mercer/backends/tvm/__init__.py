"""Nests to machine code through TVM: schedules of our own, TVM's memory planning, executor and code generators."""

from mercer.runtime.executors import without_torch

with without_torch():
    import tvm as tvm  # first of all, so that every file here may import it as usual
