"""One forward as a graph of operators over the module's own submodules and tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn

from engine.errors import StepRefused
from engine.optimize.graph.exporting import export
from engine.optimize.graph.grouping import share_key_heads
from engine.optimize.graph.nodes import (
    SOURCE,
    args_of,
    expression,
    graft,
    is_boundary,
    module_path,
    same_shape,
    target_of,
)
from engine.optimize.graph.stubs import restore_, stubbed
from engine.program import Inputs, logits_of, output_tensors

aten = torch.ops.aten
_EXAMPLE_BATCH, _EXAMPLE_TOKENS = 3, 11
# One operator each, so that calling the module is the same as calling the operator with its
# tensors.
_MODULES: dict[Any, tuple[type[nn.Module], tuple[int, ...]]] = {
    aten.linear.default: (nn.Linear, (1, 2)),
    aten.embedding.default: (nn.Embedding, (0,)),
    aten.layer_norm.default: (nn.LayerNorm, (2, 3)),
    aten.rms_norm.default: (nn.RMSNorm, (2,)),
}
CHECKS = {
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten._assert_async.msg,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
    torch._check,
}
_SAME = {
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
}


@dataclass
class Captured:
    """A forward from ids to logits.

    Attributes:
        graph: call_module for plain Linear, Embedding and norm layers, get_attr for other tensors.
        root: holds those under their original names; shares them with the source module.
        ids, logits: the input node and the node of the result.
        batch, tokens: symbols of the two dimensions of ids; `batch` is None where it is fixed.
        limit: the longest sequence that the module takes, as far as its graph tells.
    """

    graph: fx.Graph
    root: nn.Module
    ids: fx.Node
    logits: fx.Node
    batch: sympy.Symbol | None
    tokens: sympy.Symbol
    limit: int | None


class _LogitsOnly(nn.Module):
    """The module without its cache and with the logits alone as the result."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.source = source
        self.training = source.training
        config = getattr(source, "config", None)
        self._options = {"use_cache": False} if hasattr(config, "use_cache") else {}

    def forward(self, ids: Tensor) -> Tensor:
        return logits_of(self.source(ids, **self._options))


def capture(module: nn.Module, ids: Tensor, *, max_length: int | None = None) -> Captured:
    """The graph of `module` from ids [batch, tokens] to logits, for any batch and length.

    Raises:
        StepRefused: the module cannot be exported, or only for one length.
    """
    tokens = min(_EXAMPLE_TOKENS, max_length or _EXAMPLE_TOKENS)
    example = ids[:1, :1].expand(_EXAMPLE_BATCH, tokens).contiguous()
    with stubbed(module) as packed:
        exported = export(_LogitsOnly(module), (example,), ((0, 1),))
        graph, root, users = rebuild(exported, module)
    restore_(root, packed)
    share_key_heads(graph)
    (ids_node,) = users
    shape = ids_node.meta["val"].shape
    if not isinstance(shape[1], torch.SymInt):
        raise StepRefused(
            f"This model takes sequences of {tokens} tokens only, or its code asks for it."
        )
    logits = next(node for node in reversed(graph.nodes) if node.op == "output").args[0]
    symbol = expression(shape[1])
    return Captured(
        graph=graph,
        root=root,
        ids=ids_node,
        logits=logits,
        batch=expression(shape[0]) if isinstance(shape[0], torch.SymInt) else None,
        tokens=symbol,
        limit=_upper(exported, symbol),
    )


