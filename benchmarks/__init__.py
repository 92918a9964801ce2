"""Benchmarks: what is fast is fast beside a floor, measured in turn with it; `python -m benchmarks --help`."""
