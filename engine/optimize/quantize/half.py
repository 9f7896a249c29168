"""Conversion of a live program to 16-bit floating point."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.optimize.layers import is_excluded
from engine.optimize.quantize.fp8_layer import Fp8Linear
from engine.optimize.quantize.int8_layer import Int8Linear
from engine.optimize.quantize.static_int8_layer import StaticInt8Layer
from engine.program import Inputs, Program

# Their operands must have one dtype; elementwise operators promote.
_STRICT = (
    "linear", "addmm", "mm", "bmm", "matmul", "baddbmm", "scaled_dot_product_attention",
    "layer_norm",
    "rms_norm", "conv1d", "conv2d", "convolution", "batch_norm", "group_norm",
)  # fmt: skip
_KEPT_BUFFERS = ("inv_freq",)


def convert_(program: Program, inputs: Inputs, config: Any) -> list[str]:
    """Converts weights and buffers in place and gives back what the person should know."""
    dtype: torch.dtype = getattr(torch, config.dtype)
    module = program.module
    kept = _convert_tensors_(module, dtype, config.exclude)
    for name in kept["modules"]:
        _cast_around_(module.get_submodule(name), dtype)
    if any(each.is_floating_point() for each in _tensors(inputs)):
        module.register_forward_pre_hook(InputCast(dtype), with_kwargs=True)
    if hasattr(module, "functions") and hasattr(module, "cache_dims"):
        _mend_graphs_(module, dtype, inputs)
    notes = []
    if kept["buffers"]:
        notes.append(f"Kept in float32: {', '.join(kept['buffers'][:3])} (rotary frequencies).")
    if kept["modules"]:
        notes.append(f"Left in float32 as asked: {', '.join(kept['modules'][:5])}.")
    return notes


class InputCast:
    """A forward hook that casts floating-point inputs; pickles with its module."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The same inputs in the other dtype."""
        return _cast(args, self.dtype), _cast(kwargs, self.dtype)


class OutputCast:
    """A forward hook that casts floating-point outputs."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The same outputs in the other dtype."""
        return _cast(output, self.dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) is dict:
        return {name: _cast(each, dtype) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_cast(each, dtype) for each in value)
    return value


def _cast_around_(module: nn.Module, dtype: torch.dtype) -> None:
    module.register_forward_pre_hook(InputCast(torch.float32), with_kwargs=True)
    module.register_forward_hook(OutputCast(dtype))


def _tensors(inputs: Inputs) -> list[Tensor]:
    values = inputs.values() if isinstance(inputs, dict) else inputs
    return [each for each in values if isinstance(each, Tensor)]


def _convert_tensors_(module: nn.Module, dtype: torch.dtype, exclude: str) -> dict[str, list[str]]:
    """Parameters and buffers to `dtype`; ties stay ties, since the tensors are changed in place."""
    kept: dict[str, list[str]] = {"buffers": [], "modules": []}
    left = _left_alone(module, exclude, kept["modules"])
    for each in module.modules():
        if isinstance(each, StaticInt8Layer):
            each.dtype = dtype  # what it answers in where levels come in
    for parameter in module.parameters():
        if parameter.is_floating_point() and id(parameter) not in left:
            parameter.data = parameter.data.to(dtype)
    for owner_name, owner in module.named_modules():
        for name, buffer in list(owner._buffers.items()):
            if buffer is None or not buffer.is_floating_point() or id(buffer) in left:
                continue
            if any(each in name for each in _KEPT_BUFFERS):
                kept["buffers"].append(f"{owner_name}.{name}".lstrip("."))
                continue
            buffer.data = buffer.data.to(dtype)
    return kept


def _left_alone(module: nn.Module, exclude: str, names: list[str]) -> set[int]:
    """Ids of the tensors that keep their dtype; excluded modules are added to `names`."""
    left: set[int] = set()
    for name, child in module.named_modules():
        if name and is_excluded(name, exclude):
            if not any(name.startswith(f"{outer}.") for outer in names):
                names.append(name)
            left |= {id(each) for each in (*child.parameters(), *child.buffers())}
        if isinstance(child, Int8Linear | StaticInt8Layer | Fp8Linear):
            left |= {id(each) for each in child.buffers()}
    return left


class _Mending(fx.Interpreter):
    """Runs a graph and finds where an operator meets operands of two float dtypes."""

    def __init__(self, owner: nn.Module, graph: fx.Graph, dtype: torch.dtype) -> None:
        super().__init__(owner, garbage_collect_values=False, graph=graph)
        self.dtype = dtype
        self.casts: list[tuple[fx.Node, fx.Node]] = []

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, with operands of another float dtype cast where it needs one dtype."""
        if not self._is_strict(n):
            return super().run_node(n)
        held = {each: self.env[each] for each in n.all_input_nodes}
        for each, value in held.items():
            if (
                isinstance(value, Tensor)
                and value.is_floating_point()
                and value.dtype != self.dtype
            ):
                self.casts.append((n, each))
                self.env[each] = value.to(self.dtype)
        result = super().run_node(n)
        self.env.update(held)
        return result

    def _is_strict(self, n: fx.Node) -> bool:
        if n.op == "call_module":
            child = self.module.get_submodule(str(n.target))
            weight = getattr(child, "weight", None)
            return isinstance(weight, Tensor) and weight.dtype == self.dtype
        name = getattr(n.target, "__name__", str(n.target)).split(".")[0]
        return n.op in ("call_function", "call_method") and name in _STRICT


def _mend_graphs_(module: Any, dtype: torch.dtype, inputs: Inputs) -> None:
    """Puts casts into a derived decoder's graphs where its author's constants were float32."""
    ids = next(each for each in _tensors(inputs) if not each.is_floating_point())
    graphs = {name: each.graph for name, each in module.functions.items()}
    with torch.inference_mode():
        _mended(module, graphs["forward"], dtype, ids)
        logits, *cache = _mended(module, graphs["prefill"], dtype, ids)
        token = logits.argmax(-1, keepdim=True)
        _mended(module, graphs["step"], dtype, token, *cache)
    module._build(graphs)


def _mended(module: nn.Module, graph: fx.Graph, dtype: torch.dtype, *inputs: Tensor) -> Any:
    interpreter = _Mending(module, graph, dtype)
    outputs = interpreter.run(*inputs)
    for user, source in interpreter.casts:
        with graph.inserting_before(user):
            cast = graph.call_method("to", (source, dtype))
        user.replace_input_with(source, cast)
    # Keys and values are kept in the narrow format too.
    answer = next(node for node in graph.nodes if node.op == "output")
    wide = [
        node for node in answer.all_input_nodes
        if isinstance(value := interpreter.env[node], Tensor)
        and value.is_floating_point() and value.dtype != dtype
    ]  # fmt: skip
    for node in wide:
        with graph.inserting_before(answer):
            answer.replace_input_with(node, graph.call_method("to", (node, dtype)))
    return _cast(tuple(outputs) if isinstance(outputs, tuple | list) else outputs, dtype)
