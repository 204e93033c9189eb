"""FPGA: integer graphs as streams of SystemVerilog modules, simulated, counted and routed with open tools."""
