"""A graph as plain Python: what eager PyTorch runs with the least work around each operator.

`torch.ops.aten.add.Tensor(x, y)` goes through a generic call path; `x + y` reaches the same
kernel in a third of the time. On small models that path is most of the latency.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import _has_any_global_hook

aten = torch.ops.aten
_nn = torch._C._nn
# Same arguments in the same order as the operator.
_FUNCTIONS: dict[Any, Any] = {
    aten.matmul.default: torch.matmul,
    aten.bmm.default: torch.bmm,
    aten.mm.default: torch.mm,
    aten.linear.default: _nn.linear,
    aten.layer_norm.default: torch.layer_norm,
    aten.rms_norm.default: torch.rms_norm,
    aten.embedding.default: torch.embedding,
    aten.softmax.int: torch.softmax,
    aten.relu.default: torch.relu,
    aten.tanh.default: torch.tanh,
    aten.sigmoid.default: torch.sigmoid,
    aten.rsqrt.default: torch.rsqrt,
    aten.cos.default: torch.cos,
    aten.sin.default: torch.sin,
    aten.silu.default: _nn.silu,
    aten.gelu.default: _nn.gelu,
    aten.cat.default: torch.cat,
    aten.stack.default: torch.stack,
    aten.neg.default: operator.neg,
    aten.add.Tensor: operator.add,
    aten.sub.Tensor: operator.sub,
    aten.mul.Tensor: operator.mul,
    aten.div.Tensor: operator.truediv,
    aten.pow.Tensor_Scalar: operator.pow,
    aten.eq.Scalar: operator.eq,
    aten.scaled_dot_product_attention.default: _nn.scaled_dot_product_attention,
}
_METHODS: dict[Any, str] = {
    aten.view.default: "view",
    aten._unsafe_view.default: "view",
    aten.reshape.default: "reshape",
    aten.transpose.int: "transpose",
    aten.permute.default: "permute",
    aten.unsqueeze.default: "unsqueeze",
    aten.squeeze.dim: "squeeze",
    aten.expand.default: "expand",
    aten.contiguous.default: "contiguous",
    aten.select.int: "select",
    aten.sym_size.int: "size",
    aten.masked_fill.Scalar: "masked_fill",
    aten.mean.dim: "mean",
    aten.unbind.int: "unbind",
    aten.chunk.default: "chunk",
    aten.split.Tensor: "split",
    aten.split_with_sizes.default: "split_with_sizes",
    aten.to.dtype: "to",
}
_OPERATORS = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/",
    operator.pow: "**", operator.eq: "==", operator.floordiv: "//",
}  # fmt: skip


def quickened(graph: fx.Graph) -> None:
    """Replaces operators by the functions and methods of torch that reach them sooner, in place."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in _FUNCTIONS:
            made = _FUNCTIONS[node.target]
            if made in _OPERATORS and (node.kwargs or len(node.args) != 2):
                continue
            node.target = made
        elif node.target in _METHODS:
            node.op, node.target = "call_method", _METHODS[node.target]
            node.kwargs = {
                key: value for key, value in node.kwargs.items() if key != "memory_format"
            }


class GraphFunction(nn.Module):
    """A graph that runs over another module's submodules, which it shares under their names.

    Replacing a submodule there, or moving it to another dtype or device, takes effect here. `run`
    is what a
    decoder calls: the graph as plain Python until a runtime puts compiled code in its place; a
    call of the module itself, as exporters make it, is always the former.
    """

    run: Callable[..., Any]
    _python: Callable[..., Any]
    _fast: Callable[..., Any]

    def __init__(self, owner: nn.Module, graph: fx.Graph) -> None:
        super().__init__()
        self._modules = owner._modules
        self._parameters = owner._parameters
        self._buffers = owner._buffers
        self.training = False
        self.graph = graph
        # Not through nn.Module's registry, which is shared: compiled code may be a module.
        self.__dict__["_python"] = compiled_python(graph, owner)
        self.__dict__["_fast"] = self._python
        self.use(self._inlined)

    def _inlined(self, *inputs: Tensor) -> Any:
        """Writes the function anew for the submodules as they are now, then runs it."""
        run = inlined_python(self.graph, self, self._python, self._inlined)
        if self.__dict__["run"] in (self._inlined, self._fast):
            self.__dict__["run"] = self.__dict__["_fast"] = run
        return run(*inputs)

    def forward(self, *inputs: Tensor) -> Any:
        """The graph's outputs."""
        return self._python(*inputs)

    def use(self, run: Callable[..., Any]) -> None:
        """Lets compiled code run for a decoder."""
        self.__dict__["run"] = run

    def graph_module(self) -> fx.GraphModule:
        """The same graph as torch.fx runs it, for compilers."""
        return fx.GraphModule(self, self.graph)


def compiled_python(graph: fx.Graph, owner: nn.Module) -> Callable[..., Any]:
    """One Python function for the graph.

    Submodules and tensors are read from the dicts of their owners at each call, so that replacing
    one in `owner` takes effect; containers above them must stay.
    """
    return _Writer(owner, graph).function()


def inlined_python(
    graph: fx.Graph,
    owner: nn.Module,
    plain: Callable[..., Any],
    renew: Callable[..., Any],
) -> Callable[..., Any]:
    """The same with the operators of plain modules called directly: a module costs 2 µs more.

    It looks first whether that still holds: `plain` runs where one of them has a hook (a
    profiler), and `renew` where one was replaced.
    """
    return _Writer(owner, graph, inlined=(plain, renew)).function()


