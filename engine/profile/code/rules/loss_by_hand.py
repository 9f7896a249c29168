"""Cross entropy by log_softmax and gather."""

from __future__ import annotations

from collections.abc import Iterator

from engine.profile.code.lineage import FORM, back, between, name_of
from engine.profile.code.recording import Node
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of
from engine.records import Evidence


class LossByHand(Rule):
    """Cross entropy in several operators that PyTorch has in one."""

    title = "Cross entropy written out"
    advice = "Use torch.nn.functional.cross_entropy(logits, labels); it takes logits."
    theory = (
        "The logarithms of all probabilities go to memory although one in each row is used; in"
        " training they are kept for the backward pass as well."
    )

    def find(self, seen: Seen) -> Iterator[Found]:
        """Values picked out of a log_softmax, or of the logarithm of a softmax."""
        chains = {}
        for node in seen.nodes():
            if name_of(node) not in ("gather", "index"):
                continue
            source = seen.recording.made_from(node)
            first = back(seen.recording, source, to=_is_log, through=FORM | {"aten::neg"})
            if first is not None and seen.written_here(first):
                chains[node.index] = between(seen.recording, node, first)
        nodes = [each for chain in chains.values() for each in chain if seen.written_here(each)]
        for (file, _), group in seen.by_function(nodes).items():
            last = [each for each in group if each.index in chains]
            yield Found(
                file, seen.lines_of(group), "log_softmax, then one value of each row picked.",
                nodes=group, calls=calls_of(last), modules=seen.modules(group),
                evidence=(Evidence("largest table of logarithms", float(_largest(group)),
                                   "elements"),),
            )  # fmt: skip


def _is_log(node: Node) -> bool:
    return name_of(node) in ("_log_softmax", "log_softmax")


def _largest(nodes: list[Node]) -> int:
    return max((each.elements for each in nodes), default=0)
