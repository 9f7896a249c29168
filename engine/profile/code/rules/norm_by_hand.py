"""Layer norm and RMS norm written out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from engine.profile.code.lineage import FORM, back, between, name_of, written_apart
from engine.profile.code.recording import Node
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of
from engine.records import Evidence

_ROOTS = {"rsqrt", "sqrt", "std", "reciprocal"}
_THROUGH = FORM | {
    "aten::add", "aten::add_", "aten::sqrt", "aten::rsqrt", "aten::reciprocal", "aten::clamp",
    "aten::pow", "aten::clamp_min",
}  # fmt: skip


class NormByHand(Rule):
    """A normalization in several operators that PyTorch has in one."""

    title = "Normalization written out"
    advice = "Use torch.nn.LayerNorm or torch.nn.RMSNorm (functional.layer_norm, rms_norm)."
    theory = (
        "Mean, square, root and scale each read and write the whole activation; the fused"
        " operator reads it once or twice and writes it once."
    )

    def find(self, seen: Seen) -> Iterator[Found]:
        """A product or quotient with a root of a mean of squares."""
        groups: dict[tuple[str, int], list[tuple[str, list[Node]]]] = defaultdict(list)
        for node in seen.nodes():
            found = _norm(seen, node)
            site = seen.line_of(node)
            if found is not None and site is not None:
                groups[(site.file, seen.function_line(site))].append(found)
        for (file, _), chains in groups.items():
            nodes = list({each.index: each for _, chain in chains for each in chain}.values())
            kind = chains[0][0]
            last = [chain[-1] for _, chain in chains]
            yield Found(
                file, seen.lines_of(nodes),
                f"This is {kind}, in {max(len(chain) for _, chain in chains)} operators a call.",
                nodes=nodes, calls=calls_of(last), modules=seen.modules(last),
                title=f"{kind[0].upper()}{kind[1:]} written out",
                evidence=(Evidence("operators of the norm in a run", calls_of(nodes), "calls"),),
            )  # fmt: skip


def _norm(seen: Seen, node: Node) -> tuple[str, list[Node]] | None:
    if name_of(node) not in ("mul", "div") or len(node.inputs) < 2:
        return None
    recording = seen.recording
    for position in (0, 1):
        root = back(
            recording, recording.made_from(node, position), through=FORM | {"aten::add"}, depth=2,
            to=lambda each: name_of(each) in _ROOTS or _is_root(each),
        )  # fmt: skip
        if root is None:
            continue
        spread = back(recording, root, to=_is_spread, through=_THROUGH)
        if spread is None or not seen.written_here(spread) or not written_apart(spread, node):
            continue
        other = recording.made_from(node, 1 - position)
        centred = _centred(seen, other) is not None
        kind = "layer norm" if centred or name_of(spread) in ("var", "std") else "RMS norm"
        if kind == "RMS norm" and not _of_squares(seen, spread):
            return None
        first = _beginning(seen, spread)
        chain = between(recording, node, first)
        return kind, [each for each in chain if seen.written_here(each)]
    return None


def _centred(seen: Seen, node: Node | None) -> Node | None:
    """Where a mean was taken away, with a weight multiplied on or not."""

    def takes_mean(each: Node) -> bool:
        given = [seen.recording.node(index) for index in each.inputs]
        return name_of(each) == "sub" and any(e and name_of(e) == "mean" for e in given)

    return back(seen.recording, node, to=takes_mean, through=FORM | {"aten::mul"}, depth=3)


def _is_root(node: Node) -> bool:
    return name_of(node) == "pow" and any(each in (0.5, -0.5) for each in node.scalars)


def _is_spread(node: Node) -> bool:
    return name_of(node) in ("mean", "var", "std", "var_mean")


def _of_squares(seen: Seen, mean: Node) -> bool:
    square = seen.recording.made_from(mean)
    return square is not None and _is_square(square)


def _is_square(node: Node) -> bool:
    if name_of(node) == "pow":
        return 2 in node.scalars
    return name_of(node) == "mul" and len(node.values) == 2 and node.values[0] == node.values[1]


def _beginning(seen: Seen, spread: Node) -> Node:
    square = seen.recording.made_from(spread)
    return square if square is not None and _is_square(square) else spread
