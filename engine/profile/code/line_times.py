"""What each line costs, in a run that is stopped at each of its lines and nowhere else."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter_ns
from types import CodeType, FrameType
from typing import Any

Key = tuple[str, int]


@dataclass
class LineTime:
    """A line's calls and nanoseconds: with all that it calls, and without other listed lines."""

    calls: float = 0.0
    total_ns: float = 0.0
    self_ns: float = 0.0

    def add(self, other: LineTime, weight: float) -> None:
        """Takes another's figures in, so many times."""
        self.calls += weight * other.calls
        self.total_ns += weight * other.total_ns
        self.self_ns += weight * other.self_ns


@dataclass
class LineTimes:
    """Lines by file and number, functions by their code object, and the whole."""

    lines: dict[Key, LineTime] = field(default_factory=lambda: defaultdict(LineTime))
    functions: dict[CodeType, LineTime] = field(default_factory=lambda: defaultdict(LineTime))
    whole_ns: float = 0.0

    def add(self, other: LineTimes, weight: float) -> None:
        """Takes another's figures in, each so many times."""
        self.whole_ns += weight * other.whole_ns
        for line, each in other.lines.items():
            self.lines[line].add(each, weight)
        for code, each in other.functions.items():
            self.functions[code].add(each, weight)


@dataclass(slots=True)
class _Open:
    """A function that is under way: the line that it is at, and since when."""

    code: CodeType
    key: Key | None
    since: int
    began: int


class LineTimer:
    """Times lines with Python's trace function; only wanted code is stopped at each line.

    What the timer itself takes is left out of the figures. Calls of other Python functions cost a
    fraction of a microsecond each, which falls on the line that makes them.

    Args:
        wanted: whether lines of this code are listed.
        synchronize: waits for the device, so that a line shows the work that it has queued.
    """

    def __init__(
        self, wanted: Callable[[CodeType], bool], synchronize: Callable[[], None] | None = None
    ) -> None:
        self._wanted = wanted
        self._known: dict[CodeType, bool] = {}
        self._synchronize = synchronize
        self._found = LineTimes()
        self._stack: list[_Open] = []
        self._depth: dict[Any, int] = defaultdict(int)
        self._last = 0
        self._lost = 0

    @contextmanager
    def timed(self) -> Iterator[LineTimes]:
        """Times what runs inside on this thread; a debugger that was there is put back."""
        before = sys.gettrace()
        self._found, self._stack = LineTimes(), []
        self._depth.clear()
        self._lost = 0
        self._last = began = perf_counter_ns()
        sys.settrace(self._called)
        try:
            yield self._found
        finally:
            sys.settrace(before)
            self._wait()
            self._found.whole_ns = perf_counter_ns() - began - self._lost

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        wanted = self._known.get(code)
        if wanted is None:
            wanted = self._known[code] = self._wanted(code)
        if not wanted:
            return None
        now = self._charge()
        self._found.functions[code].calls += 1
        self._depth[code] += 1
        self._stack.append(_Open(code, None, now - self._lost, now - self._lost))
        self._resume(now)
        return self._stopped

    def _stopped(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event in ("line", "return"):
            now = self._charge()
            clock = now - self._lost
            top = self._stack[-1]
            self._leave_line(top, clock)
            if event == "line":
                key = (top.code.co_filename, frame.f_lineno)
                self._depth[key] += 1
                # The turns of a comprehension on this line are no calls of it.
                self._found.lines[key].calls += self._depth[key] == 1
                top.key, top.since = key, clock
            else:
                self._stack.pop()
                self._depth[top.code] -= 1
                if not self._depth[top.code]:
                    self._found.functions[top.code].total_ns += clock - top.began
            self._resume(now)
        return self._stopped

    def _leave_line(self, top: _Open, clock: int) -> None:
        if top.key is None:
            return
        self._depth[top.key] -= 1
        # A line under way twice (recursion, a comprehension) is counted by the outer one.
        if not self._depth[top.key]:
            self._found.lines[top.key].total_ns += clock - top.since
        top.key = None

    def _charge(self) -> int:
        self._wait()
        now = perf_counter_ns()
        if self._stack:
            top = self._stack[-1]
            self._found.functions[top.code].self_ns += now - self._last
            if top.key is not None:
                self._found.lines[top.key].self_ns += now - self._last
        return now

    def _resume(self, now: int) -> None:
        self._last = perf_counter_ns()
        self._lost += self._last - now

    def _wait(self) -> None:
        if self._synchronize is not None:
            self._synchronize()
