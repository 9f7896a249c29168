"""Quality in words, the same on the command line, on the page and in a report."""

from __future__ import annotations

from engine.records import Fidelity, Quality


def claim_text(found: Quality) -> str:
    """The verdict with what it stands on: `WORSE: -0.031 (95 % -0.049 to -0.013), margin 0.01`."""
    if found.verdict is None or found.difference is None:
        return ""
    words = f"{found.verdict}: {found.difference:+.3g}"
    if found.difference_low is not None and found.difference_high is not None:
        words += f" (95 % {found.difference_low:+.3g} to {found.difference_high:+.3g})"
    if found.margin is not None:
        words += f", margin {found.margin:.3g}"
    more = more_samples_text(found)
    return f"{words}; {more}" if more else words


def more_samples_text(found: Quality) -> str:
    """How many more samples would tell; empty where the verdict is no INCONCLUSIVE."""
    if found.verdict != "INCONCLUSIVE":
        return ""
    if found.samples < 2:
        return "one sample does not show how much samples differ"
    if found.samples_needed is None:
        return "it lies at the margin: set another one, since no number of samples would tell"
    more = max(1, found.samples_needed - found.samples)
    return f"about {_rounded(more):,} more sample{'s' if more > 1 else ''} would tell"


def flips_text(found: Fidelity) -> str:
    """Flips both ways with McNemar's test: `44 to wrong, 27 to right (McNemar p = 0.057)`."""
    if found.flips_to_wrong is None or found.flips_to_right is None:
        return ""
    words = f"{found.flips_to_wrong:,} to wrong, {found.flips_to_right:,} to right"
    return words if found.mcnemar_p is None else f"{words} (McNemar {p_text(found.mcnemar_p)})"


def p_text(p: float) -> str:
    """A p value: `p = 0.031`, and no smaller than makes sense."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _rounded(count: int) -> int:
    """Two digits that matter: it is an estimate."""
    step: int = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step
