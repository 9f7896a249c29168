"""Numbers as people read them: with their unit, to three significant digits."""

from __future__ import annotations

import math
import re
import time

from engine.records import Interval, Range

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_THOUSANDS = ("", "k", "M", "G", "T", "P")
MISSING = "–"


def bytes_text(size: float | None) -> str:
    """A size: `4.12 MiB`."""
    if size is None:
        return MISSING
    step = min(len(_BINARY) - 1, int(math.log(abs(size), 1024))) if abs(size) >= 1 else 0
    return f"{digits(size / 1024**step)} {_BINARY[step]}"


def ms_text(milliseconds: float | None) -> str:
    """A time that is given in milliseconds: `812 µs`, `12.4 ms`, `1.03 s`."""
    if milliseconds is None:
        return MISSING
    if abs(milliseconds) < 1:
        return f"{digits(milliseconds * 1e3)} µs"
    if abs(milliseconds) < 1e3:
        return f"{digits(milliseconds)} ms"
    return seconds_text(milliseconds / 1e3)


def seconds_text(seconds: float | None) -> str:
    """A time that is given in seconds: `4.2 s`, `3 min 05 s`, `1 h 12 min`."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{digits(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def time_scale(longest_ms: float) -> tuple[float, str]:
    """What milliseconds are divided by for an axis, and the unit that they then have."""
    return (1e3, "s") if longest_ms >= 10_000 else (1.0, "ms")


def count_text(number: float | None, unit: str = "") -> str:
    """A count with a prefix: `1.05 M`, `11.4 GFLOP`."""
    if number is None:
        return MISSING
    if abs(number) < 1000:
        return f"{digits(number)} {unit}".strip()
    step = min(len(_THOUSANDS) - 1, int(math.log10(abs(number)) // 3))
    return f"{digits(number / 1000**step)} {_THOUSANDS[step]}{unit}"


def parameters_text(number: float) -> str:
    """A number of parameters as papers write it: `70.6 B`, `956 k`."""
    return count_text(number).replace(" G", " B")


def ratio_text(ratio: float | None) -> str:
    """A ratio to the baseline: `5.06×`."""
    return MISSING if ratio is None else f"{digits(ratio)}×"


def range_text(found: Range | None) -> str:
    """A range of ratios: `4.1–6.0×`, one number where both ends read the same."""
    if found is None:
        return MISSING
    low, high = digits(found.low), digits(found.high)
    return f"{low}×" if low == high else f"{low}–{high}×"


def interval_text(found: Interval | None) -> str:
    """A measured ratio with its 95 % interval: `5.06× [4.9, 5.2]`."""
    if found is None:
        return MISSING
    return f"{digits(found.median)}× [{digits(found.low)}, {digits(found.high)}]"


def percent_text(share: float | None) -> str:
    """A share of 1 as percent: `38.6 %`."""
    return MISSING if share is None else f"{digits(100 * share)} %"


def ago_text(moment: float, now: float | None = None) -> str:
    """How long ago a moment was: `2 min ago`."""
    gone = max(0.0, (now if now is not None else time.time()) - moment)
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if gone >= size:
            return f"{int(gone // size)} {name} ago"
    return "just now"


def clipped(text: str, most: int = 40) -> str:
    """A long name with its middle left out: both ends tell what it is."""
    if len(text) <= most:
        return text
    head = (most - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def verbatim(text: str) -> str:
    """Text of a trace as it stands: no mark in it makes a link, a picture or italics."""
    return re.sub(r"([\\`*_\[\]<>~$])", r"\\\1", text)


def kernel_text(name: str, most: int = 40) -> str:
    """A kernel's name without what says least: return type, arguments, template arguments."""
    found = name.removeprefix("void ").partition("(")[0].strip() or name
    outer, inner = found.partition("<")[::2]
    # Of a generic launcher the functor tells what it computes.
    functor = re.search(r"(\w+)(?:Functor|_kernel_cuda|Op)\b", inner) if inner else None
    return clipped(f"{outer}<{functor[0]}>" if functor else outer, most)


def digits(number: float) -> str:
    """Three significant digits without an exponent, from a thousandth up."""
    if number == 0 or not math.isfinite(number):
        return "0" if number == 0 else str(number)
    if abs(number) >= 999.5:
        return f"{number:,.0f}"
    if abs(number) < 1e-3:
        return f"{number:.2g}"
    places = max(0, 2 - math.floor(math.log10(abs(number))))
    text = f"{number:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
