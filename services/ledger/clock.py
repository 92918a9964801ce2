"""The database's clock, by which its times are read: that of this machine may be set otherwise."""

from datetime import datetime

from psycopg import Connection


def now(connection: Connection) -> datetime:
    """The time by the database's clock."""
    (moment,) = connection.execute("select clock_timestamp()").fetchone() or (None,)
    assert isinstance(moment, datetime)
    return moment


def age_seconds(connection: Connection, moment: datetime) -> float:
    """How long ago this was, by the database's clock."""
    query = "select extract(epoch from clock_timestamp() - %s)::float8"
    (seconds,) = connection.execute(query, [moment]).fetchone() or (0.0,)
    return float(seconds)
