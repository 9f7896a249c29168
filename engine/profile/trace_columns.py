"""The events of a torch.profiler trace as columns, whatever the age of the format."""

from __future__ import annotations

import dataclasses
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError

Ints = NDArray[np.int64]
_MAX_BYTES = 4 << 30
# Today's name for each category of the older format.
_TODAY = {
    "operator": "cpu_op", "runtime": "cuda_runtime", "memcpy": "gpu_memcpy", "memset": "gpu_memset",
    "cuda_driver": "cuda_runtime", "privateuse1_runtime": "cuda_runtime",
}  # fmt: skip
_DATA_LOADING = "enumerate(DataLoader)"


class _Args(msgspec.Struct, gc=False):
    external: Any = msgspec.field(default=None, name="External id")
    external_before: Any = msgspec.field(default=None, name="external id")
    sequence: Any = msgspec.field(default=None, name="Sequence number")
    forward_thread: Any = msgspec.field(default=None, name="Fwd thread id")
    shapes: Any = msgspec.field(default=None, name="Input Dims")


class _Event(msgspec.Struct, gc=False):
    ph: str = ""
    name: Any = ""
    cat: str | None = None
    ts: Any = 0
    dur: Any = 0
    pid: Any = 0
    tid: Any = 0
    args: _Args | None = None


class _File(msgspec.Struct, gc=False):
    traceEvents: list[_Event]  # noqa: N815 - the name in the format


@dataclass
class Columns:
    """Timed events, one row each, sorted by thread, then start, the longest first.

    Attributes:
        names: distinct names; `name` indexes them.
        categories: distinct categories in today's words; `category` indexes them.
        start, end: nanoseconds since the first event.
        thread: a number for each (process, thread).
        external: the id that ties a kernel to its operator, -1 where there is none.
        sequence: autograd's number, -1 where there is none.
        is_backward: whether autograd ran it for a forward call with that number.
        shapes: input shapes as text, empty where not recorded.
        read: how many events of any kind the file holds.
    """

    names: list[str]
    categories: list[str]
    name: Ints
    category: Ints
    start: Ints
    end: Ints
    thread: Ints
    external: Ints
    sequence: Ints
    is_backward: NDArray[np.bool_]
    shapes: list[str]
    read: int

    def of(self, *categories: str) -> NDArray[np.bool_]:
        """Which rows are of these categories."""
        wanted = [index for index, each in enumerate(self.categories) if each in categories]
        return np.isin(self.category, wanted)

    def within(self, low: int, high: int) -> Columns:
        """The rows that begin in the half-open stretch of time."""
        rows = np.flatnonzero((self.start >= low) & (self.start < high))
        return dataclasses.replace(
            self,
            name=self.name[rows],
            category=self.category[rows],
            start=self.start[rows],
            end=self.end[rows],
            thread=self.thread[rows],
            external=self.external[rows],
            sequence=self.sequence[rows],
            is_backward=self.is_backward[rows],
            shapes=[self.shapes[row] for row in rows],
        )


def read_columns(path: Path) -> Columns:
    """The timed events of a trace, `.json` or `.json.gz`.

    Raises:
        InputError: a file that is missing, empty, cut short, too large or no trace, in one line.
    """
    events = _decoded(_content(path), path.name)
    timed = [each for each in events if each.ph == "X"]
    if not timed:
        raise InputError(f"{path.name} holds no timed events: it is no trace of torch.profiler.")
    try:
        return _columns(timed, len(events))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path.name} is no trace of torch.profiler: {error}.") from error


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path.name} is larger than 4 GiB.", hint="Trace fewer steps.")
        content = path.read_bytes()
        if content[:2] != b"\x1f\x8b":
            return content
        with gzip.open(path) as opened:
            unpacked = opened.read(_MAX_BYTES + 1)
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path.name} is cut short.", hint="Copy it again.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path.name} cannot be read: {reason}.") from error
    if len(unpacked) > _MAX_BYTES:
        raise InputError(f"{path.name} holds more than 4 GiB.", hint="Trace fewer steps.")
    return unpacked


def _decoded(content: bytes, name: str) -> list[_Event]:
    try:
        if content[:64].lstrip()[:1] == b"[":  # Chrome's format also allows a bare list
            return msgspec.json.decode(content, type=list[_Event])
        return msgspec.json.decode(content, type=_File).traceEvents
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # msgspec calls the end of a file that is cut short "truncated".
        reason = "is cut short" if "truncated" in str(error) else "is no trace of torch.profiler"
        detail = "it is empty" if not content.strip() else str(error)
        raise InputError(f"{name} {reason}: {detail}.".replace("..", ".")) from error


def _columns(timed: list[_Event], read: int) -> Columns:
    none = _Args()
    args = [each.args or none for each in timed]
    start = np.array([float(each.ts) for each in timed])
    # Subtracted before the change of unit: nanoseconds since 1970 do not fit a float's 53 bits.
    begun = start - start.min()
    long = np.array([float(each.dur or 0) for each in timed])
    starts = np.rint(1e3 * begun).astype(np.int64)
    ends = starts + np.rint(1e3 * long).astype(np.int64)
    names, name = _coded([str(each.name) for each in timed])
    categories, category = _coded([_category(each) for each in timed])
    _, thread = _coded([f"{each.pid}/{each.tid}" for each in timed])
    order = np.lexsort((-ends, starts, thread))
    forward = _ints([each.forward_thread for each in args])
    external = _ints(
        [each.external_before if each.external is None else each.external for each in args]
    )
    return Columns(
        names=names,
        categories=categories,
        name=name[order],
        category=category[order],
        start=starts[order],
        end=ends[order],
        thread=thread[order],
        external=external[order],
        sequence=_ints([each.sequence for each in args])[order],
        is_backward=(forward > 0)[order],
        shapes=[_shapes(args[index].shapes) for index in order],
        read=read,
    )


def _category(event: _Event) -> str:
    found = (event.cat or "").lower()
    if str(event.name).startswith(_DATA_LOADING):
        return "data_loading"
    if found in ("kernel", "gpu_memcpy") and "nccl" in str(event.name).lower():
        return "communication"
    return _TODAY.get(found, found)


def _coded(values: list[str]) -> tuple[list[str], Ints]:
    codes: dict[str, int] = {}
    coded = [codes.setdefault(each, len(codes)) for each in values]
    return list(codes), np.array(coded, dtype=np.int64)


def _ints(values: list[Any]) -> Ints:
    return np.array([-1 if each in (None, "") else int(each) for each in values], dtype=np.int64)


def _shapes(value: Any) -> str:
    return "" if value is None else str([each for each in value if each])[:300]
