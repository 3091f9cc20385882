"""Side-by-side measurements: each command measures something of ours and its anchor in the same run.

`make bench NAME=...` prints a table and writes `benchmarks/results/NAME.json`.
"""
