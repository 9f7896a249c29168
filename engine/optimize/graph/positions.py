"""What depends on positions alone: masks, position embeddings, rotary tables.

Such tensors need no ids. For a known longest sequence they are evaluated once; the step then
reads the row of the newest token instead of computing it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from engine.optimize.graph.capture import Captured
from engine.optimize.graph.nodes import args_of, expression, target_of, tensor_at, token_dims

_MAX_TABLE_ELEMENTS = 1 << 25
_HIDDEN = -1e4


class Positions:
    """Evaluates nodes that depend on the number of tokens but not on their ids."""

    def __init__(self, captured: Captured, max_length: int | None) -> None:
        self._captured = captured
        self.max_length = max_length
        self._memo: dict[tuple[fx.Node, int], Any] = {}
        self._tables: dict[fx.Node, Tensor | None] = {}

    def at(self, node: fx.Node, tokens: int) -> Any:
        """The node's value for that many tokens and a batch of one."""
        key = (node, tokens)
        if key not in self._memo:
            self._memo[key] = self._evaluated(node, tokens)
        return self._memo[key]

    def size(self, value: Any, tokens: int) -> Any:
        """A symbolic size as a number, for that many tokens and a batch of one."""
        known: dict[sympy.Symbol, int] = {self._captured.tokens: tokens}
        if self._captured.batch is not None:
            known[self._captured.batch] = 1
        result = value.node.expr.subs(known)
        return float(result) if isinstance(value, torch.SymFloat) else int(result)

    def table(self, node: fx.Node, dims: tuple[int, ...]) -> Tensor | None:
        """The node's value at the longest sequence, or None.

        None where the longest sequence is unknown, the table would be too large, or its rows for a
        shorter sequence are not the first rows of it.

        Args:
            node: a node without ids.
            dims: its dimensions that count tokens.
        """
        if node not in self._tables:
            self._tables[node] = self._made(node, dims)
        return self._tables[node]

    def rows_seen(
        self, node: fx.Node, dims: tuple[int, int], is_neutral: Callable[[Tensor], Tensor]
    ) -> bool:
        """Whether a mask does nothing to the keys that came before each query.

        Args:
            node: the mask.
            dims: its query and its key dimension.
            is_neutral: which entries change nothing, elementwise.
        """
        table = self.table(node, dims)
        if table is None:
            return False
        square = table.movedim(dims, (-2, -1))
        if square.shape[-1] != square.shape[-2]:
            return False
        later = torch.ones(square.shape[-2:], dtype=torch.bool, device=square.device).triu(1)
        return bool((is_neutral(square) | later).all())

    def is_causal(self, mask: fx.Node, dims: tuple[int, ...]) -> bool:
        """Whether an attention mask hides what comes later and nothing else."""
        table = self.table(mask, dims)
        if table is None or table.dim() < 2 or dims != (table.dim() - 2, table.dim() - 1):
            return False
        seen = table if table.dtype == torch.bool else table == 0
        hidden = ~table if table.dtype == torch.bool else table <= _HIDDEN
        before = torch.ones(table.shape[-2:], dtype=torch.bool, device=table.device).tril()
        return bool(torch.where(before, seen, hidden).all())

    def _made(self, node: fx.Node, dims: tuple[int, ...]) -> Any:
        longest = self.max_length
        if longest is None:
            return None
        sizes = [expression(size) for size in node.meta["val"].shape]
        batch = self._captured.batch
        if batch is not None and any(
            batch in size.free_symbols and size != batch for size in sizes
        ):
            return None
        elements = 1
        for size in node.meta["val"].shape:
            elements *= self.size(size, longest) if isinstance(size, torch.SymInt) else int(size)
        if elements > _MAX_TABLE_ELEMENTS:
            return None
        full = self.at(node, longest)
        for tokens in {1, 2, longest // 2, longest - 1}:
            if not 0 < tokens < longest:
                continue
            shorter = self.at(node, tokens)
            part = full[tuple(slice(tokens if dim in dims else None) for dim in range(full.dim()))]
            if part.shape != shorter.shape or not torch.equal(part, shorter):
                return None
        return full

    def _evaluated(self, node: fx.Node, tokens: int) -> Any:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt | torch.SymFloat):
            return self.size(value, tokens)
        if node.op == "get_attr":
            return tensor_at(self._captured.root, str(target_of(node)))
        args = fx.map_arg(node.args, lambda each: self.at(each, tokens))
        kwargs = fx.map_arg(node.kwargs, lambda each: self.at(each, tokens))
        with torch.no_grad():
            if node.op == "call_module":
                return self._captured.root.get_submodule(str(target_of(node)))(*args)
            return target_of(node)(*args, **kwargs)


def longest(captured: Captured, asked: int | None) -> int | None:
    """The longest sequence that a model takes, as far as it is known.

    The least of what was asked, what the graph was exported for, and the rows of position
    embeddings.
    """
    limits = [each for each in (asked, captured.limit) if each is not None]
    positions = Positions(captured, None)
    for node in captured.graph.nodes:
        if (
            node.op != "call_module"
            or node.meta["operator"] is not torch.ops.aten.embedding.default
        ):
            continue
        index = args_of(node)[0]
        if captured.ids not in _ancestors(index) and token_dims(index, captured.tokens):
            rows = tensor_at(captured.root, f"{node.target}.weight").shape[0]
            at_two = positions.at(index, 2).flatten()
            if at_two.numel() == 2 and int(at_two[1] - at_two[0]) == 1:
                limits.append(rows - int(at_two[0]))
    return min(limits, default=None)


def _ancestors(node: Any) -> set[fx.Node]:
    """The node with everything that it is computed from; sizes of ids do not count."""
    found: set[fx.Node] = set()
    pending = [node]
    while pending:
        here = pending.pop()
        if here in found or isinstance(here.meta.get("val"), torch.SymInt):
            continue
        found.add(here)
        pending.extend(here.all_input_nodes)
    return found
