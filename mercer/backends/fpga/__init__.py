"""Integer graphs to streaming hardware: SystemVerilog, memory files, a cycle model and a simulation.

`design.build` makes a design, `design.simulate` runs it.
"""
