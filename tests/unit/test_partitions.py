"""Periods: every moment is in one, they follow one another, and what is beyond the ends is in none."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given, strategies as st

from models.partitions import ByTime, Every

MOMENTS = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))]))
DAYS = st.dates(date(2, 1, 1), date(9998, 1, 1))


@given(st.sampled_from(Every), DAYS)
def test_periods_follow_one_another(every: Every, day: date) -> None:
    start = every.start(day)
    after = every.after(start)
    assert start <= day < after
    assert every.start(start) == start
    assert every.start(after) == after
    assert every.start(after - timedelta(days=1)) == start


@given(st.sampled_from(Every), st.lists(MOMENTS, max_size=20))
def test_periods_hold_all_moments_between_the_ends(every: Every, moments: list[datetime]) -> None:
    by_time = ByTime("at", every)
    first, last = by_time.ends
    within = [m for m in moments if datetime(2000, 1, 1, tzinfo=UTC) <= m < datetime(2100, 1, 1, tzinfo=UTC)]
    starts = by_time.periods([*moments])
    assert starts == {every.start(moment) for moment in within}
    assert all(first <= start < last for start in starts)


@pytest.mark.parametrize(
    ("every", "day", "label"),
    [
        (Every.DAY, date(2026, 1, 31), "2026_01_31"),
        (Every.MONTH, date(2026, 1, 1), "2026_01"),
        (Every.MONTH, date(2026, 1, 6), "2026_01_06"),
        (Every.YEAR, date(2026, 1, 1), "2026"),
    ],
)
def test_a_partition_is_named_by_its_period(every: Every, day: date, label: str) -> None:
    assert every.label(day) == label
