"""What a trace file says of itself: ranks, devices, what was recorded."""

from __future__ import annotations

from typing import Any

from engine.profile.traces.columns import DeviceFacts, TraceFacts
from engine.profile.traces.format import Head


def facts_of(head: Head) -> TraceFacts:
    """The facts of a file's head, whatever is missing or odd in it."""
    job = head.distributed if isinstance(head.distributed, dict) else {}
    devices = head.devices if isinstance(head.devices, list) else []
    return TraceFacts(
        rank=_int(job.get("rank")),
        world_size=_int(job.get("world_size")),
        backend=_str(job.get("backend")),
        host=_str(head.host),
        devices=tuple(_device(each) for each in devices if isinstance(each, dict)),
        has_shapes=_flag(head.record_shapes),
        has_stacks=_flag(head.with_stack),
        has_memory=_flag(head.profile_memory),
    )


def _device(told: dict[str, Any]) -> DeviceFacts:
    major, minor = _int(told.get("computeMajor")), _int(told.get("computeMinor"))
    return DeviceFacts(
        index=_int(told.get("id")) or 0,
        name=_str(told.get("name")),
        memory_bytes=_int(told.get("totalGlobalMem")),
        capability="" if major is None else f"{major}.{minor or 0}",
        multiprocessors=_int(told.get("numSms")),
    )


def _int(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = int(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) < 2**63 else None


def _str(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _flag(value: Any) -> bool | None:
    found = _int(value) if not isinstance(value, bool) else int(value)
    return None if found is None else bool(found)
