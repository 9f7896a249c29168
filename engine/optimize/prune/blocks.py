"""Finds what can be removed: channels and heads that only one following layer looks at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.optimize.graph.capture import capture_operators
from engine.optimize.prune.sharing import shared_parameters
from engine.optimize.prune.units import Block, Layer
from engine.program import Inputs

ELEMENTWISE = {
    "relu", "relu_", "gelu", "silu", "silu_", "tanh", "sigmoid", "mul", "add", "sub", "div", "neg",
    "pow", "clone", "contiguous", "to", "dropout", "hardtanh", "hardswish", "hardsigmoid",
    "leaky_relu", "elu", "softplus", "mish", "relu6", "square", "abs", "alias", "_to_copy", "erf",
}  # fmt: skip
POOLS = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "max_pool1d", "avg_pool1d"}
RESHAPES = {"view", "reshape", "flatten", "_unsafe_view"}
_LAYOUT = {*RESHAPES, "transpose", "permute", "contiguous", "clone", "to", "dropout"}


def find_blocks(module: nn.Module, inputs: Inputs) -> list[Block]:
    """Blocks in the order in which they run.

    Left out are channels that a residual connection carries, layers that are called twice or share
    their weight with another, and whatever lies between with an operator that mixes channels.

    Raises:
        StepRefused: the module cannot be read as a graph.
    """
    return blocks_of(module, capture_operators(module, inputs).graph)


def blocks_of(module: nn.Module, graph: fx.Graph) -> list[Block]:
    """The same blocks from a graph that was captured before."""
    return list(_Finder(module, graph).blocks())


class _Finder:
    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        self._module = module
        self._graph = graph
        self._products = {node: each for node in graph.nodes if (each := self._layer(node))}
        calls = Counter(each.name for each in self._products.values())
        self._twice = {name for name, count in calls.items() if count > 1}
        self._tied = shared_parameters(module)

    def blocks(self) -> Iterator[Block]:
        """Every block, in the order of the consumers."""
        for node, layer in self._products.items():
            if self._is_bound(layer):
                continue
            found = self._channels(node, layer) or self._heads(node, layer)
            if found and not any(self._is_bound(each) for each in found.producers.values()):
                yield found

    def _is_bound(self, layer: Layer) -> bool:
        return layer.name in self._twice or id(layer.module.weight) in self._tied

    def _layer(self, node: fx.Node) -> Layer | None:
        if node.op == "call_module":
            owner = self._module.get_submodule(str(node.target))
            return Layer(str(node.target), owner) if type(owner) is nn.Linear else None
        position = {"conv2d": 1, "conv1d": 1, "addmm": 2}.get(operator_name(node))
        if position is None or not isinstance(node.args[position], fx.Node):
            return None
        weight = node.args[position]
        path, _, leaf = str(weight.target).rpartition(".")  # type: ignore[union-attr]
        if weight.op != "get_attr" or leaf != "weight":  # type: ignore[union-attr]
            return None
        owner = self._module.get_submodule(path)
        layer = Layer(path, owner)
        is_plain = type(owner) in (nn.Conv1d, nn.Conv2d) and owner.groups == 1
        return layer if is_plain or layer.is_transposed else None

    def _input(self, node: fx.Node) -> fx.Node:
        return node.args[1 if operator_name(node) == "addmm" else 0]  # type: ignore[return-value]

    # ---- channels

    def _channels(self, node: fx.Node, consumer: Layer) -> Block | None:
        pending, region, made = [self._input(node)], set(), {}
        norms: list[nn.Module] = []
        while pending:
            each = pending.pop()
            if each in region or each in made:
                continue
            if each in self._products:
                made[each] = self._products[each]
                continue
            if not self._keeps_channels(each):
                return None
            region.add(each)
            if operator_name(each) == "batch_norm":
                norms.append(self._norm_of(each))
                pending.append(each.args[0])  # type: ignore[arg-type]
            else:
                pending += each.all_input_nodes
        if not made or not _is_closed({*region, *made}, node):
            return None
        sizes = {layer.weight.shape[0] for layer in made.values()}
        features = consumer.weight.shape[1]
        units = sizes.pop()
        if sizes or units < 2 or features % units:
            return None
        columns = torch.arange(features).reshape(units, -1)
        layers = {layer.name: layer for layer in made.values()}
        rows = {name: [torch.arange(units)[:, None]] for name in layers}
        return Block("ffn", consumer, layers, rows, columns, norms)

    def _keeps_channels(self, node: fx.Node) -> bool:
        name = operator_name(node)
        if node.op not in ("call_function", "call_method"):
            return False
        if name in RESHAPES:
            before, after = shape_of(node.args[0]), shape_of(node)
            is_flattened = len(before) > 2 and after == (before[0], _product(before[1:]))
            return before[-1] == after[-1] or (is_flattened and self._comes_from_image(node))
        if name == "batch_norm":
            return True
        if name not in ELEMENTWISE | POOLS:
            return False
        # Every tensor in it has the channels themselves: nothing is broadcast over them.
        shapes = [shape_of(each) for each in node.all_input_nodes]
        return name in POOLS or all(shape == shape_of(node) for shape in shapes)

    def _comes_from_image(self, node: fx.Node) -> bool:
        source = node.args[0]
        while isinstance(source, fx.Node) and source not in self._products:
            source = source.args[0]
        return source in self._products and self._products[source].is_convolution

    def _norm_of(self, node: fx.Node) -> nn.Module:
        path = str(node.args[3].target).rpartition(".")[0]  # type: ignore[union-attr]
        return self._module.get_submodule(path)

    # ---- heads

    def _heads(self, node: fx.Node, consumer: Layer) -> Block | None:
        chain, source = [], self._input(node)
        while operator_name(source) in _LAYOUT and source not in self._products:
            chain.append(source)
            source = source.args[0]  # type: ignore[assignment]
        if operator_name(source) == "cat":
            return self._listed_heads(node, consumer, source, chain)
        shape = shape_of(source)
        is_attention = operator_name(source) in ("scaled_dot_product_attention", "matmul")
        if not is_attention or len(shape) != 4 or source in self._products:
            return None
        heads, width = shape[1], shape[3]
        made, region = self._behind(source)
        if heads * width != consumer.weight.shape[1] or heads < 2:
            return None
        if not made or not _is_closed({*made, *region, *chain}, node):
            return None
        return _attention_block(consumer, list(made.values()), heads, width)

    def _listed_heads(
        self, node: fx.Node, consumer: Layer, joined: fx.Node, chain: list[fx.Node]
    ) -> Block | None:
        parts = list(joined.args[0])  # type: ignore[arg-type]
        every: set[fx.Node] = {joined, *chain}
        names: list[set[str]] = []
        layers: dict[str, Layer] = {}
        for part in parts:
            made, region = self._behind(part)
            every |= {*made, *region}
            names.append({layer.name for layer in made.values()})
            layers |= {layer.name: layer for layer in made.values()}
        widths = {shape_of(part)[-1] for part in parts}
        if len(parts) < 2 or len(widths) != 1 or not all(names) or not _is_closed(every, node):
            return None
        owner = _common_list(self._module, names)
        width = widths.pop()
        if not owner or len(parts) * width != consumer.weight.shape[1]:
            return None
        columns = torch.arange(len(parts) * width).reshape(len(parts), width)
        return Block("heads", consumer, layers, {}, columns, heads=owner, width=width)

    def _behind(self, source: fx.Node) -> tuple[dict[fx.Node, Layer], set[fx.Node]]:
        """The products behind a node, and the nodes between that depend on them."""
        made: dict[fx.Node, Layer] = {}
        seen: set[fx.Node] = set()
        pending = [source]
        while pending:
            each = pending.pop()
            if each in seen or each in made:
                continue
            if each in self._products:
                made[each] = self._products[each]
                continue
            seen.add(each)
            pending += each.all_input_nodes
        region: set[fx.Node] = set()
        for each in self._graph.nodes:
            inputs = each.all_input_nodes
            if each in seen and any(one in made or one in region for one in inputs):
                region.add(each)
        return made, region


def _attention_block(consumer: Layer, layers: list[Layer], heads: int, width: int) -> Block | None:
    sizes = {layer.name: layer.weight.shape[0] for layer in layers}
    groups = heads
    if len(layers) == 1:
        (out,) = sizes.values()
        extra = out // width - heads
        groups = extra // 2
        if out % width or extra % 2 or groups < 1 or heads % groups:
            return None
    else:
        groups = min(sizes.values()) // width
        if any(size not in (heads * width, groups * width) for size in sizes.values()):
            return None
        if not groups or heads % groups:
            return None
    shared = heads // groups
    rows = {layer.name: _layouts(sizes[layer.name], groups, shared, width) for layer in layers}
    columns = torch.arange(heads * width).reshape(groups, shared * width)
    named = {layer.name: layer for layer in layers}
    return Block("heads", consumer, named, rows, columns, width=width, shared=shared)


def _layouts(size: int, groups: int, shared: int, width: int) -> list[Tensor]:
    """The rows [groups, rows] of each group; two ways where one layer makes all of q, k and v."""
    every = torch.arange(size)
    if size in (groups * width, groups * shared * width):
        return [every.reshape(groups, -1)]
    start, end = groups * shared * width, groups * (shared + 1) * width
    queries, keys, values = every[:start], every[start:end], every[end:]
    blocked = torch.cat([part.reshape(groups, -1) for part in (queries, keys, values)], dim=1)
    return [blocked, every.reshape(groups, -1)]


def _common_list(module: nn.Module, names: list[set[str]]) -> str:
    """The ModuleList whose n-th entry holds the n-th set of layers; empty where none does."""
    first = sorted(names[0])[0].split(".")
    for end in range(len(first) - 1, 0, -1):
        owner = ".".join(first[:end])
        held = module.get_submodule(owner)
        if not isinstance(held, nn.ModuleList) or len(held) != len(names):
            continue
        if all(
            name.startswith(f"{owner}.{index}.")
            for index, group in enumerate(names) for name in group
        ):  # fmt: skip
            return owner
    return ""


def _is_closed(nodes: set[fx.Node], consumer: fx.Node) -> bool:
    return all(user in nodes or user is consumer for node in nodes for user in node.users)


def operator_name(node: Any) -> str:
    """The name of a node's operator without its namespace; empty where it calls none."""
    if not isinstance(node, fx.Node) or node.op not in ("call_function", "call_method"):
        return ""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name).split("::")[1]
    return target if isinstance(target, str) else getattr(target, "__name__", "")


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of a node's tensor; empty where it has none."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(int(each) for each in value.shape) if isinstance(value, Tensor) else ()


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for each in sizes:
        total *= each
    return total