class _Flat(nn.Module):
    """A module called on a flat sequence of tensors; other inputs stay as they are."""

    def __init__(self, source: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.source = source
        self.training = source.training
        self._named = inputs if isinstance(inputs, dict) else None
        self._placed = inputs if not isinstance(inputs, dict) else ()

    def tensors(self) -> tuple[Tensor, ...]:
        """The inputs that are tensors, in order."""
        values = self._named.values() if self._named is not None else self._placed
        return tuple(value for value in values if isinstance(value, Tensor))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        if self._named is not None:
            named = {n: next(given) if isinstance(v, Tensor) else v for n, v in self._named.items()}
            return tuple(output_tensors(self.source(**named)))
        placed = [next(given) if isinstance(value, Tensor) else value for value in self._placed]
        return tuple(output_tensors(self.source(*placed)))


@dataclass
class Operators:
    """A forward at the sizes of its example inputs.

    Attributes:
        graph: as in Captured, with every size fixed.
        root: holds what the graph calls and reads.
        inputs: the input nodes.
    """

    graph: fx.Graph
    root: nn.Module
    inputs: list[fx.Node]


def capture_operators(module: nn.Module, inputs: Inputs) -> Operators:
    """The graph of one forward on these inputs, to be read; its sizes are fixed.

    Raises:
        StepRefused: the module cannot be exported.
    """
    quiet = getattr(getattr(module, "config", None), "use_cache", None)
    if quiet and isinstance(inputs, dict):
        inputs = {**inputs, "use_cache": False}
    flat = _Flat(module, inputs)
    with stubbed(module) as packed:
        operators = Operators(*rebuild(export(flat, flat.tensors(), None), module))
    restore_(operators.root, packed)
    return operators


def rebuild(
    exported: torch.export.ExportedProgram, source: nn.Module
) -> tuple[fx.Graph, nn.Module, list[fx.Node]]:
    """A graph without checks and lifted inputs, the module that it runs on, and its input nodes."""
    graph, root = fx.Graph(), nn.Module()
    mapped: dict[fx.Node, Any] = {}
    tensors = _lifted(exported, source)
    users = []
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            if node.name in tensors:
                mapped[node] = (node.name, None)
            else:
                mapped[node] = graph.placeholder(node.name)
                mapped[node].meta["val"] = node.meta.get("val")
                users.append(mapped[node])
        elif node.op == "output":
            outputs = fx.map_arg(
                args_of(node)[0], lambda arg: _read(arg, mapped, tensors, graph, root)
            )
            graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        elif target_of(node) not in CHECKS:
            mapped[node] = _converted(node, mapped, tensors, graph, root, source)
    graph.eliminate_dead_code(is_boundary)
    return graph, root, users


def _lifted(
    exported: torch.export.ExportedProgram, source: nn.Module
) -> dict[str, tuple[str, Tensor]]:
    """Placeholder names to the dotted name and the tensor of parameters, buffers and constants."""
    found = {}
    for spec in exported.graph_signature.input_specs:
        if spec.target is None:
            continue
        name = spec.target.removeprefix(SOURCE)
        tensor = _tensor_at(source, name)
        if tensor is None:
            tensor = exported.constants.get(spec.target, exported.state_dict.get(spec.target))
            name = name if "." in name else f"constants.{name}"
        found[spec.arg.name] = (name, tensor)
    return found


def _tensor_at(source: nn.Module, name: str) -> Tensor | None:
    path, _, leaf = name.rpartition(".")
    try:
        value = getattr(source.get_submodule(path), leaf)
    except AttributeError:
        return None
    return value if isinstance(value, Tensor) else None


def _converted(
    node: fx.Node,
    mapped: dict[fx.Node, Any],
    tensors: dict[str, tuple[str, Tensor]],
    graph: fx.Graph,
    root: nn.Module,
    source: nn.Module,
) -> Any:
    path = module_path(node)
    if target_of(node) in _SAME or _is_noop(node):
        kept = _read(args_of(node)[0], mapped, tensors, graph, root)
        if target_of(node) is aten.dropout.default:
            kept.meta["dropout"] = float(args_of(node)[1])
        return kept
    kind = _MODULES.get(target_of(node))
    if kind is not None:
        made = _as_module_call(node, path, kind, mapped, tensors, graph, root, source)
        if made is not None:
            return made
    args = fx.map_arg(args_of(node), lambda arg: _read(arg, mapped, tensors, graph, root))
    kwargs = fx.map_arg(node.kwargs, lambda arg: _read(arg, mapped, tensors, graph, root))
    made = graph.create_node(node.op, target_of(node), args, kwargs, name=node.name)
    made.meta.update(val=node.meta.get("val"), path=path)
    return made


def _as_module_call(
    node: fx.Node,
    path: str,
    kind: tuple[type[nn.Module], tuple[int, ...]],
    mapped: dict[fx.Node, Any],
    tensors: dict[str, tuple[str, Tensor]],
    graph: fx.Graph,
    root: nn.Module,
    source: nn.Module,
) -> fx.Node | None:
    wanted, places = kind
    try:
        owner = source.get_submodule(path)
    except AttributeError:
        return None
    if not path or type(owner) is not wanted:
        return None
    given = [args_of(node)[at] if at < len(args_of(node)) else None for at in places]
    held = [getattr(owner, name, None) for name in ("weight", "bias")][: len(places)]
    for argument, tensor in zip(given, held, strict=True):
        known = (
            tensors[argument.name][1]
            if isinstance(argument, fx.Node) and argument.name in tensors
            else argument
        )
        if known is not tensor:
            return None
    data = args_of(node)[1 if wanted is nn.Embedding else 0]
    graft(root, path, owner)
    made = graph.call_module(path, (_read(data, mapped, tensors, graph, root),))
    made.meta.update(val=node.meta.get("val"), path=path, operator=target_of(node))
    return made


def _read(
    argument: fx.Node,
    mapped: dict[fx.Node, Any],
    tensors: dict[str, tuple[str, Tensor]],
    graph: fx.Graph,
    root: nn.Module,
) -> Any:
    if argument.name not in tensors:
        return mapped[argument]
    if isinstance(mapped[argument], tuple):
        name, tensor = tensors[argument.name]
        graft(root, name, tensor)
        made = graph.get_attr(name)
        made.meta["val"] = argument.meta.get("val")
        mapped[argument] = made
    return mapped[argument]


def _is_noop(node: fx.Node) -> bool:
    if target_of(node) is aten.dropout.default:
        return True
    if target_of(node) in (
        aten.to.dtype,
        aten.to.device,
        aten.to.dtype_layout,
        aten._to_copy.default,
    ):
        before, after = args_of(node)[0].meta["val"], node.meta["val"]
        return bool(before.dtype == after.dtype and before.device == after.device)
    if target_of(node) in (
        aten.expand.default,
        aten.view.default,
        aten.reshape.default,
        aten.slice.Tensor,
    ):
        return same_shape(args_of(node)[0].meta["val"].shape, node.meta["val"].shape)
    return target_of(node) is aten.contiguous.default and bool(args_of(node)[0].op == "placeholder")


def _upper(exported: torch.export.ExportedProgram, symbol: sympy.Symbol) -> int | None:
    allowed = exported.range_constraints.get(symbol)
    if allowed is None:
        return None
    return int(allowed.upper) if bool(allowed.upper < 2**31) else None
