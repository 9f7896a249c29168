"""A tensor that grows by torch.cat: everything that it holds is copied at every step."""

from __future__ import annotations

from collections.abc import Iterator

from engine.profile.code.lineage import back, name_of
from engine.profile.code.recording import Node
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of
from engine.records import Evidence


class GrowingCat(Rule):
    """A tensor that each step joins to what it had."""

    title = "torch.cat in a growing loop"
    advice = (
        "Allocate the whole length once and write each step into its slice (index_copy_, or"
        " cache[:, :, at] = new); Hugging Face models take cache_implementation='static'."
    )
    theory = (
        "Every step allocates a longer tensor and copies all that was there: n steps copy n²/2"
        " rows. Its shape changes with every step, so compilers start again."
    )

    smallest_share = 0.001

    def find(self, seen: Seen) -> Iterator[Found]:
        """A cat that takes what a shorter cat of the same line made."""
        nodes = [each for each in seen.nodes() if _grows(seen, each)]
        for (file, _), group in seen.by_function(nodes).items():
            lines = seen.lines_of(group)
            # Whoever appends does so at every step, also at the first that was watched.
            every = [
                each for each in seen.nodes()
                if name_of(each) == "cat" and (site := seen.line_of(each)) is not None
                and site.file == file and site.line in lines
            ]  # fmt: skip
            moved = sum(each.moved_bytes * each.weight for each in every)
            yield Found(
                file, lines, f"{calls_of(every):,.0f} times a run, each longer than the last.",
                nodes=every, calls=calls_of(every), modules=seen.modules(every),
                evidence=(Evidence("bytes copied in a run", moved, "bytes"),),
            )  # fmt: skip


def _grows(seen: Seen, node: Node) -> bool:
    if name_of(node) != "cat":
        return False
    for index in node.inputs:
        before = back(seen.recording, seen.recording.node(index), to=lambda e: name_of(e) == "cat")
        if before is None or before.site is None or node.site is None:
            continue
        if before.site[:2] == node.site[:2] and before.elements < node.elements:
            return True
    return False