class _Writer:
    def __init__(
        self,
        owner: nn.Module,
        graph: fx.Graph,
        inlined: tuple[Callable[..., Any], Callable[..., Any]] | None = None,
    ) -> None:
        self._graph = graph
        self._inlined = inlined
        self._watched: dict[str, nn.Module] = {}
        self._last_user = {each: node for node in graph.nodes for each in node.all_input_nodes}
        self.scope: dict[str, Any] = {"inf": float("inf"), "nan": float("nan")}
        self.lines: list[str] = []
        self._owner = owner
        self._inputs: list[str] = []
        self._names: dict[fx.Node, str] = {}
        self._bound: dict[Any, str] = {}
        self._kept: list[Any] = []

    def function(self) -> Callable[..., Any]:
        """The function, compiled."""
        for node in self._graph.nodes:
            self._write(node)
        if self._inlined:
            self.lines[1:1] = self._checks(*self._inlined)
        exec(compile("\n".join(self.lines), "<graph>", "exec"), self.scope)
        return self.scope["run"]  # type: ignore[no-any-return]

    def _checks(self, plain: Callable[..., Any], renew: Callable[..., Any]) -> list[str]:
        inputs = ", ".join(self._inputs)
        same = [f"{place} is not {self._bind(each)}" for place, each in self._watched.items()]
        hooks = [
            self._bind(held)
            for each in self._watched.values()
            for held in (each._forward_hooks, each._forward_pre_hooks)
        ]
        lines = []
        if same:
            lines.append(f"    if {' or '.join(same)}: return {self._bind(renew)}({inputs})")
        hooked = " or ".join([*hooks, f"{self._bind(_has_any_global_hook)}()"])
        lines.append(f"    if {hooked}: return {self._bind(plain)}({inputs})")
        return lines

    def _write(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._inputs.append(self._name(node))
            return
        if not self.lines:
            self.lines.append("")
        if node.op == "output":
            self.lines[0] = f"def run({', '.join(self._inputs)}):"
            self.lines.append(f"    return {self._text(node.args[0])}")
            return
        self.lines.append(f"    {self._name(node)} = {self._value(node)}")
        done = [
            self._name(each)
            for each in node.all_input_nodes
            if self._last_user[each] is node and each.op != "placeholder"
        ]
        if done:
            self.lines[-1] += f"; del {', '.join(done)}"

    def _value(self, node: fx.Node) -> str:
        if node.op == "get_attr":
            return self._held(str(node.target), "")
        arguments = [self._text(each) for each in node.args]
        if node.op == "call_function" and node.target in _OPERATORS and len(arguments) == 2:
            return f"{arguments[0]} {_OPERATORS[node.target]} {arguments[1]}"
        if node.op == "call_function" and node.target is operator.getitem:
            return f"{arguments[0]}[{arguments[1]}]"
        named = [f"{key}={self._text(value)}" for key, value in node.kwargs.items()]
        if node.op == "call_method":
            return f"{arguments[0]}.{node.target}({', '.join([*arguments[1:], *named])})"
        if node.op == "call_module":
            called = self._held(str(node.target), "_modules")
            direct = self._direct(str(node.target), called, arguments[0])
            if direct:
                return direct
        else:
            called = self._bind(node.target)
        return f"{called}({', '.join([*arguments, *named])})"

    def _direct(self, name: str, place: str, argument: str) -> str | None:
        """The operator of a module, where its class is known and nothing but its operator runs."""
        owner = self._owner.get_submodule(name)
        if not self._inlined:
            return None
        self._watched[place] = owner
        if type(owner) not in (nn.Linear, nn.Embedding, nn.LayerNorm):
            return None
        held = self._bind(owner._parameters)
        if isinstance(owner, nn.Linear):
            return f"{self._bind(_nn.linear)}({argument}, {held}['weight'], {held}['bias'])"
        if isinstance(owner, nn.Embedding):
            plain = owner.max_norm is None
            return f"{self._bind(torch.embedding)}({held}['weight'], {argument})" if plain else None
        shape, call = self._bind(owner.normalized_shape), self._bind(torch.layer_norm)
        return f"{call}({argument}, {shape}, {held}['weight'], {held}['bias'], {owner.eps!r})"

    def _held(self, name: str, where: str) -> str:
        path, _, leaf = name.rpartition(".")
        owner = self._owner.get_submodule(path)
        where = where or ("_parameters" if leaf in owner._parameters else "_buffers")
        return f"{self._bind(getattr(owner, where))}[{leaf!r}]"

    def _bind(self, value: Any) -> str:
        if id(value) not in self._bound:
            self._bound[id(value)] = f"g{len(self._bound)}"
            self._kept.append(value)
            self.scope[self._bound[id(value)]] = value
        return self._bound[id(value)]

    def _name(self, node: fx.Node) -> str:
        if node not in self._names:
            self._names[node] = f"v{len(self._names)}"
        return self._names[node]

    def _text(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self._name(value)
        if isinstance(value, tuple):
            return f"({''.join(self._text(each) + ', ' for each in value)})"
        if isinstance(value, list):
            return f"[{', '.join(self._text(each) for each in value)}]"
        if value is None or isinstance(value, bool | int | float | str):
            return repr(value) if not isinstance(value, float) or value >= 0 else f"({value!r})"
        return self._bind(value)
