"""Protobuf messages as plain dictionaries for `--json`: all fields, numbers stay numbers."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def to_plain(message: Message) -> dict[str, Any]:
    """Every field of `message`, unset ones with their default; bytes as hex."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return {key: _value(value[key]) for key in sorted(value)}
    if field.label == FieldDescriptor.LABEL_REPEATED:
        return [_value(item) for item in value]
    return _value(value)


def _value(value: Any) -> Any:
    if isinstance(value, Message):
        return to_plain(value)
    return value.hex() if isinstance(value, bytes) else value
