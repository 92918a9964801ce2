"""Pathway keeps the newest report of each vehicle in PostgreSQL; run by the environment of requirements-peers.txt."""

import sys

import pathway as pw

folder, host, port, user, password, database = sys.argv[1:]


class Report(pw.Schema):  # type: ignore[misc]  # which is not installed here
    """A record."""

    vehicle_id: str
    report_time: str
    status: str


given = {"host": host, "port": port, "user": user, "password": password, "dbname": database}
reports = pw.io.jsonlines.read(folder, schema=Report, mode="static")
timed = reports.with_columns(report_time=pw.this.report_time.dt.strptime("%Y-%m-%dT%H:%M:%S.%f%z"))
newest = (
    timed.groupby(timed.vehicle_id)
    .reduce(timed.vehicle_id, said=pw.reducers.max(pw.make_tuple(timed.report_time, timed.status)))
    .select(pw.this.vehicle_id, report_time=pw.this.said[0], status=pw.this.said[1])
)
pw.io.postgres.write(
    newest,
    {name: value for name, value in given.items() if value},
    "reports",
    schema_name="peer",
    init_mode="create_if_not_exists",
    output_table_type="snapshot",
    primary_key=[newest.vehicle_id],
)
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
