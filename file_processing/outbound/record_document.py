"""The document of a flow that passes its records on: the record's fields, by the names under which they come."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import AliasChoices, AliasPath, BaseModel, Field, create_model
from pydantic.fields import FieldInfo
from sqlalchemy import Column

from models.field_types import DecimalText, UtcText
from models.flow import Flow

_WRITTEN_AS: Mapping[type, Any] = {datetime: UtcText, Decimal: DecimalText}


def record_document(flow: Flow) -> type[BaseModel]:
    """A model of the flow's columns that writes each under its field's first name."""
    fields: dict[str, Any] = {}
    for name in flow.columns:
        fields[name] = (_type(flow.sql_table.columns[name]), Field(serialization_alias=_sent_as(flow, name)))
    return create_model(f"{flow.name}_document", **fields)


def _type(column: Column[Any]) -> Any:
    python = column.type.python_type
    written = _WRITTEN_AS.get(python, Any if python is dict else python)
    return written | None if column.nullable else written


def _sent_as(flow: Flow, name: str) -> str:
    field: FieldInfo | None = None
    if issubclass(flow.record, BaseModel):
        field = flow.record.model_fields.get(name)
    if field is None:
        return name
    alias = field.serialization_alias or field.validation_alias
    while isinstance(alias, AliasChoices):
        alias = alias.choices[0]
    return str(alias.path[0]) if isinstance(alias, AliasPath) else alias or name
