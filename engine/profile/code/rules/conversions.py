"""Values that change their number format or device and come back."""

from __future__ import annotations

from collections.abc import Iterator

from engine.profile.code.lineage import FORM, SCALING, back, between, name_of
from engine.profile.code.recording import Node
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of
from engine.records import Evidence

_THROUGH = (FORM | SCALING | {"aten::relu", "aten::gelu", "aten::silu"}) - {"aten::_to_copy"}


class Conversions(Rule):
    """A tensor converted and converted back with nothing between that needed it."""

    title = "Converted back and forth"
    advice = "Stay in one number format and on one device, or convert once around the whole block."
    theory = (
        "A conversion reads and writes the whole tensor; between devices it also waits for the"
        " queue. Sums and roots in 16 bits are a reason to widen, elementwise steps are not."
    )

    def find(self, seen: Seen) -> Iterator[Found]:
        """A conversion of what an earlier one had converted the other way."""
        pairs: list[Node] = []
        for node in seen.nodes():
            before = _opposite(seen, node)
            if before is not None and seen.written_here(before):
                pairs += [before, node]
        unique = list({each.index: each for each in pairs}.values())
        for (file, _), group in seen.by_function(unique).items():
            last = group[-1]
            ends = [
                f"{dtype} on {device}" if last.came[1] != last.device else dtype
                for dtype, device in ((last.dtype, last.device), last.came)
            ]
            moved = sum(each.moved_bytes * each.weight for each in group)
            yield Found(
                file, seen.lines_of(group), f"From {ends[0]} to {ends[1]} and back.", nodes=group,
                calls=calls_of(group), modules=seen.modules(group),
                evidence=(Evidence("bytes converted in a run", moved, "bytes"),),
            )  # fmt: skip


def _opposite(seen: Seen, node: Node) -> Node | None:
    if name_of(node) != "_to_copy" or node.came == (node.dtype, node.device):
        return None
    made = seen.recording.made_from(node)
    before = back(
        seen.recording, made, to=lambda each: name_of(each) == "_to_copy", through=_THROUGH, depth=4
    )
    if before is None or before.activation != node.activation:
        return None
    if before.came != (node.dtype, node.device):
        return None
    # A sum or a root in between is what the wider format was for.
    inside = between(seen.recording, node, before)[1:-1]
    return before if all(each.op in _THROUGH for each in inside) else None
