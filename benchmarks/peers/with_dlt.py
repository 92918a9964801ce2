"""dlt merges JSON Lines of a folder into PostgreSQL; run by the environment of requirements-peers.txt.

Its fastest way that keeps one row of a key: Arrow's reader is not used, as times would stay text.
"""

import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import dlt
import orjson
from dlt.destinations import postgres

folder, host, port, user, password, database = sys.argv[1:]
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"


@dlt.resource(
    name="reports",
    write_disposition="merge",
    primary_key="vehicle_id",
    columns={
        "vehicle_id": {"data_type": "text"},
        "report_time": {"data_type": "timestamp", "dedup_sort": "desc"},
        "status": {"data_type": "text"},
    },
)
def reports():  # type: ignore[no-untyped-def]  # noqa: ANN201
    """The records, in lists."""
    for path in sorted(Path(folder).iterdir()):
        lines = path.read_bytes().splitlines()
        for start in range(0, len(lines), 10_000):
            yield [orjson.loads(line) for line in lines[start : start + 10_000]]


credentials = {
    "host": quote(host, safe=""),
    "port": int(port),
    "username": user,
    "password": password,
    "database": database,
}
dlt.pipeline(
    "peer",
    destination=postgres(credentials=credentials),
    dataset_name="peer",
    pipelines_dir=tempfile.mkdtemp(dir=Path(folder).parent),
).run(reports, loader_file_format="csv")
