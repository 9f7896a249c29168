"""Tables of what depends on positions alone, held beside a model's weights."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor, fx

from engine.optimize.graph.capture import Captured
from engine.optimize.graph.nodes import args_of, graft, is_boundary, target_of, token_dims
from engine.optimize.graph.positions import Positions

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


class Tables:
    """Puts tables under names of the captured root, one for all nodes with the same content."""

    def __init__(self, captured: Captured, positions: Positions) -> None:
        self._captured = captured
        self._positions = positions
        self._made: list[tuple[Tensor, str]] = []

    def name(self, node: fx.Node, table: Tensor) -> str:
        """The dotted name of the tensor whose first rows the node is."""
        return self._held_under(node) or self._grafted(table)

    def read_in_graph(self, data: Container[fx.Node]) -> None:
        """Reads tables in the captured graph too, in place of computing them.

        What is read from a table follows the model to another dtype; what is computed in the
        graph keeps the dtype of the export.

        Args:
            data: the nodes that depend on ids.
        """
        graph = self._captured.graph
        with graph.inserting_after(self._captured.ids):
            tokens = graph.call_method("size", (self._captured.ids, 1))
        memo: dict[tuple[str, tuple[int, ...]], fx.Node] = {}
        for node in list(graph.nodes):
            if node not in data:
                continue
            self._without_mask(node, data)
            for value in node.all_input_nodes:
                dims = () if value in data else token_dims(value, self._captured.tokens)
                table = self._positions.table(value, dims) if dims else None
                if table is None:
                    continue
                key = (self.name(value, table), dims)
                if key not in memo:
                    with graph.inserting_after(tokens):
                        made = graph.get_attr(key[0])
                    with graph.inserting_before(node):
                        for dim in dims:
                            made = graph.call_method("narrow", (made, dim, 0, tokens))
                    memo[key] = made
                node.replace_input_with(value, memo[key])
        graph.eliminate_dead_code(is_boundary)

    def _without_mask(self, node: fx.Node, data: Container[fx.Node]) -> None:
        """Attention that knows it is causal skips half of the scores; a mask costs a read."""
        if target_of(node) is not _ATTENTION:
            return
        at = args_of(node)
        mask = at[3] if len(at) > 3 else node.kwargs.get("attn_mask")
        if not isinstance(mask, fx.Node) or mask in data:
            return
        if self._positions.is_causal(mask, token_dims(mask, self._captured.tokens)):
            kept = {k: v for k, v in node.kwargs.items() if k not in ("attn_mask", "is_causal")}
            node.args = tuple(at[:3])
            node.kwargs = {**kept, "is_causal": True}

    def _held_under(self, node: fx.Node) -> str | None:
        """The parameter or buffer whose first rows the node is: no copy is needed."""
        longest = self._positions.max_length
        while target_of(node) is torch.ops.aten.slice.Tensor and args_of(node)[2] in (None, 0):
            node = args_of(node)[0]
        if node.op == "get_attr":
            return str(target_of(node))
        if node.op == "call_module" and isinstance(args_of(node)[0], fx.Node) and longest:
            owner = self._captured.root.get_submodule(str(target_of(node)))
            rows = self._positions.at(args_of(node)[0], longest)
            if isinstance(owner, torch.nn.Embedding) and rows.dim() == 1:
                counted = torch.arange(longest, dtype=rows.dtype, device=rows.device)
                return f"{target_of(node)}.weight" if torch.equal(rows, counted) else None
        return None

    def _grafted(self, table: Tensor) -> str:
        for known, name in self._made:
            if known.shape == table.shape and known.dtype == table.dtype and known.equal(table):
                return name
        name = f"positions.table_{len(self._made)}"
        graft(self._captured.root, name, table.detach().clone())
        self._made.append((table, name))
        return name
