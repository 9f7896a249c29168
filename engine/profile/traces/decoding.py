"""From the events of a file to columns, a stretch at a time; no object outlives its stretch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from engine.errors import InputError
from engine.profile.traces.categories import DATA_LOADING, is_communication, is_loading, todays
from engine.profile.traces.columns import Codes, Columns, Ints, MemoryEvents, ThreadFacts
from engine.profile.traces.facts import facts_of
from engine.profile.traces.format import (
    FROM_1970_US,
    NONE,
    DeviceArgs,
    Instant,
    MemoryArgs,
    Naming,
    NamingArgs,
    OperatorArgs,
    PythonArgs,
    RuntimeArgs,
    Timed,
    args_in,
)
from engine.profile.traces.reading import TraceText
from engine.profile.traces.values import Coded, all_are, first_of, number, numbers, text_of, whole

_ROW = msgspec.structs.astuple
# Beyond 60 years of microseconds a stamp is no stamp; nanoseconds of it still fit 63 bits.
_MAX_US = 2e15
_ARGS: dict[str, type[Any]] = {
    "runtime": RuntimeArgs, "kernel": DeviceArgs, "gpu_memcpy": DeviceArgs,
    "gpu_memset": DeviceArgs, "python_function": PythonArgs,
}  # fmt: skip
# Columns that arguments fill: their type, and what stands where nothing was recorded.
_NUMBERS: dict[str, tuple[type[Any], float]] = {
    "external": (np.int64, -1), "correlation": (np.int64, -1), "sequence": (np.int64, -1),
    "python": (np.int64, -1), "python_parent": (np.int64, -1), "python_module": (np.int32, -1),
    "device": (np.int32, -1), "stream": (np.int32, -1), "bytes": (np.int64, -1),
    "elements": (np.int64, -1), "group_size": (np.int32, -1),
    "blocks_per_sm": (np.float32, math.nan), "occupancy": (np.float32, math.nan),
}  # fmt: skip
_PROCESS = ("process_name", "process_labels")
_TEXTS = ("shapes", "dtypes", "stack", "grid", "block", "collective", "message_dtype")


class _Parts:
    """Stretches of columns, with the rows that each stands for."""

    def __init__(self) -> None:
        self.values: dict[str, list[tuple[Ints, NDArray[Any]]]] = {}

    def add(self, name: str, rows: Ints, values: NDArray[Any]) -> None:
        """A stretch of one column."""
        self.values.setdefault(name, []).append((rows, values))

    def whole(self, name: str, length: int, kind: type[Any], missing: float) -> NDArray[Any]:
        """The column, and what is missing where no stretch has a row."""
        found = np.full(length, missing, dtype=kind)
        for rows, values in self.values.pop(name, []):
            found[rows] = values
        return found


def read_columns(path: Path, *, progress: Callable[[int], None] | None = None) -> Columns:
    """The timed events and the allocations of a trace, `.json` or `.json.gz`.

    Args:
        path: the file.
        progress: called with the bytes of text that were read so far.

    Raises:
        InputError: a file that is missing, empty, cut short, too large or no trace, in one line.
    """
    text = TraceText(path)
    decoder = _Decoder(text)
    for events in text.stretches():
        decoder.add(events)
        if progress is not None:
            progress(text.bytes_read)
    found = decoder.columns(path.name)
    found.facts = facts_of(text.head)
    found.base_ns = int(number(text.head.base_ns, 0.0))
    return found


class _Decoder:
    def __init__(self, text: TraceText) -> None:
        self.text = text
        self.names, self.categories, self.threads = Coded(), Coded(), Coded()
        self.texts = Coded({b"": 0})
        self.parts = _Parts()
        self.base: list[tuple[NDArray[Any], ...]] = []
        self.moments: list[tuple[NDArray[Any], ...]] = []
        self.naming: dict[tuple[str, str, str], str] = {}
        self.rows = self.read = 0

    def add(self, events: list[Any]) -> None:
        """Keeps what is read of these events."""
        self.read += len(events)
        timed = [each for each in events if type(each) is Timed]
        if timed:
            self._add_timed(timed)
        if len(timed) == len(events):
            return
        moments = [each for each in events if type(each) is Instant and each.name == "[memory]"]
        if moments:
            self._add_moments(moments)
        self._add_naming([each for each in events if type(each) is Naming])

    def _add_timed(self, events: list[Timed]) -> None:
        length = len(events)
        category, name, process, thread, stamp, long, args = zip(*map(_ROW, events), strict=True)
        categories = self.categories.of(category, length)
        self.base.append((
            self.names.of(name, length), categories,
            self.threads.of(list(zip(process, thread, strict=True)), length),
            self._stamps(stamp), numbers(long, 0.0),
        ))  # fmt: skip
        kinds = [_ARGS.get(todays(each), OperatorArgs) for each in self.categories]
        for kind in dict.fromkeys(kinds):
            wanted = np.array([each is kind for each in kinds])
            rows = np.flatnonzero(wanted[categories])
            if len(rows):
                self._add_args(args_in([args[row] for row in rows.tolist()], kind), rows, kind)
        self.rows += length

    def _stamps(self, values: Sequence[Any]) -> NDArray[np.float64]:
        found = numbers(values, math.nan)
        if self.text.origin_us is None:
            return found
        # The rest of them were whole numbers.
        return np.where(found > FROM_1970_US, found - self.text.origin_us, found)

    def _add_args(self, args: list[Any], rows: Ints, kind: type[Any]) -> None:
        columns: dict[str, Sequence[Any]] = dict(
            zip(kind.__struct_fields__, zip(*map(_ROW, args), strict=True), strict=True)
        )
        rows = rows + self.rows
        before = columns.pop("external_before", ())
        if not all_are(None, before):
            columns["external"] = first_of(columns["external"], before)
        before = columns.pop("shapes_before", ())
        if not all_are(NONE, before):
            columns["shapes"] = first_of(columns["shapes"], before, NONE)
        if "elements_in" in columns:
            sent, received = columns.pop("elements_in"), columns.pop("elements_out")
            most = np.fmax(numbers(sent, -1.0), numbers(received, -1.0))
            self.parts.add("elements", rows, whole(most))
            columns["message_dtype"] = columns.pop("dtype")
        if "forward_thread" in columns:
            self.parts.add("is_backward", rows, numbers(columns.pop("forward_thread"), 0.0) > 0)
        for name, values in columns.items():
            if all_are(NONE, values) or all_are(None, values):
                continue
            if isinstance(values[0], Raw):
                coded = self.texts.of(list(map(bytes, values)), len(values))
                self.parts.add(name, rows, coded)
            else:
                kind_of, missing = _NUMBERS[name]
                limit = 2.0**62 if kind_of is np.int64 else 2.0**31 - 1
                read = numbers(values, missing)
                self.parts.add(name, rows, np.where(np.abs(read) < limit, read, missing))

    def _add_moments(self, moments: list[Instant]) -> None:
        args = args_in([each.args for each in moments], MemoryArgs)
        columns = zip(*map(_ROW, args), strict=True)
        reserved, allocated, size, address, device, kind = (numbers(each, -1.0) for each in columns)
        lines = [(each.pid, each.tid) for each in moments]
        self.moments.append((
            self._stamps([each.ts for each in moments]), size, address,
            np.where(kind > 0, device, -1), allocated, reserved,
            self.threads.of(lines, len(lines)),
        ))  # fmt: skip

    def _add_naming(self, events: list[Naming]) -> None:
        for event, args in zip(
            events, args_in([each.args for each in events], NamingArgs), strict=True
        ):
            shown = args.name if args.name is not None else args.labels
            if shown is not None:
                self.naming[(str(event.name), str(event.pid), str(event.tid))] = str(shown)

    def columns(self, file: str) -> Columns:
        """All that was kept, sorted."""
        if not self.rows:
            raise InputError(f"{file} holds no timed events: it is no trace of torch.profiler.")
        name, category, thread, stamp, long = map(np.concatenate, zip(*self.base, strict=True))
        self.base.clear()
        usable = (np.abs(stamp) < _MAX_US) & (long < _MAX_US / 2)  # NaN is neither
        if not usable.any():
            raise InputError(f"{file} is no trace of torch.profiler: no event has a usable time.")
        origin = float(stamp[usable].min())
        threads, thread_code = self._threads()
        start = _nanoseconds(np.where(usable, stamp, origin) - origin)
        # Negative lengths are a profiler's fault; nothing takes less than no time.
        end = start + _nanoseconds(np.where(usable, np.maximum(long, 0.0), 0.0))
        thread = thread_code[thread]
        order = _sorted(thread, start, end)
        if not usable.all():
            order = order[usable[order]]
        categories, category = self._categories(name, category)
        length = self.rows
        filled: dict[str, Any] = {
            each: self.parts.whole(each, length, kind, missing)[order]
            for each, (kind, missing) in _NUMBERS.items()
        }
        filled |= {each: self.parts.whole(each, length, np.int32, 0)[order] for each in _TEXTS}
        return Columns(
            names=[str(each) for each in self.names],
            categories=categories,
            texts=[text_of(each) for each in self.texts],
            threads=threads,
            name=name[order],
            category=category[order],
            start=start[order],
            end=end[order],
            thread=thread[order],
            is_backward=self.parts.whole("is_backward", length, np.bool_, 0)[order],
            memory=self._memory(origin, thread_code),
            read=self.read,
            dropped=int(length - usable.sum()),
            origin_us=origin + (self.text.origin_us or 0),
            **filled,
        )

    def _threads(self) -> tuple[list[ThreadFacts], Codes]:
        """Lines of the trace; one that is written as a number here and as text there is one."""
        lines = Coded()
        codes = lines.of([(str(p), str(t)) for p, t in self.threads], len(self.threads))
        named = self.naming.get
        facts = [
            ThreadFacts(
                p, t,
                " ".join(filter(None, (named((kind, p, "0")) for kind in _PROCESS))),
                named(("thread_name", p, t), ""),
            )
            for p, t in lines
        ]  # fmt: skip
        return facts, codes

    def _categories(self, name: Codes, category: Codes) -> tuple[list[str], Codes]:
        """Today's categories, and those of ours that names tell."""
        coded = Coded()
        found = coded.of([todays(each) for each in self.categories], len(self.categories))[category]
        for wanted, mark, among in (
            (DATA_LOADING, is_loading, None), ("communication", is_communication, coded["kernel"]),
        ):  # fmt: skip
            marked = np.array([mark(str(each)) for each in self.names])[name]
            if among is not None:
                marked &= found == among
            found[marked] = coded[wanted]
        return list(coded), found

    def _memory(self, origin: float, threads: Codes) -> MemoryEvents:
        if not self.moments:
            none = np.zeros(0, dtype=np.int64)
            few = np.zeros(0, dtype=np.int32)
            return MemoryEvents(none, none, none, few, none, none, few)
        stamp, size, address, device, allocated, reserved, thread = map(
            np.concatenate, zip(*self.moments, strict=True)
        )
        usable = np.flatnonzero(np.abs(stamp) < _MAX_US)
        order = usable[np.argsort(stamp[usable], kind="stable")]
        return MemoryEvents(
            time=_nanoseconds(stamp[order] - origin),
            bytes=whole(size[order]),
            address=whole(address[order]),
            device=whole(device[order]).astype(np.int32),
            allocated=whole(allocated[order]),
            reserved=whole(reserved[order]),
            thread=threads[thread[order]],
        )


def _nanoseconds(microseconds: NDArray[np.float64]) -> Ints:
    # The difference is taken first: nanoseconds since 1970 do not fit a float's 53 bits.
    return np.rint(1e3 * microseconds).astype(np.int64)


def _sorted(thread: Codes, start: Ints, end: Ints) -> Ints:
    """By thread, start, and the longest first; files are nearly sorted, and few rows tie."""
    order = np.argsort(start, kind="stable")
    order = order[np.argsort(thread[order], kind="stable")]
    tied = (np.diff(start[order]) == 0) & (np.diff(thread[order]) == 0)
    if tied.any():
        among = np.flatnonzero(np.append(tied, False) | np.insert(tied, 0, False))
        rows = order[among]
        order[among] = rows[np.lexsort((-end[rows], start[rows], thread[rows]))]
    return order
