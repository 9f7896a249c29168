"""Tensors that forward builds from nothing but sizes."""

from __future__ import annotations

from collections.abc import Iterator

from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of, counted
from engine.records import Evidence


class BuiltInForward(Rule):
    """Tensors built again in every call that depend on nothing but sizes."""

    title = "Constant tensors built in forward"
    advice = (
        "Build them once in `__init__` for the longest length, keep them with"
        " `register_buffer(..., persistent=False)`, and slice them in forward."
    )
    theory = (
        "A mask or a table of positions is the same for every input of that size. Building it"
        " costs its operators in every call, on a GPU also the launch of each."
    )

    smallest_share = 0.001

    def find(self, seen: Seen) -> Iterator[Found]:
        """Operators that neither inputs nor weights went into."""
        nodes = [
            each
            for each in seen.nodes()
            if not each.varies and not each.from_weights and each.elements > 1
            and each.api not in ("__repr__", "__format__")
        ]  # fmt: skip
        for (file, _), group in seen.by_function(nodes).items():
            repeated = [each for each in group if each.repeats >= 0]
            words = f"{counted(calls_of(group), 'operator')} a run for what depends only on sizes."
            if repeated:
                words += f" {calls_of(repeated):,.0f} of them make what was just made before."
            yield Found(
                file, seen.lines_of(group), words, nodes=group, calls=calls_of(group),
                modules=seen.modules(group),
                evidence=(Evidence("largest such tensor", float(max(e.elements for e in group)),
                                   "elements"),),
            )  # fmt: skip
