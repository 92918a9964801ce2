"""The drill of docs/operations.md: the database goes back to an older backup, and nothing else does."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from file_processing.outbound import numbers
from tests.support.flow_files import flow_files
from tests.support.processes import ROOT
from tests.support.sites import Site
from tests.support.waiting import eventually

SENSORS = '''
"""The last word of every sensor."""

from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import TypedDict

from models.flow import Flow
from models.outbound import Form, Outbound
from models.tables import LoadedRow


class Reading(TypedDict):
    sensor: str
    value: int


class SensorRow(LoadedRow):
    __tablename__ = "sensors"

    sensor: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[int]


FLOW = Flow(
    record=Reading,
    table=SensorRow,
    outbound=(
        Outbound("sensors-{file_id}.json", name="batches"),
        Outbound("{sensor}.json", form=Form.ONE),
    ),
)
'''


@pytest.fixture
def sensors(site: Site, tmp_path: Path) -> Iterator[Site]:
    with flow_files(tmp_path / "flows", sensors=SENSORS) as folder:
        made = Site(site.settings.model_copy(update={"flows_dir": folder}))
        made.call("emit")  # makes its table
        yield made


@contextmanager
def backup(site: Site, server_url: str) -> Iterator[Site]:
    """The site on a copy of its database as it is now: what a restore brings back later."""
    name = site.url.partition("?")[0].rpartition("/")[2]
    copy = f"{name}_backup"
    with psycopg.connect(server_url, autocommit=True) as server:
        make = sql.SQL("create database {} template {}").format(sql.Identifier(copy), sql.Identifier(name))
        server.execute(make)
        try:
            uri = site.url.replace(f"/{name}", f"/{copy}")
            yield Site(site.settings.model_copy(update={"database_url": SecretStr(uri)}))
        finally:
            server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(copy)))


def drop_and_load(site: Site, flow: str, name: str, content: object) -> None:
    """As a daemon would: what is loaded goes to the archive."""
    site.drop(name, content, flow=flow)
    site.load()


def out(site: Site) -> dict[str, bytes]:
    folder = site.settings.output_dir
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != numbers.NAME
    }


def references(files: dict[str, bytes]) -> list[str]:
    """The control references of our EDI answers."""
    texts = [content.decode("latin-1") for name, content in files.items() if name.endswith((".edi", ".x12"))]
    return [number for text in texts for number in re.findall(r"(?:UNZ\+|IEA\*)\d+[+*](\d+)", text)]


def test_an_older_backup_is_restored(sensors: Site, server_url: str) -> None:
    site = sensors
    # The names go against the order of time: the last that came says what holds.
    drop_and_load(site, "sensors", "9.json", [{"sensor": "a", "value": 1}, {"sensor": "b", "value": 1}])
    site.call("emit")
    with backup(site, server_url) as restored:
        for number, value in ((8, 2), (7, 3)):
            drop_and_load(site, "sensors", f"{number}.json", [{"sensor": "a", "value": value}])
            site.call("emit")
        samples = ROOT / "sample_files" / "orders"
        for name in ("orders_2026-01-31.edi", "order_850_2026-01-31.x12"):
            drop_and_load(site, "orders", name, (samples / name).read_bytes())
        site.call("emit")
        before = out(site)
        assert len(references(before)) > 2

        # Changed by hand behind the backup, and not fetched: nothing in the archive says it again.
        site.execute("update sensors set value = 99 where sensor = 'b'")
        site.call("emit")
        before = out(site)
        restored.execute("update sensors set value = 5 where sensor = 'b'")

        told = restored.call("ingest", str(restored.archive)).stdout
        assert "2 duplicate" in told or "1 duplicate" in told
        done = restored.call("emit", expect=2)
        after = out(restored)

    assert "b.json in" in done.stderr
    assert "none of ours" in done.stderr
    assert {name: after[name] for name in before} == before, "nothing that was not fetched is written over"
    assert json.loads(after["sensors/a.json"])["value"] == 3
    new = {name: content for name, content in after.items() if name not in before}
    assert new, "what came behind the backup goes out again"
    assert not set(references(before)) & set(references(new))
    assert len(set(references(after))) == len(references(after))


def test_the_archive_is_loaded_in_the_order_in_which_files_came(sensors: Site) -> None:
    site = sensors
    place = site.archive / "sensors"
    for day, name, value, second in (("2026-02-01", "a", 3, 1), ("2026-01-31", "b", 2, 3), ("2026-01-31", "c", 1, 2)):
        (place / day).mkdir(parents=True, exist_ok=True)
        path = place / day / f"{name}.json"
        path.write_text(json.dumps([{"sensor": "a", "value": value}]))
        os.utime(path, (second, second))
    site.call("ingest", str(site.archive))
    assert [line["name"] for line in site.ledger()] == ["c.json", "b.json", "a.json"]
    assert [row["value"] for row in site.rows("sensors")] == [3]


def test_the_archive_tells_by_when_files_got_there_whatever_their_senders_say(sensors: Site) -> None:
    for name, value, second in (("a", 1, 2_000_000_000), ("b", 2, 1_000_000_000)):
        path = sensors.drop(f"{name}.json", [{"sensor": "a", "value": value}], flow="sensors")
        os.utime(path, (second, second))
        sensors.load()
    sensors.execute("delete from sensors; delete from tidegate.inbound_file")
    sensors.call("ingest", str(sensors.archive))
    assert [row["value"] for row in sensors.rows("sensors")] == [2]


def test_an_archive_that_is_gone_through_once_more_undoes_nothing(sensors: Site) -> None:
    for number, value in enumerate((1, 2, 1)):
        drop_and_load(sensors, "sensors", f"{number}.json", [{"sensor": "a", "value": value}])
    sensors.execute("update sensors set value = 99")
    for _ in range(2):
        assert "3 files: 3 duplicate" in sensors.call("ingest", str(sensors.archive)).stdout
    assert [row["value"] for row in sensors.rows("sensors")] == [99]


def test_a_way_back_behind_the_backup_is_gone_again(sensors: Site, server_url: str) -> None:
    drop_and_load(sensors, "sensors", "0.json", [{"sensor": "a", "value": 1}])
    with backup(sensors, server_url) as restored:
        for number, value in enumerate((2, 1), start=1):
            drop_and_load(sensors, "sensors", f"{number}.json", [{"sensor": "a", "value": value}])
        assert "1 duplicate, 2 loaded" in restored.call("ingest", str(restored.archive)).stdout
        assert [row["value"] for row in restored.rows("sensors")] == [1]


def test_a_start_without_a_restore_leaves_out_no_number(sensors: Site) -> None:
    for number in range(3):
        drop_and_load(sensors, "sensors", f"{number}.json", [{"sensor": "a", "value": number}])
        assert "restored" not in sensors.fork("emit")
    numbers_given = [row["id"] for row in sensors.query("select id from tidegate.outbound_file order by 1")]
    assert numbers_given == list(range(1, 7))


@pytest.mark.usefixtures("permissions_bind")
def test_numbers_that_cannot_be_read_are_not_begun_anew(sensors: Site) -> None:
    drop_and_load(sensors, "sensors", "0.json", [{"sensor": "a", "value": 1}])
    sensors.call("emit")
    kept = sensors.settings.output_dir / numbers.NAME
    before = kept.read_text()
    kept.chmod(0)
    assert f"{numbers.NAME} in" in sensors.call("emit", expect=2).stderr
    kept.chmod(0o640)
    assert kept.read_text() == before
    kept.write_text("nonsense")
    assert "has to hold the highest number there is, twice" in " ".join(sensors.call("emit", expect=2).stderr.split())


def test_a_daemon_on_a_restored_database_says_so_and_goes_on_behind(sensors: Site, server_url: str) -> None:
    site = sensors
    with backup(site, server_url) as restored:
        drop_and_load(site, "sensors", "1.json", [{"sensor": "a", "value": 1}])
        site.call("emit")
        _, noted = map(int, (site.settings.output_dir / numbers.NAME).read_text().split())
        restored.start(FLOWS_DIR=str(site.settings.flows_dir))
        try:
            restored.drop("2.json", [{"sensor": "c", "value": 1}], flow="sensors")
            eventually(lambda: restored.query("select 1 from tidegate.outbound_file"), timeout=30, what="a file")
            (first,) = restored.query("select min(id) as id from tidegate.outbound_file")
            assert first["id"] == noted + 1
            assert "it was restored from a backup" in restored.log()
        finally:
            for process in restored.processes:
                process.kill()
                process.wait()
