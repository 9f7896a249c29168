"""Finds attention that is written by hand in a graph of operators, and reads its weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from engine.optimize.graph.capture import Operators
from engine.optimize.graph.heads import Attention, Head, Unfit, Weights
from engine.optimize.graph.layout import is_layout
from engine.optimize.graph.nodes import args_of, is_getitem, kwargs_of, target_of, tensor_at

aten = torch.ops.aten
_SOFTMAX = {aten.softmax.int, aten._softmax.default}
_SCALES = {aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar}
_PRODUCTS = {aten.matmul.default: (0, 1), aten.bmm.default: (0, 1), aten.baddbmm.default: (1, 2)}
_CASTS = {aten.to.dtype, aten._to_copy.default, aten.to.dtype_layout, aten.type_as.default}
_HIDDEN = -1e4


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
            if target_of(node) not in _SOFTMAX or not self._looks_like_attention(node):
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
        return any(target_of(user) in _PRODUCTS for user in _through(node))

    def _head(self, softmax: fx.Node) -> Head:
        values = next(user for user in _through(softmax) if target_of(user) in _PRODUCTS)
        if args_of(softmax)[1] not in (-1, softmax.meta["val"].dim() - 1):
            raise Unfit("its softmax is not over the last dimension")
        scores, scale, causal = self._scores(args_of(softmax)[0])
        first, second = _PRODUCTS[target_of(scores)]
        sides = {}
        for side, place in (("query", args_of(scores)[first]), ("key", args_of(scores)[second])):
            linear, index, factor = self._traced(place, transposed=side == "key")
            sides[side] = (linear, index)
            scale *= factor
        if target_of(scores) is aten.baddbmm.default:
            scale *= float(kwargs_of(scores).get("alpha", 1.0))
            if scores.kwargs.get("beta", 1) != 0:
                raise Unfit("it adds a bias to its scores")
        at = _PRODUCTS[target_of(values)][1]
        linear, index, factor = self._traced(args_of(values)[at], transposed=False)
        if factor != 1.0:
            raise Unfit("it scales its values")
        sides["value"] = (linear, index)
        sources = {args_of(each.node)[0] for each, _ in sides.values()}
        if len(sources) > 1:
            raise Unfit("queries and keys come from two inputs (cross-attention)")
        return Head(softmax, scores, values, sides, scale, causal)

    def _scores(self, node: fx.Node) -> tuple[fx.Node, float, bool]:
        scale, causal = 1.0, False
        while target_of(node) not in _PRODUCTS:
            target = target_of(node)
            if target in _SCALES and not isinstance(args_of(node)[1], fx.Node):
                value = float(args_of(node)[1])
                scale *= 1 / value if target in (aten.div.Tensor, aten.div.Scalar) else value
            elif target in (
                aten.masked_fill.Scalar,
                aten.masked_fill.Tensor,
                aten.where.self,
                aten.where.ScalarOther,
                aten.add.Tensor,
            ):
                source, seen = self._mask(node)
                causal = causal or seen
                node = source
                continue
            elif target not in _CASTS and not is_layout(node):
                raise Unfit(f"{_name(node)} stands between its scores and its softmax")
            node = args_of(node)[0]
            if not isinstance(node, fx.Node):
                raise Unfit("its scores are no product")
        return node, scale, causal

    def _mask(self, node: fx.Node) -> tuple[fx.Node, bool]:
        """The masked scores, and whether the mask hides exactly what comes later."""
        masks = {aten.where.self: (1, 0), aten.where.ScalarOther: (1, 0)}
        place, at = masks.get(target_of(node), (0, 1))
        source, mask = args_of(node)[place], args_of(node)[at]
        if target_of(node) is aten.add.Tensor and self._is_constant(source):
            source, mask = mask, source
        if not self._is_constant(mask):
            raise Unfit("its mask is an input of the model")
        value = self._value(mask, {})
        if target_of(node) is aten.add.Tensor:
            if not bool(((value == 0) | (value <= _HIDDEN)).all()):
                raise Unfit("it adds a bias to its scores")
            seen = value == 0
        else:
            filled = self._value(args_of(node)[2], {})
            if not bool(torch.as_tensor(filled).max() <= _HIDDEN):
                raise Unfit("its mask does not hide scores")
            seen = value if target_of(node) in masks else ~value
        tokens = source.meta["val"].shape[-1]
        causal = torch.ones(tokens, tokens, dtype=torch.bool, device=seen.device).tril()
        if bool(seen.all()) and tokens > 1:
            return source, False
        if seen.shape[-2:] != causal.shape or not bool((seen == causal).all()):
            raise Unfit("its mask is neither causal nor open")
        return source, True

    def _traced(self, node: fx.Node, *, transposed: bool) -> tuple[Weights, Tensor, float]:
        """The Linear behind an operand, the rows that feed each head, and the scale on the way."""
        operand, scale = node, 1.0
        while not self._is_linear(node):
            if target_of(node) in _SCALES and not isinstance(args_of(node)[1], fx.Node):
                value = float(args_of(node)[1])
                scale *= (
                    1 / value if target_of(node) in (aten.div.Tensor, aten.div.Scalar) else value
                )
            elif not is_layout(node) and not is_getitem(node) and target_of(node) not in _CASTS:
                raise Unfit(f"{_name(node)} works on queries, keys or values before the product")
            node = args_of(node)[0]
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
            if self._is_linear(user) and args_of(user)[0] is node:
                return user, self._weights(user)
            if not is_layout(user) and target_of(user) not in (aten.cat.default, *_CASTS):
                return node, None
            node = user

    def _complete(self, attention: Attention, end: fx.Node) -> None:
        paths = [each.softmax.meta.get("path", "") for each in attention.heads]
        paths += [
            linear.node.meta.get("path", "")
            for each in attention.heads
            for linear, _ in each.sides.values()
        ]
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
        joined = args_of(end)[0] if attention.output is not None else end
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
        return target_of(node) in (aten.linear.default, aten.addmm.default)

    def _weights(self, node: fx.Node) -> Weights:
        if node.op == "call_module":
            owner = self._root.get_submodule(str(target_of(node)))
            return Weights(node, tensor_at(self._root, f"{node.target}.weight"), owner.bias)  # type: ignore[arg-type]
        if target_of(node) is aten.addmm.default:
            bias, _, weight = args_of(node)[:3]
            return Weights(node, self._value(weight, {}).t(), self._value(bias, {}))
        bias = args_of(node)[2] if len(args_of(node)) > 2 else None
        return Weights(
            node, self._value(args_of(node)[1], {}), None if bias is None else self._value(bias, {})
        )

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
                return tensor_at(self._root, str(target_of(node)))
            if node.op == "placeholder":
                raise Unfit("it depends on an input of the model")
            args = fx.map_arg(args_of(node), lambda each: self._value(each, known))
            kwargs = fx.map_arg(node.kwargs, lambda each: self._value(each, known))
            call = (
                self._root.get_submodule(str(target_of(node)))
                if node.op == "call_module"
                else target_of(node)
            )
            if (
                target_of(node) in _CASTS
                and args_of(node)
                and isinstance(args[0], Tensor)
                and args[0].dtype == torch.float64
            ):
                known[node] = args[0]
            else:
                with torch.no_grad():
                    known[node] = call(*args, **kwargs)
        return known[node]


def _through(node: fx.Node) -> Iterator[fx.Node]:
    """The users of a node, behind layout changes and casts."""
    for user in node.users:
        yield user
        if is_layout(user) or target_of(user) in _CASTS:
            yield from _through(user)


def _name(node: fx.Node) -> str:
    return str(target_of(node)).removeprefix("aten.").split(".")[0]
