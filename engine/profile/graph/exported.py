"""A graph from the exported program."""

from __future__ import annotations

import inspect
import operator
import re
from typing import Any

import torch
from torch import fx, nn

from engine.profile.graph.costs import Cost, CostMeter
from engine.profile.graph.draft import Call, Draft, dtype_of, first_tensor, shape_of
from engine.program import Inputs
from engine.records import GraphNode, NodeKind

_SILENT = ("_assert", "sym_", "device")


def exported_graph(module: nn.Module, inputs: Inputs) -> Draft:
    """The graph of one call, read off its exported program.

    Whatever torch.export raises is raised: it has many kinds, and all mean "cannot be exported".
    """
    args = inputs if isinstance(inputs, tuple) else ()
    named = dict(inputs) if isinstance(inputs, dict) else {}
    if _takes_use_cache(module):
        named.setdefault("use_cache", False)  # torch.export cannot return a cache object
    with torch.no_grad():
        program = torch.export.export(module, args, named, strict=False)
    users = set(program.graph_signature.user_inputs)
    reader = _Reader(Draft(type(module).__name__))
    for node in program.graph.nodes:
        if node.op == "placeholder":
            reader.origins[node] = reader.read_input(node) if node.name in users else None
    reader.read(program.graph_module)
    return reader.draft


def _takes_use_cache(module: nn.Module) -> bool:
    taken = inspect.signature(module.forward).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values())
    config = getattr(module, "config", None)
    texts = getattr(config, "text_config", None)
    return "use_cache" in taken or (
        takes_any and any(hasattr(each, "use_cache") for each in (config, texts))
    )


class _Reader:
    """Reads nodes in order; `origins` tells which node of the draft made a value, if any did."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.origins: dict[fx.Node, int | None] = {}
        self.meter = CostMeter()

    def read(self, graph: fx.GraphModule, *, nested: bool = False) -> tuple[fx.Node, ...]:
        """Reads a graph, and those that its wrappers call, and returns its output nodes."""
        for node in graph.graph.nodes:
            if node.op == "call_function":
                self._read_call(graph, node)
            elif node.op == "output":
                returned = tuple(node.all_input_nodes)
                if not nested:
                    self._read_output(node)
                return returned
        return ()

    def read_input(self, node: fx.Node) -> int | None:
        """The node of an input of the call; None for one that is no tensor."""
        value = node.meta.get("val")
        if first_tensor(value) is None:
            return None
        return self._add(node, node.name, "input", Cost())

    def _read_call(self, graph: fx.GraphModule, node: fx.Node) -> None:
        target: Any = node.target
        inner = _wrapped(graph, node)
        if target is operator.getitem:
            source: Any = node.args[0]
            if node not in self.origins:  # a wrapper has told the origins of its outputs
                self.origins[node] = self.origins.get(source)
        elif inner is not None:
            self._read_wrapper(node, *inner)
        elif first_tensor(node.meta.get("val")) is None or _name(target).startswith(_SILENT):
            self.origins[node] = None
        else:
            self._read_operator(node, target)

    def _read_operator(self, node: fx.Node, target: Any) -> None:
        cost = self._cost(node, target)
        is_view = bool(getattr(target, "is_view", False)) and cost.moved_bytes == 0
        space = getattr(target, "namespace", "higher_order")
        index = self._add(
            node, f"{space}::{_name(target)}", "view" if is_view else "operator", cost
        )
        for each in node.all_input_nodes:
            self.draft.connect(self.origins.get(each), index, each.meta.get("val"))
        self.origins[node] = index

    def _read_wrapper(self, node: fx.Node, graph: fx.GraphModule, given: list[Any]) -> None:
        places = [each for each in graph.graph.nodes if each.op == "placeholder"]
        for place, value in zip(places, given, strict=False):
            self.origins[place] = self.origins.get(value) if isinstance(value, fx.Node) else None
        outputs = self.read(graph, nested=True)
        self.origins[node] = self.origins.get(outputs[0]) if outputs else None
        for user in node.users:
            if user.target is operator.getitem and isinstance(user.args[1], int):
                self.origins[user] = self.origins.get(outputs[user.args[1]])

    def _read_output(self, node: fx.Node) -> None:
        sources = [each for each in node.all_input_nodes if self.origins.get(each) is not None]
        if not sources:
            return
        value = sources[0].meta.get("val")
        index = self.draft.add(GraphNode("output", 0, "output", shape_of(value), dtype_of(value)))
        for each in sources:
            self.draft.connect(self.origins[each], index, each.meta.get("val"))

    def _add(self, node: fx.Node, name: str, kind: NodeKind, cost: Cost) -> int:
        value = node.meta.get("val")
        return self.draft.add(
            GraphNode(
                name, self.draft.module(_stack(node)), kind, shape_of(value), dtype_of(value),
                cost.flops, cost.moved_bytes, elementwise_flops=cost.elementwise_flops,
            )
        )  # fmt: skip

    def _cost(self, node: fx.Node, target: Any) -> Cost:
        if not isinstance(target, torch._ops.OpOverload):
            return Cost(None)
        args = fx.map_arg(node.args, lambda each: each.meta["val"])
        named = fx.map_arg(node.kwargs, lambda each: each.meta["val"])
        try:
            with torch.inference_mode(), self.meter.measured() as cost:
                target(*args, **named)
        except Exception:  # an operator that cannot run a second time on shapes alone
            return Cost(None)
        return cost


def _wrapped(graph: fx.GraphModule, node: fx.Node) -> tuple[fx.GraphModule, list[Any]] | None:
    """The graph that a wrapper (no_grad, autocast) runs as it is, and what it is called with."""
    if not _name(node.target).startswith("wrap"):
        return None
    for place, each in enumerate(node.args):
        if isinstance(each, fx.Node) and each.op == "get_attr":
            inner = getattr(graph, str(each.target), None)
            if isinstance(inner, fx.GraphModule):
                return inner, list(node.args[place + 1 :])
    return None


def _stack(node: fx.Node) -> list[Call]:
    found: list[Call] = []
    for key, (name, kind) in node.meta.get("nn_module_stack", {}).items():
        call = str(key).partition("@")[2]  # torch tells the second call of a module by "@1"
        if name:
            shown = kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
            found.append((str(name), shown, int(call) if call.isdigit() else 0))
    return found


def _name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", target)
    return re.sub(r"\W", "", getattr(packet, "__name__", str(packet)))
