"""GELU, SiLU and softmax written out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from engine.profile.code.lineage import FORM, back, between, name_of
from engine.profile.code.recording import Node, Recording
from engine.profile.code.rule import Rule
from engine.profile.code.seen import Found, Seen, calls_of
from engine.records import Evidence

_ARITHMETIC = FORM | {"aten::add", "aten::mul", "aten::div", "aten::sub", "aten::neg"}


class ActivationByHand(Rule):
    """An activation in several operators that PyTorch has in one."""

    title = "Activation written out"
    advice = "Use the fused function."
    theory = (
        "Every operator of the formula reads and writes the whole activation; the fused one reads"
        " it once and writes it once."
    )

    def find(self, seen: Seen) -> Iterator[Found]:
        """Products that end the formula of a known activation."""
        groups: dict[tuple[str, int, str], list[list[Node]]] = defaultdict(list)
        for node in seen.nodes():
            found = _silu(seen, node) or _softmax(seen, node) or _gelu(seen, node)
            site = seen.line_of(node)
            if found is not None and site is not None:
                name, first = found
                chain = between(seen.recording, node, first)
                written = [each for each in chain if seen.written_here(each)]
                groups[(site.file, seen.function_line(site), name)].append(written)
        for (file, _, name), chains in groups.items():
            nodes = list({each.index: each for chain in chains for each in chain}.values())
            last = [chain[-1] for chain in chains]
            yield Found(
                file, seen.lines_of(nodes),
                f"This is {name}, in {max(map(len, chains))} operators a call.",
                nodes=nodes, calls=calls_of(last), modules=seen.modules(last),
                title=f"{name[0].upper()}{name[1:]} written out", advice=_ADVICE[name],
                evidence=(Evidence("operators of it in a run", calls_of(nodes), "calls"),),
            )  # fmt: skip


_ADVICE = {
    "GELU (tanh)": "Use torch.nn.functional.gelu(x, approximate='tanh').",
    "GELU": "Use torch.nn.functional.gelu(x).",
    "SiLU": "Use torch.nn.functional.silu(x).",
    "softmax": "Use torch.softmax(x, dim); it also subtracts the maximum, so that exp cannot"
    " overflow.",
}


def _silu(seen: Seen, node: Node) -> tuple[str, Node] | None:
    if name_of(node) != "mul" or len(node.inputs) != 2:
        return None
    for position in (0, 1):
        sigmoid = seen.recording.made_from(node, position)
        if sigmoid is None or name_of(sigmoid) != "sigmoid" or not seen.written_here(sigmoid):
            continue
        if sigmoid.values and node.values[1 - position] == sigmoid.values[0]:
            return "SiLU", sigmoid
    return None


def _softmax(seen: Seen, node: Node) -> tuple[str, Node] | None:
    if name_of(node) != "div" or len(node.inputs) != 2:
        return None
    top, total = seen.recording.made_from(node, 0), seen.recording.made_from(node, 1)
    if top is None or total is None or name_of(top) != "exp" or name_of(total) != "sum":
        return None
    return ("softmax", top) if seen.recording.made_from(total) is top else None


def _gelu(seen: Seen, node: Node) -> tuple[str, Node] | None:
    if name_of(node) != "mul":
        return None
    recording = seen.recording
    for index in node.inputs:
        plus = recording.node(index)
        if plus is None or name_of(plus) != "add" or 1 not in plus.scalars:
            continue
        inner = recording.made_from(plus)
        if inner is None or not seen.written_here(inner):
            continue
        if name_of(inner) == "erf":
            first = back(recording, recording.made_from(inner), to=lambda each: True) or inner
            return "GELU", first if first.activation == node.activation else inner
        if name_of(inner) == "tanh":
            cube = back(
                recording, inner, through=_ARITHMETIC | {"aten::tanh"},
                to=lambda each: _is_cube(each) or _is_product_of_three(recording, each),
            )  # fmt: skip
            if cube is not None:
                return "GELU (tanh)", cube
    return None


def _is_cube(node: Node) -> bool:
    return name_of(node) == "pow" and 3 in node.scalars


def _is_product_of_three(recording: Recording, node: Node) -> bool:
    """A product with a value that a factor of it was multiplied by already: c*x*x*x."""
    if name_of(node) != "mul":
        return False
    factors = (recording.node(index) for index in node.inputs)
    return any(
        each is not None and name_of(each) == "mul" and bool({*each.values} & {*node.values})
        for each in factors
    )
