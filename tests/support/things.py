"""A flow whose declaration a test makes up, apart from all other declarations."""

import dataclasses
from itertools import count

import sqlalchemy
from pydantic import BaseModel
from sqlalchemy import BigInteger, Engine, Integer, MetaData, String, Text
from sqlalchemy.orm import mapped_column

from models.flow import Flow
from models.outbound import Outbound
from models.tables import NAMING, LoadedRow

_number = count()


class Thing(BaseModel):
    code: str


def things(**columns: object) -> dict[str, Flow]:
    """A flow whose table `things` is declared with these columns."""
    members = {"__tablename__": "things", "metadata": MetaData(naming_convention=NAMING), **columns}
    table = type(f"Things{next(_number)}", (LoadedRow,), members)
    return {"things": Flow(record=Thing, table=table, name="things")}


def sending(declared: dict[str, Flow]) -> dict[str, Flow]:
    """The same, with outbound files."""
    outbound = Outbound(document=Thing, to_document=lambda row: row, file_name="{file_id}.json")
    return {name: dataclasses.replace(flow, outbound=(outbound,)) for name, flow in declared.items()}


def code() -> object:
    return mapped_column(Text, primary_key=True)


def before() -> dict[str, Flow]:
    return things(code=code(), size=mapped_column(Integer), old=mapped_column(Text, nullable=False))


def after() -> dict[str, Flow]:
    return things(
        code=code(),
        size=mapped_column(BigInteger, primary_key=True),
        colour=mapped_column(String(20), index=True),
    )


def columns(engine: Engine) -> dict[str, str]:
    """The columns of the table in the database, each with its type."""
    return {c["name"]: str(c["type"]) for c in sqlalchemy.inspect(engine).get_columns("things")}
