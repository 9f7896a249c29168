"""The events of torch.profiler in the JSON of Chrome's traces, decoded a stretch at a time."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, Union

import msgspec
from msgspec import Raw

NONE = Raw(b"")
_NO_ARGS = Raw(b"{}")
# What JSON does not know and older profilers wrote; Python's reader takes NaN and Infinity itself.
_NOT_AVAILABLE = re.compile(rb'(?<!")\bN/A\b(?!")')
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")


class Timed(msgspec.Struct, gc=False, tag="X", tag_field="ph"):
    """An event with a beginning and a length."""

    cat: Any = ""
    name: Any = ""
    pid: Any = ""
    tid: Any = ""
    ts: Any = None
    dur: Any = 0
    args: Raw = _NO_ARGS


class Instant(msgspec.Struct, gc=False, tag="i", tag_field="ph"):
    """A moment: an allocation where it is called `[memory]`."""

    name: Any = ""
    pid: Any = ""
    tid: Any = ""
    ts: Any = None
    args: Raw = _NO_ARGS


class Naming(msgspec.Struct, gc=False, tag="M", tag_field="ph"):
    """What a process or a thread is called."""

    name: Any = ""
    pid: Any = ""
    tid: Any = ""
    args: Raw = _NO_ARGS


class OperatorArgs(msgspec.Struct, gc=False):
    """What is told of an operator, an annotation and anything else that ran on the host."""

    external: Any = msgspec.field(default=None, name="External id")
    dtypes: Raw = msgspec.field(default=NONE, name="Input type")
    shapes: Raw = msgspec.field(default=NONE, name="Input Dims")
    sequence: Any = msgspec.field(default=None, name="Sequence number")
    forward_thread: Any = msgspec.field(default=None, name="Fwd thread id")
    stack: Raw = msgspec.field(default=NONE, name="Call stack")
    external_before: Any = msgspec.field(default=None, name="external id")
    shapes_before: Raw = msgspec.field(default=NONE, name="Input dims")


class RuntimeArgs(msgspec.Struct, gc=False):
    """What is told of a call of the device's runtime."""

    external: Any = msgspec.field(default=None, name="External id")
    correlation: Any = None
    external_before: Any = msgspec.field(default=None, name="external id")


class DeviceArgs(msgspec.Struct, gc=False):
    """What is told of a kernel, a copy or a fill."""

    external: Any = msgspec.field(default=None, name="External id")
    device: Any = None
    stream: Any = None
    correlation: Any = None
    bytes: Any = None
    blocks_per_sm: Any = msgspec.field(default=None, name="blocks per SM")
    grid: Raw = NONE
    block: Raw = NONE
    occupancy: Any = msgspec.field(default=None, name="est. achieved occupancy %")
    collective: Raw = msgspec.field(default=NONE, name="Collective name")
    elements_in: Any = msgspec.field(default=None, name="In msg nelems")
    elements_out: Any = msgspec.field(default=None, name="Out msg nelems")
    group_size: Any = msgspec.field(default=None, name="Group size")
    dtype: Raw = msgspec.field(default=NONE, name="dtype")
    external_before: Any = msgspec.field(default=None, name="external id")


class PythonArgs(msgspec.Struct, gc=False):
    """What is told of a Python function."""

    python_parent: Any = msgspec.field(default=None, name="Python parent id")
    python: Any = msgspec.field(default=None, name="Python id")
    python_module: Any = msgspec.field(default=None, name="Python module id")


class MemoryArgs(msgspec.Struct, gc=False):
    """What is told of an allocation or a free."""

    total_reserved: Any = msgspec.field(default=None, name="Total Reserved")
    total_allocated: Any = msgspec.field(default=None, name="Total Allocated")
    bytes: Any = msgspec.field(default=None, name="Bytes")
    address: Any = msgspec.field(default=None, name="Addr")
    device: Any = msgspec.field(default=None, name="Device Id")
    device_type: Any = msgspec.field(default=None, name="Device Type")


class NamingArgs(msgspec.Struct, gc=False):
    """A process's or thread's name, or its label ("GPU 0")."""

    name: Any = None
    labels: Any = None


class Head(msgspec.Struct):
    """What a file says of itself beside its events."""

    devices: Any = msgspec.field(default=None, name="deviceProperties")
    distributed: Any = msgspec.field(default=None, name="distributedInfo")
    base_ns: Any = msgspec.field(default=None, name="baseTimeNanoseconds")
    record_shapes: Any = None
    with_stack: Any = None
    profile_memory: Any = None
    host: Any = msgspec.field(default=None, name="host_name")


def _passed_over(phase: str) -> type[msgspec.Struct]:
    return msgspec.defstruct(f"Passed{ord(phase)}", [], tag=phase, tag_field="ph", gc=False)


