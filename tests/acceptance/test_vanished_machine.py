"""A machine vanishes in the middle of a transaction: what it has locked is soon free again."""

import signal
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from services.runtime import status_file
from services.runtime.status_file import Phase
from tests.support import black_hole
from tests.support.clusters import cluster, missing_program
from tests.support.sites import Site
from tests.support.waiting import eventually

NOTICED_SECONDS = 20
"""So soon the server gives back what a machine that has vanished had locked: ten, and as many for a busy machine."""

STUCK = """
select application_name from pg_stat_activity join pg_locks using (pid)
where relation = 'vehicles_status'::regclass and not granted and datname = current_database()
"""


def report(number: int) -> list[dict[str, str]]:
    return [{"vehicle_id": f"v{number}", "report_time": "2022-05-05T22:02:34Z", "status": "driving"}]


@pytest.mark.skipif(not black_hole.IS_HERE, reason="packets are dropped by a filter of Linux")
@pytest.mark.skipif(missing_program() is not None, reason=str(missing_program()))
def test_what_a_vanished_machine_has_locked_is_free_within_seconds(site: Site, open_folder: Path) -> None:
    with cluster(open_folder) as server, black_hole.line(server.port) as line:
        server.execute("create database tidegate")
        direct = SecretStr(server.uri("tidegate"))
        by_line = SecretStr(server.uri("tidegate").replace(str(server.port), str(line.port)))
        near = Site(site.settings.model_copy(update={"database_url": direct, "database_direct_url": None}))
        far = Site(site.settings.model_copy(update={"database_url": by_line, "database_direct_url": None}))
        try:
            vanishing = far.start()
            eventually(lambda: watching(near) == 1, timeout=30, what="a daemon at work")
            with psycopg.connect(near.url) as other:
                other.execute("lock table vehicles_status in share mode")
                near.drop("0.json", report(0), flow="vehicle_status")
                eventually(lambda: near.query(STUCK), what="a daemon in the middle of loading")
                left = near.start()
                eventually(lambda: watching(near) == 2, timeout=30, what="another daemon at work")
                vanishing.send_signal(signal.SIGSTOP)
                line.cut()
            lines = eventually(near.ledger, timeout=NOTICED_SECONDS, what="the other daemon that loads")
            assert lines[0]["node"].endswith(f":{left.pid}")
            vanishing.send_signal(signal.SIGCONT)
            near.settled(1)
            near.stop(left)
            near.drop("1.json", report(1), flow="vehicle_status")
            assert [(line["name"], line["status"]) for line in near.settled(2)] == [
                ("0.json", "loaded"),
                ("1.json", "loaded"),
            ]
            assert near.waiting() == []
        finally:
            for process in (*near.processes, *far.processes):
                process.kill()
                process.wait()


def watching(site: Site) -> int:
    return sum(state.state is Phase.WATCHING for state in status_file.running(site.settings.data_dir))
