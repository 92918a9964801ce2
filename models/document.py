"""Field types for what we send: how a value looks in a document."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import PlainSerializer


def utc_text(moment: datetime) -> str:
    """`2022-05-05T22:02:34.546Z`: milliseconds, microseconds only where there are any."""
    timespec = "microseconds" if moment.microsecond % 1000 else "milliseconds"
    return (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat(timespec=timespec)[:-6] + "Z"


def offset_text(moment: datetime) -> str:
    """`2024-05-02T08:00:00+00:00`: a fraction only where there is one."""
    return (moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat()


def decimal_text(number: Decimal) -> str:
    """`12.50`, never `1.25E+1`: text keeps every digit, a JSON number may not."""
    return format(number, "f")


UtcText = Annotated[datetime, PlainSerializer(utc_text, when_used="json")]
OffsetText = Annotated[datetime, PlainSerializer(offset_text, when_used="json")]
DecimalText = Annotated[Decimal, PlainSerializer(decimal_text, when_used="json")]
