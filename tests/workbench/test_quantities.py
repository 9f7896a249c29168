"""Numbers as people read them."""

from __future__ import annotations

import pytest

from engine.records import Interval, Range
from workbench.quantities import (
    ago_text,
    bytes_text,
    count_text,
    digits,
    interval_text,
    ms_text,
    parameters_text,
    percent_text,
    range_text,
    seconds_text,
)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (512, "512 B"), (4_216_832, "4.02 MiB"), (2**40, "1 TiB"), (None, "–")],
)
def test_sizes_carry_binary_units(size: float | None, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.0123, "12.3 µs"), (12.4, "12.4 ms"), (1234, "1.23 s"), (185_000, "3 min 05 s")],
)
def test_times_choose_their_unit(milliseconds: float, text: str) -> None:
    assert ms_text(milliseconds) == text


def test_hours_are_told_with_minutes() -> None:
    assert seconds_text(4320) == "1 h 12 min"


def test_counts_carry_prefixes() -> None:
    assert count_text(11_372_000_000, "FLOP") == "11.4 GFLOP"
    assert count_text(955_648) == "956 k"
    assert count_text(12) == "12"


def test_ratios_and_their_intervals() -> None:
    assert range_text(Range(4.1, 6.0)) == "4.1–6×"
    assert range_text(Range(2.0, 2.0)) == "2×"
    assert interval_text(Interval(5.061, 4.9, 5.2)) == "5.06× [4.9, 5.2]"


def test_three_digits_are_enough() -> None:
    assert [digits(x) for x in (0, 0.00004, 0.1234, 99.95, 12345.6)] == [
        "0", "4e-05", "0.123", "100", "12,346",
    ]  # fmt: skip


def test_shares_and_moments() -> None:
    assert percent_text(0.3864) == "38.6 %"
    assert ago_text(0.0, now=150.0) == "2 min ago"
    assert ago_text(10.0, now=11.0) == "just now"


def test_billions_of_parameters_are_written_as_papers_do() -> None:
    assert parameters_text(70_553_706_496) == "70.6 B"
    assert parameters_text(955_648) == "956 k"
