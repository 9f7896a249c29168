"""A timeline from the history that CUDA's caching allocator recorded; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from engine.profile.memory.lives import Label, Lives, pair_by_address
from engine.profile.memory.timeline import timeline
from engine.records import MemoryTimeline

_FRAMES = 10
_NO_FRAMES = "no Python frame (a library's own or autograd's thread)"
_MiB = 1 << 20


class Place(NamedTuple):
    """Where in the code a block was allocated: Python frames, innermost first."""

    frames: tuple[str, ...]
    module: str
    operator: str
    category: str


@dataclass(frozen=True)
class History:
    """What one device's history tells."""

    timeline: MemoryTimeline | None
    oom: tuple[str, ...]


def place_of(frames: Any) -> Place:
    """The place of a stack: the function of torch that allocated, and the line that called it."""
    if not isinstance(frames, list | tuple):
        frames = ()
    python = [each for each in frames if str(each.get("filename", "")).endswith(".py")]
    shown = tuple(_text(each) for each in python[:_FRAMES])
    own = next((each for each in python if not _is_torch(each)), None)
    inner = python[0] if python else None
    return Place(
        shown,
        _text(own) if own is not None else (shown[0] if shown else _NO_FRAMES),
        str(inner.get("name", "")) if inner is not None and _is_torch(inner) else "",
        _category(python),
    )


def history_of(entries: Any, device: int, *, allocated: int) -> History:
    """The timeline of a device's entries.

    Args:
        entries: of `device_traces`.
        device: its number.
        allocated: bytes in use when the snapshot was taken.
    """
    size: list[int] = []
    address: list[int] = []
    times: list[float] = []
    places: list[Place | None] = []
    oom: list[str] = []
    seen: dict[int, Place] = {}
    for entry in entries:
        action = entry.get("action")
        if action == "oom":
            oom.append(_oom(entry))
        if action not in ("alloc", "free_completed"):
            continue
        frames = entry.get("frames")
        key = id(frames)
        if action == "alloc" and key not in seen:
            seen[key] = place_of(frames)
        size.append(int(entry["size"]) if action == "alloc" else -int(entry["size"]))
        address.append(int(entry["addr"]))
        times.append(float(entry.get("time_us", len(times) * 1e3)))
        places.append(seen[key] if action == "alloc" else None)
    if not size:
        return History(None, tuple(oom))
    sizes, clock = np.array(size, dtype=np.int64), np.array(times)
    births, died = pair_by_address(sizes, np.array(address, dtype=np.int64))
    labels: dict[Label, int] = {}
    label = []
    for birth, end in zip(births.tolist(), died.tolist(), strict=True):
        place = places[birth] or place_of(())
        category = place.category
        if category == "gradients" and end < len(size):
            category = "activation gradients"  # of parameters they stay until the next step
        made = Label(category, place.module, place.operator)
        label.append(labels.setdefault(made, len(labels)))
    before = max(allocated - int(sizes.sum()), -int(np.cumsum(sizes).min()), 0)
    lives = Lives(
        sizes=sizes[births], born=births, died=died, labels=list(labels),
        label=np.array(label, dtype=np.int64), times=(clock - clock[0]) / 1e3,
        unit="ms" if any("time_us" in each for each in entries) else "allocations and frees",
        before={"before the trace": before} if before else {},
    )  # fmt: skip
    return History(timeline(lives, basis="snapshot", device=f"cuda:{device}"), tuple(oom))


def _oom(entry: dict[str, Any]) -> str:
    asked = int(entry.get("size", 0)) / _MiB
    free = entry.get("device_free", entry.get("addr"))
    left = f", {int(free) / _MiB:,.0f} MiB were free on the device" if free else ""
    where = place_of(entry.get("frames")).module
    return f"{asked:,.0f} MiB were asked for{left}: {where}."


def _is_torch(frame: dict[str, Any]) -> bool:
    name = str(frame.get("filename", "")).replace("\\", "/")
    return "/torch/" in name or name.startswith("torch/")


def _text(frame: dict[str, Any]) -> str:
    name = str(frame.get("filename", "")).replace("\\", "/")
    short = "/".join(name.split("/")[-2:])[:120]
    return f"{short}:{frame.get('line', 0)} {str(frame.get('name', ''))[:80]}"


def _category(python: list[dict[str, Any]]) -> str:
    """What the frames tell of the memory's purpose; the innermost that tells counts."""
    for each in python:
        file, name = str(each.get("filename", "")).replace("\\", "/"), str(each.get("name", ""))
        if "/torch/optim/" in file:
            return "optimizer state"
        if "backward" in name or "/torch/autograd/" in file:
            return "gradients"
        if file.endswith("nn/modules/module.py") and name in ("_apply", "convert", "to", "cuda"):
            return "weights"
        if name in ("reset_parameters", "load_state_dict", "from_pretrained"):
            return "weights"
        if name == "forward":
            return "activations"
    return "other"
