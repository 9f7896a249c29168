"""Copies that only change how values lie in memory."""

from __future__ import annotations

from collections.abc import Iterator

from engine.profile.code.lineage import name_of
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of
from engine.records import Evidence

_SAID = {"contiguous", "clone", "copy_"}


class Copies(Rule):
    """A tensor copied for its layout: contiguous() after permute, or a reshape that must copy."""

    title = "Copied for its layout"
    advice = (
        "Lay the dimensions out as the next operator reads them (project to heads last, use"
        " einsum's order), and drop contiguous() where a view would do."
    )
    theory = "A copy does no arithmetic: it reads and writes every element once."
    smallest_share = 0.01

    def find(self, seen: Seen) -> Iterator[Found]:
        """Clones."""
        nodes = [each for each in seen.nodes() if name_of(each) == "clone"]
        for (file, _), group in seen.by_function(nodes).items():
            said = {each.api for each in group}
            hidden = sorted(each for each in said - _SAID if each)
            words = f"{calls_of(group):,.0f} a run"
            words += f", made inside {', '.join(hidden)}." if hidden else "."
            moved = sum(each.moved_bytes * each.weight for each in group)
            yield Found(
                file, seen.lines_of(group), words, nodes=group, calls=calls_of(group),
                modules=seen.modules(group),
                evidence=(Evidence("bytes copied in a run", moved, "bytes"),),
            )  # fmt: skip
