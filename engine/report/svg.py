"""Charts of a report as SVG: drawn without scripts, so that the file opens anywhere; no torch.

Colours are CSS classes of the page (`c0` is the baseline, `c1` to `c5` the variants), so that the
same drawing serves light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _ROW, _LEFT, _RIGHT = 780, 34, 205, 215
# A whisker that is longer than the longest bar so many times is cut there.
_LONGEST_WHISKER = 1.6
_COLOURS = 6


@dataclass(frozen=True)
class Bar:
    """One bar: `low` and `high` are the ends of its whisker, `begin` where it starts."""

    label: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    begin: float = 0.0
    colour: int = 0
    expected: tuple[float, float] | None = None


@dataclass(frozen=True)
class Dot:
    """One point of a scatter; `size` is 0 to 1."""

    label: str
    x: float
    y: float
    size: float = 0.3
    colour: int = 0
    is_hollow: bool = False


def bars(rows: Sequence[Bar], *, unit: str, title: str) -> str:
    """Horizontal bars with their figures; `expected` is drawn as a band behind a bar."""
    longest = max((max(each.value, each.begin) for each in rows), default=0.0)
    ends = [end for each in rows for end in (each.high or 0.0, *(each.expected or ()))]
    most = max(longest, min(max(ends, default=0.0), _LONGEST_WHISKER * longest))
    scale = (_WIDTH - _LEFT - _RIGHT) / (most or 1.0)
    height = _ROW * len(rows) + 26
    drawn = [_open(height, title)]
    for index, row in enumerate(rows):
        y = index * _ROW + 8
        begin, end = sorted((row.begin, row.value))
        x = _LEFT + begin * scale
        drawn.append(_text(_LEFT - 10, y + 15, _short(row.label), "end", full=row.label))
        if row.expected:
            low, high = (min(end, most) for end in row.expected)
            drawn.append(
                f'<rect class="band" x="{_LEFT + low * scale:.1f}" y="{y - 3}"'
                f' width="{max(2.0, (high - low) * scale):.1f}" height="26"/>'
            )
        drawn.append(
            f'<rect class="{_class(row.colour)}" x="{x:.1f}" y="{y}" rx="3"'
            f' width="{max(1.0, (end - begin) * scale):.1f}" height="20"/>'
        )
        right = end
        if row.low is not None and row.high is not None:
            low, high = min(row.low, most), min(row.high, most)
            right = max(end, high)
            drawn.append(
                _whisker(_LEFT + low * scale, _LEFT + high * scale, y + 10, is_cut=high < row.high)
            )
        drawn.append(_text(_LEFT + right * scale + 8, y + 15, row.text, "start", "value"))
    drawn.append(_text(_LEFT, height - 4, unit, "start", "axis"))
    return "".join([*drawn, "</svg>"])


def scatter(
    dots: Sequence[Dot], *, x: str, y: str, title: str, higher_is_better: bool = True
) -> str:
    """Points over two axes; up is better, so that the vertical axis is turned where less is."""
    height, bottom, top, left, right = 330, 44, 22, 76, 30
    xs, ys = _axis([each.x for each in dots], from_zero=True), _axis([each.y for each in dots])

    def place(dot_x: float, dot_y: float) -> tuple[float, float]:
        share = (dot_y - ys[0]) / (ys[-1] - ys[0])
        share = share if higher_is_better else 1 - share
        return (
            left + (dot_x - xs[0]) / (xs[-1] - xs[0]) * (_WIDTH - left - right),
            height - bottom - share * (height - bottom - top),
        )

    drawn = [_open(height, title)]
    for tick in xs:
        at, _ = place(tick, ys[0])
        drawn.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}"'
                     f' y2="{height - bottom}"/>')  # fmt: skip
        drawn.append(_text(at, height - bottom + 16, _number(tick), "middle", "axis"))
    for tick in ys:
        _, at = place(xs[0], tick)
        drawn.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - right}" y1="{at:.1f}"'
                     f' y2="{at:.1f}"/>')  # fmt: skip
        drawn.append(_text(left - 8, at + 4, _number(tick), "end", "axis"))
    for dot in dots:
        at_x, at_y = place(dot.x, dot.y)
        hollow = " hollow" if dot.is_hollow else ""
        drawn.append(
            f'<circle class="{_class(dot.colour)}{hollow}" cx="{at_x:.1f}" cy="{at_y:.1f}"'
            f' r="{5 + 9 * math.sqrt(min(1.0, max(0.0, dot.size))):.1f}"/>'
        )
        side = "end" if at_x > 0.7 * _WIDTH else "start"
        shift = -16 if side == "end" else 16
        drawn.append(_text(at_x + shift, at_y + 4, _short(dot.label), side, full=dot.label))
    drawn.append(_text(_WIDTH - right, height - 6, x, "end", "axis"))
    drawn.append(_text(left, 13, y, "start", "axis"))
    return "".join([*drawn, "</svg>"])


def _axis(values: Sequence[float], *, from_zero: bool = False) -> list[float]:
    """Three to seven round numbers around the values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    low = min(0.0, low) if from_zero else low
    spread = (high - low) or abs(high) or 1.0
    low, high = (low if from_zero else low - 0.15 * spread), high + 0.15 * spread
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step = next(step * each for each in (0.5, 1, 2, 5, 10) if (high - low) / (step * each) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [each * step for each in range(first, last + 1)]


def _open(height: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}"'
        ' xmlns="http://www.w3.org/2000/svg">'
    )


def _text(
    x: float, y: float, text: str, anchor: str, kind: str = "label", *, full: str = ""
) -> str:
    told = f"<title>{escape(full)}</title>" if full and full != text else ""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{told}'
        f"{escape(text)}</text>"
    )


def _whisker(low: float, high: float, y: float, *, is_cut: bool = False) -> str:
    end = f"M{high - 6:.1f} {y - 5}l6 5l-6 5" if is_cut else f"M{high:.1f} {y - 5}v10"
    return f'<path class="whisker" d="M{low:.1f} {y - 5}v10M{low:.1f} {y}H{high:.1f}{end}"/>'


def _class(colour: int) -> str:
    return f"c{0 if colour <= 0 else 1 + (colour - 1) % (_COLOURS - 1)}"


def _short(label: str, most: int = 25) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def _number(value: float) -> str:
    return f"{value:.6g}"
