"""1,000 small files out of OpenSSH's server: the SFTP source beside `sftp -b`, one after the other in one run.

The source also waits until files are at rest, makes them durable, and moves each to the archive over there; the time
at rest, during which nothing is done, is not counted.
"""

import asyncio
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.harness import Benchmark, Suite, ratio
from commands.site import Site
from models.connector import SftpSource
from services.sources.sftp import SftpFetcher
from tests.support.openssh import HOST, OpenSsh, sshd

FILES = 1000
SETTLE_SECONDS = 0.05
FILE = b'{"partner": "p2", "order_number": "%06d", "padding": "' + b"x" * 1000 + b'"}'


def fill(server: OpenSsh, files: int) -> None:
    """Have `files` new files over there, and nothing in the archive."""
    for folder in ("orders", "archive"):
        for path in (server.folder / folder).iterdir():
            path.unlink()
    for number in range(files):
        (server.folder / "orders" / f"{number:06}.json").write_bytes(FILE % number)


def by_sftp(server: OpenSsh, target: Path) -> float:
    """Seconds that `sftp -b` takes."""
    batch = target / "batch"
    batch.write_text(f"get {server.folder}/orders/* {target}/\n")
    options = ["-q", "-F", "none", "-P", str(server.port), "-i", str(server.key_file)]
    options += ["-o", f"UserKnownHostsFile={server.known_hosts}"]
    start = time.perf_counter()
    subprocess.run(["sftp", *options, "-b", str(batch), f"{server.user}@{HOST}"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def by_tidegate(bench: Bench, server: OpenSsh) -> float:
    """Seconds that a poll takes, without the time at rest."""
    values = {name: str(value) for name, value in server.settings.items()}
    settings = bench.site.settings.model_copy(update={"settle_seconds": SETTLE_SECONDS}).with_values(**values)
    flow = bench.site.flows["orders"]
    source = next(one for one in flow.sources if isinstance(one, SftpSource))
    site = Site(settings, bench.site.flows, bench.site.database)
    fetcher = SftpFetcher(flow.name, source, settings, site.database.connect)
    start = time.perf_counter()
    asyncio.run(fetcher.poll(lambda _detail: None))
    return time.perf_counter() - start - SETTLE_SECONDS


def plain(bench: Bench) -> float:
    files = bench.size(FILES)
    with tempfile.TemporaryDirectory() as folder, sshd(Path(folder)) as server:
        target = Path(folder, "fetched")
        target.mkdir()
        fill(server, files)
        taken = by_sftp(server, target)
        assert len(list(target.glob("*.json"))) == files
        return taken


def fetched(bench: Bench) -> float:
    files = bench.size(FILES)
    inbox = bench.inbox("orders")
    with tempfile.TemporaryDirectory() as folder, sshd(Path(folder)) as server:
        fill(server, files)
        taken = by_tidegate(bench, server)
        assert len(list(inbox.glob("*.json"))) == len(server.names("archive")) == files
    for path in inbox.iterdir():
        path.unlink()
    return taken


BENCHMARKS = (
    Benchmark(
        name="sftp",
        what="1,000 small files fetched by SFTP",
        product=fetched,
        floor=plain,
        floor_is="`sftp -b`",
        bars=(ratio(1.5),),
        count=FILES,
        counted="files",
        turns=3,
        suite=Suite.FULL,
    ),
)
