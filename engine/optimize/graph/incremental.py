"""From the graph of a whole forward to the graph of one more token."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from engine.errors import StepRefused
from engine.optimize.graph.capture import Captured
from engine.optimize.graph.layout import (
    Blocked,
    Roles,
    is_layout,
    is_turn,
    moved_roles,
    shape_method,
    turned,
)
from engine.optimize.graph.nodes import (
    args_of,
    expression,
    is_boundary,
    is_getitem,
    target_of,
    token_dims,
)
from engine.optimize.graph.positions import Positions
from engine.optimize.graph.tables import Tables

_SIZES: dict[str, Callable[[Any, Any], Any]] = {
    "Mul": operator.mul,
    "Add": operator.add,
    "Max": max,
    "Min": min,
}
QUERY, KEY, POSITION = "query", "key", "position"


class Incremental:
    """Builds the step graph node by node.

    Every dimension of a tensor that depends on ids has a role: `query` holds the tokens that are
    being asked, of which the step has one; `key` all tokens so far; `position` all positions,
    from a part that does not depend on ids. Where a query dimension is paired with another one
    (scores = q·kᵀ) or summed over (weights·v), the tensor on that side is needed for all tokens:
    it becomes part of the cache.

    Attributes:
        graph: of the step; its inputs are the token and the cache.
        cached: the nodes of the captured graph that are cached, in the order of their use.
        cache_dims: for each of them the dimension that counts tokens.
    """

    def __init__(self, captured: Captured, max_length: int | None) -> None:
        self.captured = captured
        self.positions = Positions(captured, max_length)
        self.graph = fx.Graph()
        self.cached: list[fx.Node] = []
        self.cache_dims: list[int] = []
        self.roles: dict[fx.Node, Roles] = {}
        self._new: dict[fx.Node, Any] = {}
        self._full: dict[fx.Node, fx.Node] = {}
        self._token = self.graph.placeholder("token")
        self._last_input = self.graph.placeholder("past_0")
        # Which dimension counts tokens is known once the first tensor is cached.
        self._length = self.graph.call_method("size", (self._last_input, 0))
        self._memo: dict[Any, fx.Node] = {}
        # Values whose elements are those of another value in the same order.
        self._reshaped: dict[fx.Node, fx.Node] = {}
        self.tables = Tables(captured, self.positions)

    def build(self) -> fx.Graph:
        """The step graph: (token, *cache) to (logits, *cache).

        Raises:
            StepRefused: an operator mixes tokens in a way that a cache cannot serve.
        """
        from engine.optimize.graph.rules import rule_of

        self.roles[self.captured.ids] = (None, QUERY)
        self._new[self.captured.ids] = self._token
        for node in self.captured.graph.nodes:
            if node.op not in ("call_function", "call_module") or not self._reads_ids(node):
                continue
            try:
                rule_of(node)(self, node)
                self._check_roles(node)
            except Blocked as reason:
                raise StepRefused(
                    f"Not causal token by token: {describe(node)}: {reason}."
                ) from reason
        logits = self.captured.logits
        if self.roles.get(logits, ())[1:2] != (QUERY,):
            raise StepRefused(
                "The logits do not belong to one token each: [batch, tokens, vocabulary]."
            )
        if not self.cached:
            raise StepRefused("No token looks at another one here: there is nothing to cache.")
        last = self.graph.call_method("select", (self._new[logits], 1, -1))
        self.graph.output((last, *(self._full[node] for node in self.cached)))
        self.graph.eliminate_dead_code(is_boundary)
        return self.graph

    # ---- what rules call ------------------------------------------------------------------

    def is_data(self, value: Any) -> bool:
        """Whether a value depends on ids."""
        return isinstance(value, fx.Node) and value in self.roles

    def roles_of(self, value: fx.Node) -> Roles:
        """The roles of the dimensions of any tensor node."""
        if value in self.roles:
            return self.roles[value]
        dims = token_dims(value, self.captured.tokens)
        rank = value.meta["val"].dim()
        return tuple(POSITION if dim in dims else None for dim in range(rank))

    def emit(
        self,
        node: fx.Node,
        args: tuple[Any, ...],
        roles: Roles,
        kwargs: Mapping[str, Any] | None = None,
    ) -> fx.Node:
        """Adds the node's own operator to the step, with these arguments and roles."""
        made = self.graph.create_node(
            node.op, target_of(node), args, dict(node.kwargs if kwargs is None else kwargs)
        )
        made.meta["path"] = node.meta.get("path", "")
        self._new[node], self.roles[node] = made, roles
        return made

    def replace(self, node: fx.Node, value: fx.Node, roles: Roles) -> None:
        """Lets another value of the step stand for the node."""
        self._new[node], self.roles[node] = value, roles

    def operand(self, value: fx.Node, wanted: Roles) -> fx.Node:
        """A tensor of the captured graph in the step, with the roles that its user needs.

        Raises:
            Blocked: it cannot have them.
        """
        held = self.roles_of(value)
        if value not in self.roles:
            return self._position(value, wanted)
        if held == wanted:
            made: fx.Node = self._new[value]
            return made
        found: fx.Node = self._new[value]
        if any(was == QUERY and now == KEY for was, now in zip(held, wanted, strict=True)):
            if KEY in held:
                raise Blocked("all tokens of something that already spans all tokens")
            found = self.full(value)
        for dim, (was, now) in enumerate(zip(held, wanted, strict=True)):
            if was == POSITION and now == QUERY:
                found = self.graph.call_method("narrow", (found, dim, self.past(), 1))
        return found

    def full(self, node: fx.Node) -> fx.Node:
        """The node's value for all tokens so far: what is cached with the new rows behind it."""
        if node in self._full:
            return self._full[node]
        point, chain = self._cache_point(node)
        value = self._full.get(point)
        if value is None:
            value = self._cache(point)
        for each in reversed(chain):
            if each not in self._full:
                roles = tuple(KEY if role == QUERY else role for role in self.roles[each])
                self._full[each] = self._moved(each, value, roles)
            value = self._full[each]
        return value

    def layout(self, node: fx.Node) -> None:
        """Carries a layout operator over."""
        source = args_of(node)[0]
        roles = moved_roles(node, self.roles[source], self.captured.tokens)
        self.replace(node, self._moved(node, self._new[source], roles), roles)

    def plain(self, value: Any) -> Any:
        """An argument that is no data tensor: constants and sizes."""
        if not isinstance(value, fx.Node):
            return value
        held = value.meta.get("val")
        if isinstance(held, torch.SymInt | torch.SymFloat | torch.SymBool):
            return self.size(expression(held), self.total())
        return self._position(value, self.roles_of(value))

    def size(self, size: Any, tokens: Any) -> Any:
        """A symbolic size as a number or a node of the step; `tokens` stands for their number."""
        if size.is_Integer:
            return int(size)
        if size == self.captured.batch:
            return self._once("batch", lambda: self.graph.call_method("size", (self._token, 0)))
        if size == self.captured.tokens:
            return tokens
        apply: Callable[[Any, Any], Any] | None = _SIZES.get(size.func.__name__)
        if apply is not None:
            return functools.reduce(
                lambda one, other: self._folded(apply, one, other),
                [self.size(each, tokens) for each in size.args],
            )
        raise Blocked(f"its size {size} is not made of batch and tokens alone")

    def past(self) -> fx.Node:
        """How many tokens are in the cache."""
        return self._length

    def total(self) -> fx.Node:
        """How many tokens there are with the new one."""
        return self._once(
            "total", lambda: self.graph.call_function(operator.add, (self._length, 1))
        )

    def bytes_for_one_token(self, node: fx.Node) -> int:
        """Bytes that a cached node keeps for one token of one sequence."""
        value: Tensor = node.meta["val"]
        return (self._elements_for_one_token(node) or 0) * value.element_size()

    def drops_mask(self, mask: fx.Node, roles: Roles, neutral: Any) -> bool:
        """Whether a mask without ids lets the newest token see all tokens before it."""
        if mask in self.roles or QUERY not in roles or KEY not in roles:
            return False
        dims = (roles.index(QUERY), roles.index(KEY))
        if token_dims(mask, self.captured.tokens) != tuple(sorted(dims)):
            return False
        return self.positions.rows_seen(mask, dims, neutral)

    # ---- the cache ------------------------------------------------------------------------

    def _cache(self, node: fx.Node) -> fx.Node:
        dim = self.roles[node].index(QUERY)
        if not self.cached:
            past, self._length.args = self._last_input, (self._last_input, dim)
        else:
            with self.graph.inserting_after(self._last_input):
                past = self.graph.placeholder(f"past_{len(self.cached)}")
        self._last_input = past
        self.cached.append(node)
        self.cache_dims.append(dim)
        self._full[node] = self.graph.call_function(torch.cat, ((past, self._new[node]), dim))
        return self._full[node]

    def _cache_point(self, node: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
        """Where to cache: the smallest layout of these tokens, the one nearest to its use."""
        best: tuple[fx.Node, list[fx.Node]] | None = None
        least: int | None = None
        chain: list[fx.Node] = []
        here = node
        while True:
            elements = self._elements_for_one_token(here)
            if elements is not None and (least is None or elements < least):
                best, least = (here, list(chain)), elements
            source = args_of(here)[0] if is_layout(here) and not is_getitem(here) else None
            if not isinstance(source, fx.Node) or KEY in self.roles.get(source, (KEY,)):
                break
            chain.append(here)
            here = source
        if best is None:
            raise Blocked("its tokens are mixed with another dimension")
        return best

    def _elements_for_one_token(self, node: fx.Node) -> int | None:
        value = node.meta["val"]
        if not isinstance(value, Tensor) or self.roles[node].count(QUERY) != 1:
            return None
        at = self.roles[node].index(QUERY)
        sizes = [expression(size) for size in value.shape]
        if sizes[at] != self.captured.tokens:
            return None
        product = sympy.Integer(1)
        for dim, size in enumerate(sizes):
            product *= 1 if dim == at else size
        return int(product.subs(dict.fromkeys(product.free_symbols, 1)))

    # ---- arguments ------------------------------------------------------------------------

    def _moved(self, node: fx.Node, value: fx.Node, roles: Roles) -> fx.Node:
        """A layout operator in the step; where only sizes of one change place it copies nothing."""
        method = shape_method(node)
        if is_turn(node):
            source = args_of(node)[0]
            order = turned(node)
            ones = self._single(source) if QUERY in roles else set()
            keeps = [dim for dim in order if dim not in ones]
            if keeps == sorted(keeps):
                if value in self._reshaped:
                    method, value = "reshape", self._reshaped[value]
                else:
                    made = self._located(
                        node, self.graph.call_function(target_of(node), (value, *args_of(node)[1:]))
                    )
                    self._reshaped[made] = value
                    return made
        if method is None:
            return self._located(
                node,
                self.graph.call_function(
                    target_of(node), (value, *args_of(node)[1:]), dict(node.kwargs)
                ),
            )
        shape = [
            self.size(expression(size), 1 if role == QUERY else self.total())
            for size, role in zip(node.meta["val"].shape, roles, strict=True)
        ]
        if method == "expand":
            return self._located(node, self.graph.call_method(method, (value, shape)))
        base = self._reshaped.get(value, value)
        made = self._located(node, self.graph.call_method(method, (base, shape)))
        self._reshaped[made] = base
        return made

    def _single(self, node: fx.Node) -> set[int]:
        """The dimensions that have size one in the step: the query tokens alone."""
        sizes = [expression(size) for size in node.meta["val"].shape]
        roles = self.roles[node]
        return {d for d, s in enumerate(sizes) if roles[d] == QUERY and s == self.captured.tokens}

    def _located(self, node: fx.Node, made: fx.Node) -> fx.Node:
        made.meta["path"] = node.meta.get("path", "")
        return made

    def _position(self, node: fx.Node, wanted: Roles) -> fx.Node:
        held = self.roles_of(node)
        dims = tuple(dim for dim, role in enumerate(held) if role == POSITION)
        wanted = tuple(wanted[dim] if dim in dims else None for dim in range(len(held)))
        table = self.positions.table(node, dims) if dims else None
        value = self._computed(node) if table is None else self._table_node(node, table)
        for dim in dims:
            if wanted[dim] == QUERY:
                value = self._narrowed(value, dim, self.past(), 1)
            elif table is not None:
                value = self._narrowed(value, dim, 0, self.total())
        return value

    def _narrowed(self, value: fx.Node, dim: int, start: Any, length: Any) -> fx.Node:
        given = (value, dim, start, length)
        return self._once(given, lambda: self.graph.call_method("narrow", given))

    def _table_node(self, node: fx.Node, table: Tensor) -> fx.Node:
        name = self.tables.name(node, table)
        return self._once(name, lambda: self.graph.get_attr(name))

    def _computed(self, node: fx.Node) -> fx.Node:
        if node in self._memo:
            return self._memo[node]
        args = fx.map_arg(args_of(node), self.plain_computed)
        kwargs = fx.map_arg(node.kwargs, self.plain_computed)
        made = self.graph.create_node(node.op, target_of(node), args, kwargs)
        made.meta["path"] = node.meta.get("path", "")
        self._memo[node] = made
        return made

    def plain_computed(self, value: fx.Node) -> Any:
        """An argument of a part without ids, computed for all tokens so far."""
        held = value.meta.get("val")
        if isinstance(held, torch.SymInt | torch.SymFloat | torch.SymBool):
            return self.size(expression(held), self.total())
        return self._computed(value)

    def _folded(self, apply: Callable[[Any, Any], Any], one: Any, other: Any) -> Any:
        if isinstance(one, fx.Node) or isinstance(other, fx.Node):
            return self._once(
                (apply, one, other), lambda: self.graph.call_function(apply, (one, other))
            )
        return apply(one, other)

    def _once(self, key: Any, make: Callable[[], fx.Node]) -> fx.Node:
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    # ---- checks ---------------------------------------------------------------------------

    def _reads_ids(self, node: fx.Node) -> bool:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return False
        return any(each in self.roles for each in node.all_input_nodes)

    def _check_roles(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return
        roles = self.roles[node]
        if len(roles) != value.dim():
            raise Blocked("its dimensions cannot be followed")
        if roles.count(QUERY) > 1 or roles.count(KEY) > 1:
            raise Blocked("tokens stand in two of its dimensions")
        dims = token_dims(node, self.captured.tokens)
        if any(roles[dim] is None for dim in dims):
            raise Blocked("it makes a dimension out of the number of tokens")
        if QUERY not in roles:
            raise Blocked("it leaves no dimension for the tokens")


def describe(node: fx.Node) -> str:
    """The operator and the module that calls it, for a message."""
    name = str(node.meta.get("operator", target_of(node))).removeprefix("aten.").split(".")[0]
    path = node.meta.get("path") or "the model itself"
    return f"aten.{name} in {path}"
