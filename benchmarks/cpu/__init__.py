"""Mercer on the CPU beside other systems: the same workloads, the same numbers, in one run. `make bench` starts it."""
