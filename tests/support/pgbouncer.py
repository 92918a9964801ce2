"""PgBouncer on a free loopback port, before the server of the tests."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tests.support.waiting import eventually

HOST = "127.0.0.1"


def pgbouncer_program() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def pgbouncer(folder: Path, uri: str, *, pool_mode: str) -> Iterator[str]:
    """The URI of the same database, as of any other of its server, by way of a pooler.

    folder: open to every user.
    """
    program = pgbouncer_program()
    assert program, "there is no pgbouncer: make system-deps installs it"
    server = conninfo_to_dict(uri)
    user = server.get("user") or "postgres"
    # Without dbname it is the database that the client names.
    database = " ".join(f"{name}={server[name]}" for name in ("host", "port", "user", "password") if server.get(name))
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    (folder / "users").write_text(f'"{user}" ""\n')
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = {database}\n[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder / 'users'}\npool_mode = {pool_mode}\nlogfile = {folder / 'log'}\n"
        "max_client_conn = 1000\n"
    )
    # It refuses to run as root; whoever owns the server's socket may open it.
    socket_folder = Path(str(server.get("host", "")))
    owner = (socket_folder / f".s.PGSQL.{server.get('port') or 5432}").stat() if socket_folder.is_absolute() else None
    user_id, group_id = (owner.st_uid, owner.st_gid) if owner else (65534, 65534)
    as_root = os.geteuid() == 0
    if as_root:
        for path in (folder, *folder.iterdir()):
            os.chown(path, user_id, group_id)
    process = subprocess.Popen(
        [program, "-q", str(config)],
        stderr=sys.stderr,
        user=user_id if as_root else None,
        group=group_id if as_root else None,
    )
    try:
        eventually(lambda: _listens(port) or process.poll() is not None, what="pgbouncer")
        assert process.poll() is None, "pgbouncer ended"
        yield f"postgresql://{user}@{HOST}:{port}/{server['dbname']}"
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex((HOST, port)) == 0
