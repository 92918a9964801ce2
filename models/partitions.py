"""How a flow's table is partitioned: PostgreSQL's own partitions, by a column of the key."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

_UNTIL = date(2100, 1, 1)
_MOST_PARTS = 1000


class Every(StrEnum):
    """How long a time a partition holds, by UTC."""

    DAY = "day"
    MONTH = "month"
    YEAR = "year"

    def start(self, moment: date) -> date:
        """The first day of the period in which the moment is."""
        day = moment.astimezone(UTC).date() if isinstance(moment, datetime) else moment
        match self:
            case Every.DAY:
                return day
            case Every.MONTH:
                return day.replace(day=1)
            case Every.YEAR:
                return day.replace(month=1, day=1)

    def after(self, start: date) -> date:
        """The first day of the next period."""
        return self.start(start + timedelta(days={Every.DAY: 1, Every.MONTH: 31, Every.YEAR: 366}[self]))

    def label(self, start: date) -> str:
        """`2026_01` of a month; a period that begins within one is named by its day."""
        shown = {Every.DAY: "%Y_%m_%d", Every.MONTH: "%Y_%m", Every.YEAR: "%Y"}
        return f"{start:{shown[self if self.start(start) == start else Every.DAY]}}"


@dataclass(frozen=True, slots=True)
class ByTime:
    """A partition for each day, month or year of a time or date in the key, made when a row needs it.

    since: what is older shares one partition, which is made with the table; and so does what is of 2100 or later.
    """

    column: str
    every: Every = Every.MONTH
    since: date = date(2000, 1, 1)

    @property
    def ends(self) -> tuple[date, date]:
        """Where the first partition of a period may begin, and the last one ends."""
        return self.every.start(self.since), _UNTIL

    def periods(self, moments: list[date]) -> set[date]:
        """The first days of the periods in which the moments are, but for those behind the ends."""
        if moments and self.every.start(_within(min(moments))) == self.every.start(_within(max(moments))):
            moments = moments[:1]
        starts = {self.every.start(_within(moment)) for moment in moments}
        return {start for start in starts if self.ends[0] <= start < self.ends[1]}


@dataclass(frozen=True, slots=True)
class ByHash:
    """So many partitions of about the same size, made with the table, for good."""

    column: str
    parts: int

    def __post_init__(self) -> None:
        if not 1 < self.parts <= _MOST_PARTS:
            raise ValueError(f"a table has 2 to {_MOST_PARTS} partitions by hash, not {self.parts}")


Partitions = ByTime | ByHash


def _within(moment: date) -> date:
    """The moment, or one beyond the same end where Python could not reckon with it."""
    if date.min.year < moment.year < date.max.year:
        return moment
    return date(2, 1, 1) if moment.year == date.min.year else _UNTIL
