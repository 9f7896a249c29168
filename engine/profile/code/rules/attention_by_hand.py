"""Scores, softmax and weighted sum written out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from engine.profile.code.lineage import FORM, SCALING, back, between, name_of, written_apart
from engine.profile.code.recording import Node
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of
from engine.records import Evidence

_PRODUCTS = {"aten::bmm", "aten::baddbmm", "aten::mm"}
_SOFTMAX = {"aten::_softmax", "aten::_safe_softmax", "aten::softmax"}


class AttentionByHand(Rule):
    """Attention in several operators that PyTorch has in one."""

    title = "Attention written out"
    advice = (
        "Call torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)"
        " on [batch, heads, tokens, width]; a mask goes in as attn_mask."
    )
    theory = (
        "Written out, the scores of every pair of positions go to memory and back for the scale,"
        " the mask and the softmax. The fused operator keeps them in registers, and its memory"
        " does not grow with the square of the length."
    )
    technique = "fuse_attention"

    def find(self, seen: Seen) -> Iterator[Found]:
        """A product whose left side comes from a softmax of a product."""
        places: dict[tuple[str, int], list[Node]] = defaultdict(list)
        heads: dict[tuple[str, int], list[Node]] = defaultdict(list)
        for node in seen.nodes():
            first = _scores_of(seen, node)
            if first is None or not seen.written_here(first) or not written_apart(first, node):
                continue
            site = seen.line_of(node)
            if site is None:
                continue
            key = (site.file, seen.function_line(site))
            chain = between(seen.recording, node, first)
            places[key] += [each for each in chain if seen.written_here(each)]
            heads[key].append(node)
        for (file, _), nodes in places.items():
            products = heads[(file, _)]
            scores = max(_scores_elements(seen, each) for each in products)
            yield Found(
                file, seen.lines_of(nodes),
                f"{len(nodes) // max(1, len(products))} operators a call where one would do.",
                nodes=nodes, calls=calls_of(products), modules=seen.modules(products),
                evidence=(
                    Evidence("operators of attention in a run", calls_of(nodes), "calls"),
                    Evidence("largest scores that go to memory", float(scores), "elements"),
                ),
            )  # fmt: skip


def _scores_of(seen: Seen, node: Node) -> Node | None:
    if node.op not in _PRODUCTS:
        return None
    recording = seen.recording
    # baddbmm takes what is added first.
    left = recording.made_from(node, 1 if node.op == "aten::baddbmm" else 0)
    softmax = back(recording, left, to=lambda each: _is_softmax(seen, each))
    if softmax is None:
        return None
    return back(
        recording, recording.made_from(softmax), to=lambda each: each.op in _PRODUCTS,
        through=FORM | SCALING | {"aten::exp"},
    )  # fmt: skip


def _is_softmax(seen: Seen, node: Node) -> bool:
    if node.op in _SOFTMAX:
        return True
    top = seen.recording.made_from(node, 0) if name_of(node) == "div" else None
    total = seen.recording.made_from(node, 1)
    return (
        top is not None
        and total is not None
        and name_of(top) == "exp"
        and (name_of(total) == "sum")
    )


def _scores_elements(seen: Seen, node: Node) -> int:
    first = _scores_of(seen, node)
    return first.elements if first else 0
