"""No digit of a number in a case's document gets lost, neither on its way in nor when it is put into a file again."""

from pathlib import Path

import psycopg

from flows.cases import INTEMPUS
from services.sources.local_replica import LocalReplica
from tests.support.sites import Site

DIGITS = "12345678901234567.123456789012345678"
CASE = f'{{"objects": [{{"id": 1, "name": "Pump", "active": true, "logical_timestamp": 5, "rate": {DIGITS}}}]}}'


def test_document_keeps_every_digit(site: Site) -> None:
    site.drop("case.json", CASE, flow="cases")
    assert [result.status for result in site.load()] == ["loaded"]
    assert site.query("select document ->> 'rate' as rate from cases") == [{"rate": DIGITS}]


def test_file_that_is_made_of_the_replica_keeps_every_digit(site: Site, tmp_path: Path) -> None:
    site.drop("case.json", CASE, flow="cases")
    site.load()
    replica = LocalReplica(site.flows()["cases"], INTEMPUS, tmp_path)
    with psycopg.connect(site.url) as connection:
        made = replica.envelope(replica.tombstones(connection, [1])).decode()
    assert f'"rate": {DIGITS}' in made
