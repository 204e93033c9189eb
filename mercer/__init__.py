"""Mercer: a compiler for kernel networks and convolution networks."""
