"""Field types: strict for what partners send, where leniency would corrupt; exact for what we send.

Each is a plain annotation for a field of a Pydantic model or TypedDict, and each runs
wholly inside pydantic-core.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, PlainSerializer, StringConstraints
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

# A day inside Python's range, so that a shift to UTC cannot leave it.
EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)

# A date and a time of day. Without it pydantic reads "1494012444" as seconds since 1970.
_ISO_TIME = r"^\d{4,6}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?([Zz]|[+-]\d{2}:?\d{2})?$"


@dataclass(frozen=True, slots=True)
class IsoTime:
    """A `datetime` read from ISO 8601 text (RFC 3339, offsets without colon too).

    naive: the time zone of a time without offset; `None` rejects such a time.
    """

    naive: tzinfo | None = None

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.custom_error_schema(
            core_schema.str_schema(strict=True, strip_whitespace=True, pattern=_ISO_TIME),
            custom_error_type="iso_time",
            custom_error_message="Input should be a time as ISO 8601 text, like 2022-05-05T22:02:34Z",
        )
        naive = self.naive
        if naive is None:
            return core_schema.chain_schema(
                [text, core_schema.datetime_schema(tz_constraint="aware", ge=EARLIEST, le=LATEST)]
            )

        def localise(value: datetime) -> datetime:
            return value if value.tzinfo else value.replace(tzinfo=naive)

        in_range = core_schema.datetime_schema(ge=EARLIEST, le=LATEST)
        return core_schema.chain_schema([text, in_range, core_schema.no_info_plain_validator_function(localise)])

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "date-time"}


@dataclass(frozen=True, slots=True)
class IsoDay:
    """A `date` from ISO 8601 text; pydantic alone reads 1767225600 and "1767225600" as dates too."""

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.custom_error_schema(
            core_schema.str_schema(strict=True, strip_whitespace=True, pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"),
            custom_error_type="iso_date",
            custom_error_message="Input should be a date as ISO 8601 text, like 2022-05-05",
        )
        return core_schema.chain_schema([text, core_schema.date_schema()])

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "date"}


_BLANK = r"[ \t\r\n]*"
"""What may stand around digits; Unicode has far more that counts as white space."""


# What is of the right kind goes on as it came, and only then its range is looked at: so an error shows the value as it
# was sent. Bounds are the type's own, as each that stands beside it as `Field(ge=0)` is a call of a Python function.


@dataclass(frozen=True, slots=True)
class WholeNumber:
    """An `int` from a JSON number without fraction (3 and 3.0, never 1.9 or true).

    from_text: digits in a string count as well ("123").
    ge, le: the least and the greatest; alone, what fits a PostgreSQL `integer`.
    """

    from_text: bool = False
    ge: int = -(2**31)
    le: int = 2**31 - 1

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        choices: list[CoreSchema | tuple[CoreSchema, str]] = [
            core_schema.int_schema(strict=True),
            core_schema.chain_schema([core_schema.float_schema(strict=True), core_schema.int_schema()]),
        ]
        if self.from_text:
            choices.append(core_schema.str_schema(strict=True, pattern=rf"^{_BLANK}[+-]?[0-9]{{1,20}}{_BLANK}$"))
        number = core_schema.custom_error_schema(
            core_schema.union_schema(choices, mode="left_to_right"),
            custom_error_type="whole_number",
            custom_error_message="Input should be a whole number" + (" or its digits as text" * self.from_text),
        )
        return core_schema.chain_schema([number, core_schema.int_schema(ge=self.ge, le=self.le)])

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        kind: str | list[str] = ["integer", "string"] if self.from_text else "integer"
        return {"type": kind, "minimum": self.ge, "maximum": self.le}


@dataclass(frozen=True, slots=True)
class DecimalNumber:
    """A `Decimal` from a JSON number or its digits as text, never by way of a float.

    The flow has to declare `exact_numbers`, or a number with a fraction arrives as a float
    and is rejected.

    ge: the least. max_digits, decimal_places: as those of `pydantic.Field`.
    """

    ge: int | None = None
    max_digits: int | None = None
    decimal_places: int | None = None

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        digits = r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?"
        choices: list[CoreSchema | tuple[CoreSchema, str]] = [
            core_schema.decimal_schema(strict=True, allow_inf_nan=False),
            core_schema.int_schema(strict=True),
            core_schema.str_schema(strict=True, pattern=rf"^{_BLANK}{digits}{_BLANK}$"),
        ]
        number = core_schema.custom_error_schema(
            core_schema.union_schema(choices, mode="left_to_right"),
            custom_error_type="decimal_number",
            custom_error_message="Input should be a number, or its digits as text",
        )
        least = None if self.ge is None else Decimal(self.ge)
        bounds = core_schema.decimal_schema(ge=least, max_digits=self.max_digits, decimal_places=self.decimal_places)
        return core_schema.chain_schema([number, bounds])

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": ["number", "string"]} | ({} if self.ge is None else {"minimum": self.ge})


ExactNumber = Annotated[Decimal, DecimalNumber()]
"""A decimal number, every digit kept."""

Instant = Annotated[datetime, IsoTime()]
"""A moment: ISO 8601 text with `Z` or an offset; a naive time is rejected."""

UtcInstant = Annotated[datetime, IsoTime(naive=UTC)]
"""A moment from a partner whose naive times are UTC."""

IsoDate = Annotated[date, IsoDay()]
"""A day: ISO 8601 text like 2022-05-05, no number and no time."""

Int32 = Annotated[int, WholeNumber()]
"""A whole number that fits a PostgreSQL `integer`."""

Int32OrText = Annotated[int, WholeNumber(from_text=True)]
"""As `Int32`, its digits in a string accepted too."""

# PostgreSQL's text holds every character but NUL.
Text = Annotated[str, StringConstraints(strict=True, min_length=1, pattern=r"^[^\x00]*$")]
"""Text, not empty, without NUL."""

Flag = Annotated[bool, Field(strict=True)]
"""true or false, nothing that merely looks like it."""

Int64 = Annotated[int, WholeNumber(ge=-(2**63), le=2**63 - 1)]
"""A whole number that fits a PostgreSQL `bigint`."""

Int64OrText = Annotated[int, WholeNumber(from_text=True, ge=-(2**63), le=2**63 - 1)]
"""As `Int64`, its digits in a string accepted too."""


# How a value looks in what we send.


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
