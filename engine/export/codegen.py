"""From graphs to plain PyTorch source that stands alone.

What a variant runs, after heads were merged, channels removed and a cache added, is no longer the
code of its author. It is written out here as one readable class of torch operators, so that weights
and code are all that is needed to run it.
"""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.errors import ExportFailed

_HEADER = '''"""{title}

Written by Model Workbench from the graph of the optimized model: torch operators only. Call
`build(folder)`, or load.py, which does; the weights are in model.safetensors.
"""

import math
import operator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import device, inf, nan, nn

NoneType = type(None)
ALIASES = {aliases}
'''

_BUILD = '''

def build(folder, tensors=None):
    """The model in evaluation mode, with its weights: those given, else those in the folder."""
    if tensors is None:
        tensors = load_file(Path(folder) / "model.safetensors")
    model = Model()
    for name, tensor in tensors.items():
        _place(model, name, tensor)
    for name, stored in ALIASES.items():
        _place(model, name, tensors[stored])
    _finish(model)
    return model.eval()


def _place(model, name, tensor):
    *path, last = name.split(".")
    for part in path:
        if part not in model._modules:
            model.add_module(part, nn.Module())
        model = model._modules[part]
    model.register_buffer(last, tensor)


def _replace(model, name, module):
    *path, last = name.split(".")
    for part in path:
        model = model._modules[part]
    held = dict(model._modules[last].named_buffers()) if last in model._modules else {{}}
    module.load_state_dict(held)
    model._modules[last] = module


def _finish(model):
{finish}
'''


@dataclass
class Written:
    """Source and the tensors that it needs, by name."""

    source: str
    tensors: dict[str, Tensor]


@dataclass
class _Collected:
    tensors: dict[str, Tensor] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    finish: list[str] = field(default_factory=list)


def write_model(graphs: dict[str, fx.GraphModule], *, title: str) -> Written:
    """One class `Model` with a method for each graph (`forward_flat`, `step_flat`).

    Args:
        graphs: method names to graphs of torch operators, whose leaf modules are torch.nn's linear,
            embedding and norm layers or tell `export_source` themselves.
        title: the first line of the file's docstring.

    Raises:
        ExportFailed: a graph that calls something that cannot be written down.
    """
    collected = _Collected()
    methods = [_method(name, graph, collected) for name, graph in graphs.items()]
    unique, aliases = _unique(collected.tensors)
    body = "\n".join(methods)
    finish = "\n".join(f"    {line}" for line in collected.finish) or "    return None"
    source = (
        _HEADER.format(title=title, aliases=repr(aliases))
        + "".join(f"\n\n{text}" for text in collected.classes.values())
        + f"\n\nclass Model(nn.Module):\n{body}"
        + _BUILD.format(finish=finish)
    )
    compile(source, "model.py", "exec")
    return Written(source, unique)


def _method(name: str, owner: fx.GraphModule, collected: _Collected) -> str:
    graph = fx.Graph()
    answer = graph.graph_copy(owner.graph, {})
    graph.output(answer)
    graph.set_codegen(fx.graph.CodeGen())
    for node in list(graph.nodes):
        if node.op == "call_module":
            _inline(graph, node, owner.get_submodule(node.target), collected)
        elif node.op == "get_attr":
            tensor = _tensor_at(owner, node.target)
            node.target = node.target.removeprefix("inner.")
            collected.tensors[node.target] = tensor
    code = graph.python_code("self")
    for key, value in code.globals.items():
        if re.search(rf"\b{key}\b", code.src):
            _refuse_unknown(key, value)
    lines = [line for line in code.src.splitlines() if line.strip()]
    lines[0] = re.sub(r"def forward\(", f"def {name}(", lines[0])
    text = "\n".join(f"    {line}" for line in lines)
    return re.sub(r"\s+# .*$", "", text, flags=re.MULTILINE) + "\n"


def _tensor_at(owner: nn.Module, target: str) -> Tensor:
    path, _, name = target.rpartition(".")
    found = getattr(owner.get_submodule(path), name)
    if not isinstance(found, Tensor):
        raise ExportFailed(f"The graph holds {target}, which is no tensor to write down.")
    return found.detach()


def _refuse_unknown(key: str, value: Any) -> None:
    known = {"torch", "device", "inf", "nan", "NoneType", "math", "operator", "_operator"}
    if key in known or value in (torch, math, operator):
        return
    raise ExportFailed(
        f"The graph calls {key}, which is not part of torch: it cannot be written down."
    )


Inliner = Callable[[fx.Graph, fx.Node, Any, _Collected], Any]


def _inline(graph: fx.Graph, node: fx.Node, module: nn.Module, collected: _Collected) -> None:
    for kind, inliner in _INLINERS.items():
        if type(module) is kind:
            with graph.inserting_before(node):
                node.replace_all_uses_with(inliner(graph, node, module, collected))
            graph.erase_node(node)
            return
    if not hasattr(module, "export_source"):
        raise ExportFailed(
            f"{node.target} is a {type(module).__name__}, which cannot be written down as source.",
            hint="Choose another format.",
        )
    _keep_class(str(node.target), module, collected)


def _keep_class(name: str, module: Any, collected: _Collected) -> None:
    """A module that tells its own source: `export_source() -> (class source, constructor call)`."""
    source, constructor = module.export_source()
    collected.classes.setdefault(type(module).__name__, source)
    for key, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor):
            collected.tensors[f"{name}.{key}"] = tensor.detach()
    collected.finish.append(f"_replace(model, {name!r}, {constructor})")


def _parameter(graph: fx.Graph, node: fx.Node, name: str, tensor: Any, kept: _Collected) -> Any:
    if tensor is None:
        return None
    target = f"{node.target}.{name}"
    kept.tensors[target] = tensor.detach()
    return graph.create_node("get_attr", target)


def _linear(graph: fx.Graph, node: fx.Node, module: nn.Linear, kept: _Collected) -> fx.Node:
    weight = _parameter(graph, node, "weight", module.weight, kept)
    bias = _parameter(graph, node, "bias", module.bias, kept)
    return graph.call_function(torch.nn.functional.linear, (node.args[0], weight, bias))


def _embedding(graph: fx.Graph, node: fx.Node, module: nn.Embedding, kept: _Collected) -> fx.Node:
    weight = _parameter(graph, node, "weight", module.weight, kept)
    return graph.call_function(torch.nn.functional.embedding, (node.args[0], weight))


def _layer_norm(graph: fx.Graph, node: fx.Node, module: nn.LayerNorm, kept: _Collected) -> fx.Node:
    weight = _parameter(graph, node, "weight", module.weight, kept)
    bias = _parameter(graph, node, "bias", module.bias, kept)
    shape = list(module.normalized_shape)
    arguments = (node.args[0], shape, weight, bias, module.eps)
    return graph.call_function(torch.nn.functional.layer_norm, arguments)


_INLINERS: dict[type, Inliner] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
}


def _unique(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors stored once, and the names of those that share one (tied embeddings)."""
    unique: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
        else:
            seen[key] = name
            unique[name] = tensor.cpu().contiguous().clone()
    return unique, aliases


def source_of(owner: type) -> str:
    """The source of a class that uses torch and nothing of this project."""
    return inspect.getsource(owner)
