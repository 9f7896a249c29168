"""Numbers as people read them, with their unit."""

from __future__ import annotations

from engine.records import Interval, Range

_ABSENT = "-"


def bytes_text(value: float | None) -> str:
    """Bytes in the unit that fits: 251 MB."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def flops_text(value: float | None) -> str:
    """FLOPs in the unit that fits: 11.4 GFLOP."""
    return _scaled(value, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"))


def count_text(value: int | None) -> str:
    """A count with its thousands apart."""
    return _ABSENT if value is None else f"{value:,}"


def ms_text(value: float | None) -> str:
    """Milliseconds: three digits that matter."""
    return _ABSENT if value is None else f"{_digits(value)} ms"


def number_text(value: float | None) -> str:
    """Any number: four digits that matter."""
    return _ABSENT if value is None else f"{value:.4g}"


def ratio_text(value: Interval | Range | None) -> str:
    """A ratio with its interval: 6.1x (5.9 to 6.3)."""
    if value is None:
        return _ABSENT
    if isinstance(value, Interval):
        return f"{_digits(value.median)}x ({_digits(value.low)} to {_digits(value.high)})"
    return f"{_digits(value.low)}x to {_digits(value.high)}x"


def _scaled(value: float | None, units: tuple[str, ...]) -> str:
    if value is None:
        return _ABSENT
    scaled, index = float(value), 0
    while abs(scaled) >= 1000 and index < len(units) - 1:
        scaled, index = scaled / 1000, index + 1
    return f"{_digits(scaled) if index else int(scaled)} {units[index]}"


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3g}" if size < 1 else f"{value:.2f}"
