"""Measuring a cluster of real processes: traffic, processes, CPU time, checks. For ``demo`` and ``benchmarks/``."""
