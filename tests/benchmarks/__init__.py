"""Benchmarks: bench_NAME.py holds `run() -> dict`, whose figures come from that run only.

The dict may hold
    "rows":  a list of dicts with the same keys; printed as a table
    "claim": what the bench must show, in one sentence
    "holds": whether it did
    anything else: printed as name and value
The first line of the module's docstring is its title.
"""
