"""What is computed from weights and buffers alone, in every call again."""

from __future__ import annotations

from collections.abc import Iterator

from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of, counted
from engine.records import Evidence


class WeightsCombined(Rule):
    """Weights or buffers joined, copied, compared or scaled again in every call."""

    title = "Computed from weights alone in every call"
    advice = (
        "Do it once after loading and keep the result: joined weights as one parameter, a mask as"
        " a boolean buffer."
    )
    theory = "Weights do not change between calls, so neither does what is computed from them."
    smallest_share = 0.002

    def find(self, seen: Seen) -> Iterator[Found]:
        """Operators that weights went into and inputs did not."""
        if seen.opened.workload.kind == "train_step":
            return
        nodes = [
            each for each in seen.nodes()
            if each.from_weights and not each.varies and each.elements > 1
        ]  # fmt: skip
        for (file, _), group in seen.by_function(nodes).items():
            names = ", ".join(dict.fromkeys(each.op.rpartition("::")[2] for each in group))
            moved = sum(each.moved_bytes * each.weight for each in group)
            yield Found(
                file, seen.lines_of(group),
                f"{counted(calls_of(group), 'call')} a run ({names}) on weights and buffers only.",
                nodes=group, calls=calls_of(group), modules=seen.modules(group),
                evidence=(Evidence("bytes that they move in a run", moved, "bytes"),),
            )  # fmt: skip
