"""Records to JSON and back; unknown fields are refused."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, TypeVar

import msgspec

from engine.errors import InputError

R = TypeVar("R")


def to_json(record: Any) -> bytes:
    """A record, or a tuple or dict of records, as UTF-8 JSON."""
    return msgspec.json.encode(record, enc_hook=_name_of_type)


def to_plain(record: Any) -> Any:
    """A record as dicts, lists and plain values; a type stands as its name."""
    return msgspec.to_builtins(record, enc_hook=_name_of_type)


def from_json(text: bytes | str, kind: type[R]) -> R:
    """A record of the given kind.

    Raises:
        InputError: text that is not JSON, or that does not fit the record.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise InputError(f"This is not a {kind.__name__} record: {error}.") from error


def from_plain(value: Any, kind: type[R]) -> R:
    """A record of the given kind from dicts, lists and plain values.

    Raises:
        InputError: a value that does not fit the record.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"This is not a {kind.__name__} record: {error}.") from error


def content_id(*parts: Any) -> str:
    """A short name for content: the first 16 hex digits of the SHA-256 of its canonical JSON."""
    encoded = msgspec.json.encode(parts, order="sorted")
    return hashlib.sha256(encoded).hexdigest()[:16]


def replace(record: R, **changes: Any) -> R:
    """A copy of a frozen record with some fields changed."""
    return dataclasses.replace(record, **changes)  # type: ignore[type-var]


def _name_of_type(value: Any) -> str:
    if isinstance(value, type):
        return value.__name__
    raise TypeError(f"A record holds plain values only, got {type(value).__name__}.")
