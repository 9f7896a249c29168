"""Finds attention that is written by hand in a graph of operators, and reads its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.optimize.graph.capture import Operators, is_getitem
from engine.optimize.graph.fused import AttentionShape, FusedAttention, gathered, linear_of
from engine.optimize.graph.layout import is_layout
from engine.optimize.graph.positions import tensor_at

aten = torch.ops.aten
_SOFTMAX = {aten.softmax.int, aten._softmax.default}
_SCALES = {aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar}
_PRODUCTS = {aten.matmul.default: (0, 1), aten.bmm.default: (0, 1), aten.baddbmm.default: (1, 2)}
_CASTS = {aten.to.dtype, aten._to_copy.default, aten.to.dtype_layout, aten.type_as.default}
_HIDDEN = -1e4


class Unfit(Exception):
    """An attention that cannot be fused; the message says why."""


@dataclass(frozen=True)
class Weights:
    """One Linear: its weight [outputs, inputs] and bias."""

    node: fx.Node
    weight: Tensor
    bias: Tensor | None


@dataclass
class Head:
    """The heads of one softmax: which rows of which Linear they are made from.

    Attributes:
        scores, values: the two products.
        sides: for query, key and value the Linear and its rows, int64 [heads, width].
        scale: that scores are multiplied by.
        causal: the mask that was found.
    """

    softmax: fx.Node
    scores: fx.Node
    values: fx.Node
    sides: dict[str, tuple[Weights, Tensor]]
    scale: float
    causal: bool


@dataclass
class Attention:
    """All heads that one output projection joins, and the smallest module around them."""

    owner: str
    heads: list[Head] = field(default_factory=list)
    output: Weights | None = None
    order: Tensor | None = None
    residual: float = 0.0

    def fused(self) -> FusedAttention:
        """The same attention with one projection and one product.

        Raises:
            Unfit: heads that are not alike.
        """
        sizes = {(each.sides["query"][1].shape[1], each.sides["value"][1].shape[1]) for each in self.heads}
        masks = {(round(each.scale, 6), each.causal) for each in self.heads}
        if len(sizes) > 1 or len(masks) > 1:
            raise Unfit("its heads differ in width, scale or mask")
        (width, value_width), = sizes
        count = sum(len(each.sides["query"][1]) for each in self.heads)
        groups = self._groups()
        rows = []
        for side in ("query", "key", "value"):
            step = 1 if side == "query" else count // groups
            for linear, index in self._rows(side, step):
                rows.append((linear.weight, linear.bias, index))
        weight, bias = gathered(rows)
        first = self.heads[0]
        shape = AttentionShape(count, groups, width, value_width, first.causal, first.scale)
        dropout = float(first.softmax.meta.get("dropout", 0.0))
        return FusedAttention(
            shape, linear_of(weight, bias), self._projection(), dropout=dropout, residual=self.residual
        )

    def _rows(self, side: str, step: int) -> Iterator[tuple[Weights, Tensor]]:
        at = 0
        for head in self.heads:
            linear, index = head.sides[side]
            for each in index:
                if at % step == 0:
                    yield linear, each
                at += 1

    def _groups(self) -> int:
        """Key heads: query heads that share keys and values stand next to each other."""
        keys = [
            tuple((linear.node, *index.tolist()) for linear, index in pair)
            for pair in zip(self._rows("key", 1), self._rows("value", 1), strict=True)
        ]
        distinct = len(set(keys))
        size = len(keys) // distinct
        alike = all(keys[at] == keys[at - at % size] for at in range(len(keys)))
        return distinct if alike and distinct * size == len(keys) else len(keys)

    def _projection(self) -> nn.Module:
        if self.output is None or self.order is None:
            return nn.Identity()
        weight = torch.empty_like(self.output.weight)
        weight[:, self.order] = self.output.weight.detach()
        weight.requires_grad_(self.output.weight.requires_grad)
        return linear_of(weight, self.output.bias)


class AttentionReader:
    """Reads attention out of a graph whose sizes are fixed."""

    def __init__(self, operators: Operators) -> None:
        self._root = operators.root
        self._nodes = list(operators.graph.nodes)
        self._inputs = set(operators.inputs)

    def find(self) -> tuple[list[Attention], dict[str, str]]:
        """Attention that can be fused, and for other places the reason."""
        heads: list[Head] = []
        refused: dict[str, str] = {}
        for node in self._nodes:
            if node.target not in _SOFTMAX or not self._looks_like_attention(node):
                continue
            try:
                heads.append(self._head(node))
            except Unfit as reason:
                refused[node.meta.get("path") or "the model"] = str(reason)
        found: dict[Any, Attention] = {}
        for head in heads:
            try:
                end, output = self._output(head)
            except Unfit as reason:
                refused[head.softmax.meta.get("path") or "the model"] = str(reason)
                continue
            found.setdefault(end, Attention("", output=output)).heads.append(head)
        complete = []
        for end, attention in found.items():
            try:
                self._complete(attention, end)
                complete.append(attention)
            except Unfit as reason:
                refused[attention.owner or "the model"] = str(reason)
        return complete, refused

    def _looks_like_attention(self, node: fx.Node) -> bool:
        return any(user.target in _PRODUCTS for user in _through(node))

    def _head(self, softmax: fx.Node) -> Head:
        values = next(user for user in _through(softmax) if user.target in _PRODUCTS)
        if softmax.args[1] not in (-1, softmax.meta["val"].dim() - 1):
            raise Unfit("its softmax is not over the last dimension")
        scores, scale, causal = self._scores(softmax.args[0])  # type: ignore[arg-type]
        first, second = _PRODUCTS[scores.target]
        sides = {}
        for side, place in (("query", scores.args[first]), ("key", scores.args[second])):
            linear, index, factor = self._traced(place, transposed=side == "key")  # type: ignore[arg-type]
            sides[side] = (linear, index)
            scale *= factor
        if scores.target is aten.baddbmm.default:
            scale *= float(scores.kwargs.get("alpha", 1.0))  # type: ignore[arg-type]
            if scores.kwargs.get("beta", 1) != 0:
                raise Unfit("it adds a bias to its scores")
        at = _PRODUCTS[values.target][1]
        linear, index, factor = self._traced(values.args[at], transposed=False)  # type: ignore[arg-type]
        if factor != 1.0:
            raise Unfit("it scales its values")
        sides["value"] = (linear, index)
        sources = {each.node.args[0] for each, _ in sides.values()}
        if len(sources) > 1:
            raise Unfit("queries and keys come from two inputs (cross-attention)")
        return Head(softmax, scores, values, sides, scale, causal)

    def _scores(self, node: fx.Node) -> tuple[fx.Node, float, bool]:
        scale, causal = 1.0, False
        while node.target not in _PRODUCTS:
            target = node.target
            if target in _SCALES and not isinstance(node.args[1], fx.Node):
                value = float(node.args[1])  # type: ignore[arg-type]
                scale *= 1 / value if target in (aten.div.Tensor, aten.div.Scalar) else value
            elif target in (aten.masked_fill.Scalar, aten.masked_fill.Tensor, aten.where.self, aten.where.ScalarOther, aten.add.Tensor):
                source, seen = self._mask(node)
                causal = causal or seen
                node = source
                continue
            elif target not in _CASTS and not is_layout(node):
                raise Unfit(f"{_name(node)} stands between its scores and its softmax")
            node = node.args[0]  # type: ignore[assignment]
            if not isinstance(node, fx.Node):
                raise Unfit("its scores are no product")
        return node, scale, causal

    def _mask(self, node: fx.Node) -> tuple[fx.Node, bool]:
        """The masked scores, and whether the mask hides exactly what comes later."""
        masks = {aten.where.self: (1, 0, 2), aten.where.ScalarOther: (1, 0, 2), aten.add.Tensor: (0, 1, None)}
        place, at, fill = masks.get(node.target, (0, 1, 2))
        source, mask = node.args[place], node.args[at]
        if node.target is aten.add.Tensor and self._is_constant(source):
            source, mask = mask, source
        if not self._is_constant(mask):
            raise Unfit("its mask is an input of the model")
        value = self._value(mask, {})
        if node.target is aten.add.Tensor:
            if not bool(((value == 0) | (value <= _HIDDEN)).all()):
                raise Unfit("it adds a bias to its scores")
            seen = value == 0
        else:
            filled = self._value(node.args[fill], {}) if isinstance(node.args[fill], fx.Node) else node.args[fill]  # type: ignore[index]
            if not bool(torch.as_tensor(filled).max() <= _HIDDEN):
                raise Unfit("its mask does not hide scores")
            seen = value if node.target in masks else ~value
        tokens = source.meta["val"].shape[-1]  # type: ignore[union-attr]
        causal = torch.ones(tokens, tokens, dtype=torch.bool, device=seen.device).tril()
        if bool(seen.all()) and tokens > 1:
            return source, False  # type: ignore[return-value]
        if seen.shape[-2:] != causal.shape or not bool((seen == causal).all()):
            raise Unfit("its mask is neither causal nor open")
        return source, True  # type: ignore[return-value]

    def _traced(self, node: fx.Node, *, transposed: bool) -> tuple[Weights, Tensor, float]:
        """The Linear behind an operand, the rows that feed each head, and the scale on the way."""
        operand, scale = node, 1.0
        while not self._is_linear(node):
            if node.target in _SCALES and not isinstance(node.args[1], fx.Node):
                value = float(node.args[1])  # type: ignore[arg-type]
                scale *= 1 / value if node.target in (aten.div.Tensor, aten.div.Scalar) else value
            elif not is_layout(node) and not is_getitem(node) and node.target not in _CASTS:
                raise Unfit(f"{_name(node)} works on queries, keys or values before the product")
            node = node.args[0]  # type: ignore[assignment]
        weights = self._weights(node)
        shape = node.meta["val"].shape
        numbers = torch.arange(shape[-1], dtype=torch.float64).expand(shape)
        placed = self._value(operand, {node: numbers})
        if transposed:
            placed = placed.transpose(-2, -1)
        tokens = placed.shape[-2]
        batch = numbers.numel() // shape[-1] // tokens
        divisor = 1.0 if scale == 1.0 else scale
        heads = (placed / divisor).round().long().reshape(-1, tokens, placed.shape[-1])
        if bool((heads != heads[:, :1]).any()) or batch < 1:
            raise Unfit("its heads mix tokens")
        return weights, heads[: len(heads) // batch, 0], scale

    def _output(self, head: Head) -> tuple[fx.Node, Weights | None]:
        """Where its heads end: the output projection, or the node that joins them."""
        node = head.values
        while True:
            users = [user for user in node.users if user.op != "output"]
            if len(users) != 1:
                return node, None
            (user,) = users
            if self._is_linear(user) and user.args[0] is node:
                return user, self._weights(user)
            if not is_layout(user) and user.target not in (aten.cat.default, *_CASTS):
                return node, None
            node = user

    def _complete(self, attention: Attention, end: fx.Node) -> None:
        paths = [each.softmax.meta.get("path", "") for each in attention.heads]
        paths += [linear.node.meta.get("path", "") for each in attention.heads for linear, _ in each.sides.values()]
        paths.append(end.meta.get("path", ""))
        parts = [path.split(".") if path else [] for path in paths]
        shared = []
        for names in zip(*parts, strict=False):
            if len(set(names)) > 1:
                break
            shared.append(names[0])
        attention.owner = ".".join(shared)
        known, first = {}, 0
        for head in attention.heads:
            shape = head.values.meta["val"].shape
            count, width = head.sides["value"][1].shape
            numbers = torch.arange(first, first + count * width, dtype=torch.float64)
            whole = numbers.view(count, 1, width).expand(count, shape[-2], width)
            batch = head.values.meta["val"].numel() // whole.numel()
            known[head.values] = whole.expand(batch, *whole.shape).reshape(shape)
            first += count * width
        joined = end.args[0] if attention.output is not None else end
        order = self._value(joined, known).round().long()
        flat = order.reshape(-1, order.shape[-1])
        if bool((flat != flat[:1]).any()) or sorted(flat[0].tolist()) != list(range(first)):
            raise Unfit("its heads are joined in a way that is not followed")
        attention.order = flat[0]
        if attention.output is None and flat[0].tolist() != list(range(first)):
            raise Unfit("its heads are interleaved without an output projection")
        attention.residual = float(end.meta.get("dropout", 0.0)) if attention.output else 0.0

    def _is_linear(self, node: Any) -> bool:
        if not isinstance(node, fx.Node):
            raise Unfit("its operands come from no Linear")
        if node.op == "call_module":
            return node.meta.get("operator") is aten.linear.default
        if node.op == "placeholder" or node.op == "get_attr":
            raise Unfit("its operands come from no Linear")
        return node.target in (aten.linear.default, aten.addmm.default)

    def _weights(self, node: fx.Node) -> Weights:
        if node.op == "call_module":
            owner = self._root.get_submodule(str(node.target))
            return Weights(node, owner.weight, owner.bias)  # type: ignore[arg-type]
        if node.target is aten.addmm.default:
            bias, _, weight = node.args[:3]
            return Weights(node, self._value(weight, {}).t(), self._value(bias, {}))
        bias = node.args[2] if len(node.args) > 2 else None
        return Weights(node, self._value(node.args[1], {}), None if bias is None else self._value(bias, {}))

    def _is_constant(self, value: Any) -> bool:
        pending, seen = [value], set()
        while pending:
            node = pending.pop()
            if not isinstance(node, fx.Node) or node in seen:
                continue
            if node in self._inputs:
                return False
            seen.add(node)
            pending.extend(node.all_input_nodes)
        return isinstance(value, fx.Node)

    def _value(self, node: Any, known: dict[fx.Node, Tensor]) -> Any:
        """The value of a node, given those of some nodes before it."""
        if not isinstance(node, fx.Node):
            return node
        if node not in known:
            if node.op == "get_attr":
                return tensor_at(self._root, str(node.target))
            if node.op == "placeholder":
                raise Unfit("it depends on an input of the model")
            args = fx.map_arg(node.args, lambda each: self._value(each, known))
            kwargs = fx.map_arg(node.kwargs, lambda each: self._value(each, known))
            call = self._root.get_submodule(str(node.target)) if node.op == "call_module" else node.target
            if node.target in _CASTS and node.args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
                known[node] = args[0]
            else:
                with torch.no_grad():
                    known[node] = call(*args, **kwargs)  # type: ignore[operator]
        return known[node]


def _through(node: fx.Node) -> Iterator[fx.Node]:
    """The users of a node, behind layout changes and casts."""
    for user in node.users:
        yield user
        if is_layout(user) or user.target in _CASTS:
            yield from _through(user)


def _name(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.").split(".")[0]