_KINDS: dict[str, type[Any]] = {"X": Timed, "i": Instant, "I": Instant, "M": Naming}
# Arrows and counters: known, so that they cost nothing more than their commas.
_PASSED_OVER = tuple(_passed_over(each) for each in "sftbenSTpFPNODBERcVvC(),")
_EVENTS: Any = list[Union[(Timed, Instant, Naming, *_PASSED_OVER)]]  # type: ignore[valid-type]
_DECODER: Any = msgspec.json.Decoder(_EVENTS)
# Microseconds that a float cannot hold to the nanosecond: since 1970, with digits behind the point.
_LONG_STAMP = re.compile(rb'"ts"\s*:\s*(\d{14,})\.\d')
FROM_1970_US = 1e13
_LOOSE = msgspec.json.Decoder(list[Any])
_HEAD = msgspec.json.Decoder(Head)
_ARGS: dict[type[Any], Any] = {
    each: msgspec.json.Decoder(list[each])  # type: ignore[valid-type]
    for each in (OperatorArgs, RuntimeArgs, DeviceArgs, PythonArgs, MemoryArgs, NamingArgs)
}


class CutShort(Exception):
    """The text ends inside a value."""


class Malformed(Exception):
    """The text is no JSON, wherever it would end."""


class Ended(Exception):
    """The list ends before the text does.

    Attributes:
        at: where the rest begins.
    """

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


def origin_in(text: bytes) -> int | None:
    """What to take from stamps so that they keep their nanoseconds; None where they do."""
    found = _LONG_STAMP.search(text)
    return None if found is None else int(found[1])


def decoder_from(origin_us: int | None) -> Any:
    """A decoder of events whose long stamps are microseconds since `origin_us`."""
    if origin_us is None:
        return _DECODER

    def stamp(text: str) -> float:
        short = float(text)
        return short if short < FROM_1970_US else float(Decimal(text) - origin_us)

    return msgspec.json.Decoder(_EVENTS, float_hook=stamp)


def events_in(text: bytes, decoder: Any = _DECODER) -> list[Any]:
    """The events of a JSON list; those that nobody reads are objects of other types.

    Args:
        text: the list.
        decoder: what `decoder_from` returned.

    Raises:
        CutShort: the text ends inside the list.
        Ended: the list ends inside the text.
        Malformed: it is no list.
    """
    try:
        return decoder.decode(text)  # type: ignore[no-any-return]
    except msgspec.ValidationError:
        return [_event(each) for each in _any_list(text)]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _raise_for_end(error)
        return [_event(each) for each in _any_list(text)]


def args_in(raws: list[Raw], kind: type[Any]) -> list[Any]:
    """The arguments of some events, as that kind."""
    try:
        return _ARGS[kind].decode(b"[" + b",".join(raws) + b"]")  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [_one(each, kind) for each in raws]


def head_in(text: bytes) -> Head:
    """What the file says of itself; empty where that cannot be read."""
    try:
        return _HEAD.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Head()


def _one(raw: Raw, kind: type[Any]) -> Any:
    try:
        return _ARGS[kind].decode(b"[" + bytes(raw) + b"]")[0]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return kind()


def _any_list(text: bytes) -> list[Any]:
    try:
        return _LOOSE.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _raise_for_end(error)
    # As long as what it stands for, so that places stay.
    readable = _NOT_AVAILABLE.sub(b"NaN", text)
    try:
        found = json.loads(readable.decode(errors="replace"), strict=False)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Extra data"):
            raise Ended(_list_end(readable)) from error
        if error.msg.startswith("Unterminated") or error.pos >= len(error.doc) - 2:
            raise CutShort from error
        raise Malformed(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error)) from error
    return found if isinstance(found, list) else []


def _raise_for_end(error: Exception) -> None:
    """Raises what msgspec says of the list's end; other errors are for a more patient reader."""
    if "truncated" in str(error):
        raise CutShort from error
    if found := _TRAILING.search(str(error)):
        raise Ended(int(found[1]) - 1) from error  # it counts from 1


def _list_end(text: bytes) -> int:
    shown = text.decode(errors="surrogateescape")
    _, end = json.JSONDecoder(strict=False).raw_decode(shown)
    return len(shown[:end].encode(errors="surrogateescape"))


def _event(value: Any) -> Any:
    """An event whose fields are not of the usual types; None where it cannot be one."""
    kind = _KINDS.get(str(value.get("ph"))) if isinstance(value, dict) else None
    if kind is None:
        return None
    known = {name: value[name] for name in kind.__struct_fields__ if name in value}
    args = known.get("args")
    # NaN becomes null here: msgspec writes it so.
    known["args"] = Raw(msgspec.json.encode(args)) if isinstance(args, dict) else _NO_ARGS
    return kind(**known)
