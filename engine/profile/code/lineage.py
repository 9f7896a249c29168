"""Walks back from an operator to what it was computed from."""

from __future__ import annotations

from collections.abc import Callable, Collection

from engine.profile.code.recording import Node, Recording

# Operators that hand a value on, changed in form only.
FORM = frozenset({
    "aten::clone", "aten::_to_copy", "aten::expand", "aten::contiguous", "aten::_unsafe_view",
    "aten::copy_", "aten::native_dropout", "aten::_reshape_copy", "aten::alias_copy",
})  # fmt: skip
SCALING = frozenset({
    "aten::mul", "aten::div", "aten::add", "aten::sub", "aten::mul_", "aten::div_", "aten::add_",
    "aten::masked_fill", "aten::masked_fill_", "aten::where", "aten::sub_", "aten::neg",
    "aten::clamp", "aten::tanh",
})  # fmt: skip


def name_of(node: Node) -> str:
    """The operator without its namespace and the mark of a change in place."""
    return node.op.rpartition("::")[2].rstrip("_")


def written_apart(first: Node, second: Node) -> bool:
    """Whether two calls of torch made them, rather than one that is composed of both."""
    return not first.api or not second.api or first.api_call != second.api_call


def back(
    recording: Recording,
    node: Node | None,
    *,
    to: Callable[[Node], bool],
    through: Collection[str] = FORM,
    depth: int = 8,
) -> Node | None:
    """The nearest operator for which `to` holds, walking back through operators that are allowed.

    The node itself is looked at first.
    """
    seen: set[int] = set()
    pending = [(node, depth)]
    while pending:
        each, left = pending.pop(0)
        if each is None or each.index in seen:
            continue
        seen.add(each.index)
        if to(each):
            return each
        if left and each.op in through:
            pending += [(recording.node(index), left - 1) for index in each.inputs]
    return None


def between(recording: Recording, last: Node, first: Node) -> list[Node]:
    """Every operator on a way from the first to the last, both included, in order."""
    on_way: dict[int, bool] = {first.index: True}

    def leads(index: int) -> bool:
        if index < first.index:
            return False
        if index not in on_way:
            on_way[index] = False
            # Every input is followed: a diamond has several ways.
            ways = [leads(each) for each in recording.nodes[index].inputs]
            on_way[index] = any(ways)
        return on_way[index]

    leads(last.index)
    return [recording.nodes[index] for index in sorted(on_way) if on_way[index]]
