"""A flow of which PostgreSQL has less to do than Python: twenty fields, and validators of its own."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, field_validator, model_validator
from sqlalchemy.orm import Mapped, mapped_column

from models.flow import Flow
from models.tables import LoadedRow

Name = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40, pattern=r"^[A-Za-z0-9 .-]+$")
]


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("has to be even")
    return value


class HeavyRecord(BaseModel):
    id: int = Field(ge=0)
    at: datetime
    site: Name
    unit: Name
    operator: Name
    product: Name
    batch: Name
    remark: Name
    a: Annotated[int, AfterValidator(_even)]
    b: Annotated[int, AfterValidator(_even)]
    c: Annotated[int, AfterValidator(_even)]
    d: Annotated[int, AfterValidator(_even)]
    weight: Decimal = Field(max_digits=12, decimal_places=3)
    price: Decimal = Field(max_digits=12, decimal_places=2)
    low: float
    high: float
    first: datetime
    last: datetime
    ok: bool
    code: Name

    @field_validator("site", "unit", "operator", "product", "batch")
    @classmethod
    def no_double_blanks(cls, value: str) -> str:
        return " ".join(value.split())

    @model_validator(mode="after")
    def in_order(self) -> "HeavyRecord":
        if self.low > self.high or self.first > self.last:
            raise ValueError("the lower bound is above the upper one")
        return self


class HeavyReport(LoadedRow):
    __tablename__ = "heavy_reports"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    site: Mapped[str]
    unit: Mapped[str]
    operator: Mapped[str]
    product: Mapped[str]
    batch: Mapped[str]
    remark: Mapped[str]
    a: Mapped[int]
    b: Mapped[int]
    c: Mapped[int]
    d: Mapped[int]
    weight: Mapped[Decimal]
    price: Mapped[Decimal]
    low: Mapped[float]
    high: Mapped[float]
    first: Mapped[datetime]
    last: Mapped[datetime]
    ok: Mapped[bool]
    code: Mapped[str]


FLOW = Flow(record=HeavyRecord, table=HeavyReport, newest_by="at")
