"""The same computed again from the same inputs within one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from engine.profile.code.recording import Node
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of, counted
from engine.records import Evidence


class RepeatedComputation(Rule):
    """An operator that ran before on the same values, with the same result."""

    title = "Computed again with the same arguments"
    advice = "Compute it once and hand it on: to the layers as an argument, to the next step kept."
    theory = (
        "The operator, its settings and all values that went in were the same as in an earlier"
        " call of this run, so its result was there already."
    )

    smallest_share = 0.001

    def find(self, seen: Seen) -> Iterator[Found]:
        """Operators on values that were seen before."""
        nodes = [each for each in seen.nodes() if each.repeats >= 0 and each.varies]
        for (file, _), group in seen.by_function(nodes).items():
            yield Found(
                file, seen.lines_of(group), _words(seen, group), nodes=group,
                calls=calls_of(group), modules=seen.modules(group),
                evidence=(Evidence("calls whose result was there already", calls_of(group),
                                   "calls"),),
            )  # fmt: skip


def _words(seen: Seen, group: list[Node]) -> str:
    names = Counter(each.op.rpartition("::")[2] for each in group)
    listed = ", ".join(name for name, _ in names.most_common(4))
    first = seen.recording.nodes[group[0].repeats]
    where = seen.line_of(first)
    calls = counted(calls_of(group), "call")
    words = f"{calls} a run ({listed}) with the result of an earlier call"
    if where is None:
        return f"{words}."
    if first.part != group[0].part:
        return f"{words}, in the step before."
    return f"{words}; the first is on line {where.line}."
