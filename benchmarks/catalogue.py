"""Every benchmark there is, in the order in which they are measured and shown."""

from benchmarks import (
    latency,
    load_into,
    load_large,
    load_shapes,
    load_small,
    loaders,
    memory,
    outbound,
    peers,
    queries,
    sftp,
    start,
    waiting,
)
from benchmarks.harness import Benchmark

_MODULES = (
    load_large, load_shapes, load_small, loaders, start, latency, outbound,
    load_into, memory, waiting, queries, sftp, peers,
)  # fmt: skip
BENCHMARKS: tuple[Benchmark, ...] = tuple(one for module in _MODULES for one in module.BENCHMARKS)
