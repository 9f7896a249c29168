"""Time is charged to the line that spends it; the lines themselves turn the clock."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType

import pytest

from engine.profile.code import line_times
from engine.profile.code.line_times import LineTimer, LineTimes

_clock = [0]


def tick(nanoseconds: int) -> int:
    """Lets that much time pass."""
    _clock[0] += nanoseconds
    return nanoseconds


@pytest.fixture(autouse=True)
def _own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    _clock[0] = 0
    monkeypatch.setattr(line_times, "perf_counter_ns", lambda: _clock[0])


def outer(depth: int = 0) -> None:
    tick(10)
    inner()
    [tick(each) for each in (1, 2, 3)]
    if depth:
        outer(depth - 1)


def inner() -> None:
    tick(5)
    tick(2)


def raises() -> None:
    tick(4)
    raise ValueError("on purpose")


def timed(run: Callable[[], object], *wanted: Callable[..., object]) -> LineTimes:
    names = {each.__name__ for each in wanted} | {"<listcomp>"}

    def is_wanted(code: CodeType) -> bool:
        return code.co_filename == __file__ and code.co_name in names

    with LineTimer(is_wanted).timed() as found:
        run()
    return found


def by_offset(found: LineTimes, function: Callable[..., object]) -> dict[int, tuple[float, ...]]:
    """Calls, total and self time of a function's lines, counted from its first."""
    first = function.__code__.co_firstlineno
    return {
        line - first: (each.calls, each.total_ns, each.self_ns)
        for (_, line), each in found.lines.items()
        if line >= first
    }


def test_a_line_has_what_it_calls_in_its_total_and_not_in_its_own() -> None:
    lines = by_offset(timed(outer, outer, inner), outer)
    assert lines[1] == (1, 10, 10)
    assert lines[2] == (1, 7, 0)  # 5 + 2, on the lines of inner()


def test_a_comprehension_counts_once_for_its_line() -> None:
    lines = by_offset(timed(outer, outer), outer)
    assert lines[3] == (1, 6, 6)  # 1 + 2 + 3


def test_functions_that_are_not_wanted_fall_on_the_line_that_calls_them() -> None:
    lines = by_offset(timed(outer, outer), outer)
    assert lines[2] == (1, 7, 7)


def test_recursion_does_not_count_time_twice() -> None:
    found = timed(lambda: outer(2), outer, inner)
    lines = by_offset(found, outer)
    # Three calls of 10 + 7 + 6; the line that recurses spends two of them.
    assert found.functions[outer.__code__].total_ns == 3 * 23
    assert lines[5][1] == 2 * 23
    assert sum(each.self_ns for each in found.lines.values()) == 3 * 23


def test_a_line_that_raises_is_left() -> None:
    def run() -> None:
        with pytest.raises(ValueError, match="on purpose"):
            raises()
        tick(100)

    found = timed(run, raises)
    assert found.functions[raises.__code__].total_ns == 4
    assert found.whole_ns == 104


def test_a_debugger_is_put_back() -> None:
    def tracer(*_: object) -> None: ...

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        timed(outer, outer)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


def test_weights_scale_every_figure() -> None:
    total = LineTimes()
    total.add(timed(inner, inner), 3.0)
    assert by_offset(total, inner)[1] == (3.0, 15.0, 15.0)
