"""Nests to machine code through TVM: schedules of our own, TVM's memory planning, executor and code generators."""
