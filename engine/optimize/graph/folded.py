"""A module run by its folded graph."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from engine.errors import StepRefused
from engine.optimize.graph.capture import CHECKS, Captured, rebuild
from engine.optimize.graph.codegen import GraphFunction, quickened
from engine.optimize.graph.dataflow import has_hooks
from engine.optimize.graph.decoding import DecoderGraphs
from engine.optimize.graph.exporting import export
from engine.optimize.graph.folding import (
    Folded,
    calls_in,
    depends_on,
    fold_constants_,
    idle_calls,
    merge_equal_,
    swept,
)
from engine.optimize.graph.nodes import expression, token_dims
from engine.optimize.graph.positions import Positions, longest
from engine.optimize.graph.rounding import relative_error, rounding_limit
from engine.optimize.graph.sizes import cases, flexible_dims, resized
from engine.optimize.graph.stubs import restore_, stubbed
from engine.optimize.graph.tables import Tables
from engine.program import Inputs, Program, RecomputeDecoder, call, output_tensors
from engine.records import Workload

_EXAMPLE_BATCH, _EXAMPLE_TOKENS = 3, 11
_SURVEYED_BYTES = 64 << 20


class FoldedModule(nn.Module):
    """A graph over a module's own layers, which keep their names; called as the module was.

    Args:
        root: holds the layers and tensors that the graph reads.
        graph: from the input tensors in their order to the flat outputs.
        names: of the inputs, in order; None where they come by position.
        shape: the outputs' structure, None for a single tensor.
    """

    def __init__(
        self, root: nn.Module, graph: fx.Graph, names: tuple[str, ...] | None, shape: Any
    ) -> None:
        super().__init__()
        for name, child in root._modules.items():
            self.add_module(name, child)
        for name, parameter in root._parameters.items():
            self.register_parameter(name, parameter)
        for name, buffer in root._buffers.items():
            self.register_buffer(name, buffer, persistent=False)
        self.names, self.shape = names, shape
        self.training = False
        # Outside of nn.Module's registry: they share this module's own children and parameters.
        self.__dict__["function"] = GraphFunction(self, graph)
        self.__dict__["traced"] = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gave, for any batch and length that its graph takes.

        Raises:
            ValueError: other inputs than those that the graph was made for.
        """
        run = self.__dict__["traced"] if torch.compiler.is_compiling() else None
        if run is None:
            run = self.__dict__["function"].run
        found = run(*self._tensors(args, kwargs))
        if self.shape is None:
            return found
        return pytree.tree_unflatten(found if isinstance(found, tuple) else [found], self.shape)

    def make_traceable_(self) -> None:
        """Keeps the graph in the form that compilers trace, over the layers as they are now."""
        self.__dict__["traced"] = self.__dict__["function"].graph_module()

    def _tensors(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        if self.names is None:
            if kwargs:
                raise ValueError(f"A folded graph takes no {next(iter(kwargs))}.")
            return args
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        for quiet in ("use_cache", "return_dict"):
            given.pop(quiet, None)
        if given.keys() != set(self.names):
            raise ValueError(
                f"A folded graph takes {', '.join(self.names)}, got {', '.join(given)}:"
                " take fold_constants out of the recipe for other inputs."
            )
        return tuple(given[name] for name in self.names)

    def __deepcopy__(self, memo: dict[int, Any]) -> FoldedModule:
        root = nn.Module()
        memo[id(self)] = root
        root._modules = copy.deepcopy(self._modules, memo)
        root._parameters = copy.deepcopy(self._parameters, memo)
        root._buffers = copy.deepcopy(self._buffers, memo)
        made = FoldedModule(root, self.__dict__["function"].graph, self.names, self.shape)
        memo[id(self)] = made
        return made


class _Whole(nn.Module):
    """The module on tensors in their order, without a cache, with all that it gives back."""

    def __init__(self, source: nn.Module, names: tuple[str, ...] | None) -> None:
        super().__init__()
        self.source = source
        self.training = source.training
        self.names = names
        quiet = hasattr(getattr(source, "config", None), "use_cache")
        self.options = {"use_cache": False} if quiet else {}

    def forward(self, *tensors: Tensor) -> Any:
        if self.names is None:
            return self.source(*tensors, **self.options)
        return self.source(**dict(zip(self.names, tensors, strict=True)), **self.options)


def survey_fold(program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
    """How many calls a folded graph would save, or the reason why there can be none; plain JSON."""
    try:
        if isinstance(program.module, DecoderGraphs):
            counts = fold_decoder(copy.deepcopy(program.module))[1]
        else:
            module, given = program.module, foldable_inputs(program, inputs, workload)
            names = tuple(given) if isinstance(given, dict) else None
            tensors = tuple(given.values()) if isinstance(given, dict) else tuple(given)
            counts = _folded(module, names, tensors, None, _SURVEYED_BYTES).counts
    except StepRefused as refusal:
        return {"refusal": refusal.message}
    return dataclasses.asdict(counts)


def foldable_inputs(program: Program, inputs: Inputs, workload: Workload) -> Inputs:
    """What the graph will be called with.

    Raises:
        StepRefused: no graph could stand for this module in this workload.
    """
    module, decoder = program.module, program.decoder
    if program.runtime != "eager":
        raise StepRefused(f"{program.runtime} runs this program already.")
    listened = [name for name, each in module.named_modules() if has_hooks(each)]
    if listened:
        raise StepRefused(f"somebody listens to {listened[0] or 'the model'} by a hook.")
    if workload.kind == "generate":
        if type(decoder) is not RecomputeDecoder:
            raise StepRefused("it generates with a cache object of its own, which no graph takes.")
        if isinstance(inputs, dict) and len(inputs) > 1:
            raise StepRefused("it generates from ids alone, and is measured with more inputs.")
    given = tuple(inputs.values()) if isinstance(inputs, dict) else tuple(inputs)
    if not given or not all(isinstance(each, Tensor) for each in given):
        raise StepRefused("it is called with something else than tensors.")
    return inputs


def fold_module(
    module: nn.Module, inputs: Inputs, *, max_length: int | None, max_bytes: int
) -> tuple[FoldedModule, Folded, float]:
    """The module's folded graph, what is gone, and the largest relative error that was seen.

    Args:
        module: in evaluation mode; its layers are shared, not copied.
        inputs: of one run, tensors alone.
        max_length: the longest sequence, where it is known.
        max_bytes: of one stored result.

    Raises:
        StepRefused: it cannot be exported, its sizes are fixed in its code, there is nothing to
            fold, or the graph gives something else.
    """
    names = tuple(inputs) if isinstance(inputs, dict) else None
    given = tuple(inputs.values()) if isinstance(inputs, dict) else tuple(inputs)
    plan = _folded(module, names, given, max_length, max_bytes)
    quickened(plan.graph)
    made = FoldedModule(plan.root, plan.graph, names, plan.shape)
    return made, plan.counts, _proved(made, module, names, given, plan.limit)


def fold_decoder(graphs: DecoderGraphs) -> tuple[DecoderGraphs, Folded]:
    """The same decoder with each of its graphs folded, in place, and what is gone from them.

    Raises:
        StepRefused: there is nothing to fold.
    """
    counts = Folded()
    functions = {name: each.graph for name, each in graphs.functions.items()}
    for graph in functions.values():
        counts.before += calls_in(graph)
        counts.merged += merge_equal_(graph)
        counts.idle += swept(graph)
        counts.after += calls_in(graph)
    if not counts.gone:
        raise StepRefused("the decoder's graphs compute nothing twice.")
    graphs._build(functions)
    return graphs, counts


@dataclass
class _Plan:
    graph: fx.Graph
    root: nn.Module
    counts: Folded
    shape: Any
    limit: int | None


def _folded(
    module: nn.Module,
    names: tuple[str, ...] | None,
    given: tuple[Tensor, ...],
    max_length: int | None,
    max_bytes: int,
) -> _Plan:
    batched = len({each.shape[:1] for each in given}) == 1 and all(each.dim() for each in given)
    dynamic = tuple(flexible_dims(each) if batched else () for each in given)
    sizes = (min(max_length or _EXAMPLE_TOKENS, _EXAMPLE_TOKENS), _EXAMPLE_BATCH)
    example = tuple(resized(each, sizes[1], sizes[0]) for each in given) if batched else given
    with stubbed(module) as packed:
        exported = export(_Whole(module, names), example, dynamic)
        graph, root, users = rebuild(exported, module)
    restore_(root, packed)
    if batched and any(not isinstance(each.meta["val"].shape[0], torch.SymInt) for each in users):
        raise StepRefused("its code takes one batch size only.")
    counts = Folded(before=calls_in(graph), idle=idle_calls(exported.graph, graph, CHECKS))
    counts.before += counts.idle
    counts.tables, limit = _tables(graph, root, users, max_length)
    counts.constants = fold_constants_(graph, root, max_bytes=max_bytes)
    counts.merged = merge_equal_(graph)
    counts.idle += swept(graph)
    counts.after = calls_in(graph)
    spec = exported.call_spec.out_spec
    single = spec is None or spec.is_leaf()
    if not counts.gone:
        raise StepRefused("nothing is computed twice, and nothing from constants alone.")
    return _Plan(graph, root, counts, None if single else spec, limit)


def _tables(
    graph: fx.Graph, root: nn.Module, users: list[fx.Node], limit: int | None
) -> tuple[int, int | None]:
    """Reads what depends on positions alone from tables.

    Returns:
        The calls that are gone, and the longest sequence, as far as it is known.
    """
    ids = next(
        (
            each
            for each in users
            if each.meta["val"].dim() == 2 and isinstance(each.meta["val"].shape[1], torch.SymInt)
        ),
        None,
    )
    if ids is None:
        return 0, limit
    batch, tokens = (expression(each) for each in ids.meta["val"].shape)
    if not tokens.is_Symbol or not batch.is_Symbol:
        return 0, limit
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    captured = Captured(graph, root, ids, output, batch, tokens, limit)
    known = limit or longest(captured, None)
    if known is None:
        return 0, None
    data = depends_on(users, graph)
    if not any(
        token_dims(value, tokens) for node in data for value in node.all_input_nodes
        if value not in data
    ):  # fmt: skip
        return 0, known
    before = calls_in(graph)
    Tables(captured, Positions(captured, known)).read_in_graph(data)
    return max(0, before - calls_in(graph)), known


def _proved(
    made: FoldedModule,
    module: nn.Module,
    names: tuple[str, ...] | None,
    given: tuple[Tensor, ...],
    limit: int | None,
) -> float:
    whole, worst = _Whole(module, names), 0.0
    for tensors in cases(given, limit):
        if any(each.is_meta for each in tensors):
            return 0.0
        inputs = dict(zip(names, tensors, strict=True)) if names else tensors
        with torch.no_grad():
            try:
                wanted = output_tensors(whole(*tensors))
            except Exception:  # a size that the model itself does not take
                continue
            try:
                found = output_tensors(call(made, inputs))
            except (RuntimeError, ValueError) as failure:
                line = str(failure).splitlines()[0][:160]
                sizes = " and ".join(str(list(each.shape)) for each in tensors)
                raise StepRefused(f"its graph does not run on inputs {sizes}: {line}") from failure
        error = relative_error(found, wanted)
        if not error <= rounding_limit(wanted[0].dtype):
            raise StepRefused(f"the graph's outputs would move by {error:.1e}.")
        worst = max(worst, error)
    return worst
