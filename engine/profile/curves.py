"""Polynomials of degree two through whole numbers, exact or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

_FITTED = 3


@dataclass(frozen=True)
class Curve:
    """A polynomial a*n^2 + b*n + c."""

    a: Fraction
    b: Fraction
    c: Fraction

    def at(self, n: int) -> int:
        """Its value at n."""
        return int(self.a * n * n + self.b * n + self.c)

    def total(self, first: int, last: int) -> int:
        """The sum of its values at first..last."""
        return int(self._up_to(last) - self._up_to(first - 1))

    def _up_to(self, n: int) -> Fraction:
        squares = Fraction(n * (n + 1) * (2 * n + 1), 6)
        return self.a * squares + self.b * Fraction(n * (n + 1), 2) + self.c * n


def curve(points: Sequence[tuple[int, int]]) -> Curve | None:
    """The polynomial through the first three points, if it passes through the others."""
    (x0, y0), (x1, y1), (x2, y2) = points[:_FITTED]
    slope = Fraction(y1 - y0, x1 - x0)
    a = (Fraction(y2 - y0, x2 - x0) - slope) / (x2 - x1)
    b = slope - a * (x0 + x1)
    c = y0 - slope * x0 + a * x0 * x1
    if any(a * x * x + b * x + c != y for x, y in points[_FITTED:]):
        return None
    return Curve(a, b, c)
