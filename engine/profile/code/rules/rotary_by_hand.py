"""Rotary positions applied by halves that are cut, negated and joined."""

from __future__ import annotations

from collections.abc import Iterator

from engine.profile.code.lineage import back, name_of
from engine.profile.code.recording import Node
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of
from engine.records import Evidence


class RotaryByHand(Rule):
    """Rotary positions in copies that a compiler would leave out."""

    title = "Rotary positions by cutting and joining"
    advice = (
        "PyTorch has no operator for it: torch.compile makes one loop of these lines, or write the"
        " two halves into one output without torch.cat."
    )
    theory = (
        "Negating a half, joining it to the other, two products and a sum are five passes over"
        " queries and keys; the arithmetic would need one."
    )
    technique = "torch_compile"
    smallest_share = 0.01

    def find(self, seen: Seen) -> Iterator[Found]:
        """A joined pair, one of them negated, that is multiplied afterwards."""
        users = seen.recording.users()
        wanted: list[Node] = []
        for node in seen.nodes():
            if name_of(node) != "cat" or len(node.inputs) != 2:
                continue
            first = seen.recording.made_from(node)
            negated = back(seen.recording, first, to=lambda each: name_of(each) == "neg")
            taken = users.get(node.index, [])
            if negated is None or not any(name_of(each) == "mul" for each in taken):
                continue
            products = [each for each in taken if name_of(each) == "mul"]
            sums = [
                each
                for product in products
                for each in users.get(product.index, [])
                if name_of(each) == "add"
            ]
            wanted += [each for each in (negated, node, *products, *sums)
                       if seen.written_here(each)]  # fmt: skip
        unique = list({each.index: each for each in wanted}.values())
        for (file, _), nodes in seen.by_function(unique).items():
            yield Found(
                file, seen.lines_of(nodes), f"{calls_of(nodes):,.0f} operators a run.", nodes=nodes,
                calls=calls_of(nodes), modules=seen.modules(nodes),
                evidence=(Evidence("bytes that they move in a run",
                                   sum(each.moved_bytes * each.weight for each in nodes),
                                   "bytes"),),
            )  # fmt: skip
