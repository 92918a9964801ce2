"""The partner systems of the tests, each on a free loopback port in a thread of this process (a pytest plug-in).

Fixtures: `crm`, `inventory`, `erp`, `partner1`, `intempus` (HTTP) and `sftp_server`. Each of them has

- `.url`, and `.port`, the same for life; `intempus.uri` has `/web/v1` on it; `sftp_server.host`, `.sftp_port`,
  `.known_hosts` (the line of the file) and `.folder` (what its users see as the root); its `.url` is its control page;
- `.faults`: switches, set as attributes at any time: `erp.faults.lose_rate = 1; erp.faults.times = 2` strikes the
  next two requests only (partners/faults.py has them all; `sftp_server.faults` are those of partners/sftp_session.py);
- `.received`: what came, newest last: `.method .path .query .headers .body .status .fault`, or `.operation .path .to
  .bytes` of the SFTP server;
- `.stop()` and `.start()`: an outage, on the same port, with nothing forgotten;
- what its people do: `crm.create(name, email)`, `crm.rename(id, name)`, `crm.webhook`, `inventory.of_customer(id)`,
  `erp.find(customer, number)`, `erp.not_sold`, `partner1.seed(10_000)`, `partner1.place({...})`,
  `intempus.create(name=...)`, `.update(id, ...)`, `.delete(id)`, `.case(id)`, `.related`, `.next_origin`, `.limits`,
  `sftp_server.upload(name, content)`, `.begin_upload(name)`, `.names(folder)`, `.change_host_key()`.

Tokens, users and passwords are the defaults of the modules: `erp.token`, `partner1.token`, `intempus.user`,
`intempus.key`, `sftp_server.users`, `sftp_server.keys`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # each test that uses none starts without FastAPI
    from partners.crm import Crm
    from partners.erp import Erp
    from partners.intempus import Intempus
    from partners.inventory import Inventory
    from partners.partner1 import Partner1
    from partners.sftp import Sftp


@pytest.fixture
def crm() -> Iterator["Crm"]:
    from partners.crm import Crm

    with Crm() as stand_in:
        yield stand_in


@pytest.fixture
def inventory() -> Iterator["Inventory"]:
    """It does not notice a request sent twice; `inventory.idempotent = True` makes it."""
    from partners.inventory import Inventory

    with Inventory() as stand_in:
        yield stand_in


@pytest.fixture
def erp() -> Iterator["Erp"]:
    from partners.erp import Erp

    with Erp() as stand_in:
        yield stand_in


@pytest.fixture
def partner1() -> Iterator["Partner1"]:
    from partners.partner1 import Partner1

    with Partner1() as stand_in:
        yield stand_in


@pytest.fixture
def intempus() -> Iterator["Intempus"]:
    from partners.intempus import Intempus

    with Intempus() as stand_in:
        yield stand_in


@pytest.fixture
def sftp_server() -> Iterator["Sftp"]:
    from partners.sftp import Sftp

    with Sftp() as stand_in:
        yield stand_in
