"""A primary that waits for its standby: what no standby has confirmed is not taken for done."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from models.errors import NoDatabase
from tests.support.clusters import Cluster, missing_program, with_standby
from tests.support.sites import Site
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(missing_program() is not None, reason=str(missing_program()))

REPORT = [{"vehicle_id": "V1", "report_time": "2022-05-05T22:02:34Z", "status": "driving"}]


@pytest.fixture(scope="module")
def pair(shared_open_folder: Path) -> Iterator[tuple[Cluster, Cluster]]:
    folder = shared_open_folder / "replication"
    folder.mkdir()
    folder.chmod(0o755)
    with with_standby(folder, synchronous=True) as servers:
        yield servers
    shutil.rmtree(folder)


@pytest.fixture
def followed(site: Site, pair: tuple[Cluster, Cluster]) -> Site:
    """The site on a primary with a synchronous standby."""
    primary, _ = pair
    primary.execute("drop database if exists tidegate with (force)")
    primary.execute("create database tidegate")
    made = Site(
        site.settings.model_copy(
            update={"database_url": SecretStr(primary.uri("tidegate")), "database_direct_url": None}
        )
    )
    made.call("db", "upgrade")
    return made


def test_commit_that_waits_for_its_standby_stands_in_the_status(followed: Site, pair: tuple[Cluster, Cluster]) -> None:
    _, standby = pair
    standby.kill()
    followed.drop("1.json", REPORT, flow="vehicle_status")
    loader = threading.Thread(target=followed.load)
    loader.start()
    eventually(
        lambda: "commits wait for a standby" in followed.fork("status", expect=None), timeout=30, what="a word about it"
    )
    standby.start()
    loader.join(30)
    assert [line["status"] for line in followed.ledger()] == ["loaded"]
    assert "commits wait for a standby" not in followed.fork("status", expect=None)


@contextmanager
def somebody_cancels(primary: Cluster, how: str) -> Iterator[None]:
    """While this is in use nobody waits for the standby for long."""
    stop = threading.Event()

    def cancel() -> None:
        while not stop.wait(0.05):
            primary.execute(f"select {how}(pid) from pg_stat_activity where wait_event = 'SyncRep'")

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_file_that_no_standby_has_confirmed_stays_where_it_is(
    followed: Site, pair: tuple[Cluster, Cluster], how: str
) -> None:
    primary, standby = pair
    standby.kill()
    dropped = followed.drop("1.json", REPORT, flow="vehicle_status")
    with somebody_cancels(primary, how):
        for _ in range(2):  # the second time it is known already, and yet not confirmed
            with pytest.raises(NoDatabase):
                followed.load()
            assert dropped.exists()
    (line,) = followed.ledger()
    assert line["filed_at"] is None
    standby.start()
    (result,) = followed.load()
    assert (result.status, result.ledger_id) == ("loaded", line["id"])
    assert not dropped.exists()
    assert len(followed.ledger()) == 1


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_outbound_file_that_no_standby_has_confirmed_is_not_written(
    followed: Site, pair: tuple[Cluster, Cluster], how: str
) -> None:
    primary, standby = pair
    followed.drop("1.json", REPORT, flow="vehicle_status")
    followed.load()
    followed.call("emit", "--flow", "orders")  # what is done once is done
    standby.kill()
    with somebody_cancels(primary, how):
        for _ in range(2):
            followed.call("emit", "--flow", "vehicle_status", expect=2)
            assert followed.out("vehicle_status") == {}
            assert [row["status"] for row in followed.query("select status from tidegate.outbound_file")] == ["writing"]
    standby.start()
    followed.call("emit", "--flow", "vehicle_status")
    assert len(followed.out("vehicle_status")) == 1
