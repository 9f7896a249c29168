"""An incremental decoder derived from a module that keeps no cache."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from engine.errors import StepRefused
from engine.optimize.graph.capture import Captured, capture
from engine.optimize.graph.codegen import GraphFunction, quickened
from engine.optimize.graph.incremental import Incremental
from engine.optimize.graph.nodes import args_of, is_boundary
from engine.optimize.graph.positions import longest
from engine.optimize.graph.stubs import packed_layers
from engine.program import Inputs, logits_of, token_ids

aten = torch.ops.aten
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
# Other sums in 8 or 11 bits of mantissa, through all layers.
_ROUNDED = 5e-2


class DecoderGraphs(nn.Module):
    """A decoder as three graphs over one set of submodules, which keep their original names.

    `prefill(ids)` gives (logits, *cache) and `step(token, *cache)` the same for one more token;
    their logits are those of the last position, [batch, vocabulary]. `forward(ids)` gives all,
    [batch, tokens, vocabulary]. The cache is a flat sequence of tensors; `cache_dims` says which
    dimension of each counts tokens. Batch and length are free up to `max_length`.
    """

    functions: dict[str, GraphFunction]
    prefill: GraphFunction
    step: GraphFunction

    def __init__(
        self,
        root: nn.Module,
        graphs: dict[str, fx.Graph],
        cache_dims: Sequence[int],
        max_length: int | None,
    ) -> None:
        super().__init__()
        for name, child in root._modules.items():
            self.add_module(name, child)
        for name, parameter in root._parameters.items():
            self.register_parameter(name, parameter)
        for name, buffer in root._buffers.items():
            self.register_buffer(name, buffer, persistent=False)
        self.cache_dims = tuple(cache_dims)
        self.max_length = max_length
        self.proved_error = float("nan")
        self.training = False
        self._build(graphs)

    def _build(self, graphs: dict[str, fx.Graph]) -> None:
        # Outside of nn.Module's registry: they share this module's own children and parameters.
        functions = {name: GraphFunction(self, graph) for name, graph in graphs.items()}
        self.__dict__["functions"] = functions
        self.__dict__["prefill"] = functions["prefill"]
        self.__dict__["step"] = functions["step"]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits of every position [batch, tokens, vocabulary]."""
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError(
                "A derived decoder takes prompts without padding: attention_mask has zeros."
            )
        self.check_length(input_ids.shape[1])
        logits: Tensor = self.functions["forward"].run(input_ids)
        return logits

    def check_length(self, tokens: int) -> None:
        """Refuses a sequence that is longer than the model's positions.

        Raises:
            ValueError: it is.
        """
        if self.max_length is not None and tokens > self.max_length:
            raise ValueError(
                f"This model takes at most {self.max_length} tokens, got {tokens}: use a shorter"
                " prompt or fewer new tokens."
            )

    def cached_tokens(self, cache: Sequence[Tensor]) -> int:
        """How many tokens a cache holds."""
        return cache[0].shape[self.cache_dims[0]]

    def __deepcopy__(self, memo: dict[int, Any]) -> DecoderGraphs:
        root = nn.Module()
        memo[id(self)] = root
        root._modules = copy.deepcopy(self._modules, memo)
        root._parameters = copy.deepcopy(self._parameters, memo)
        root._buffers = copy.deepcopy(self._buffers, memo)
        graphs = {name: each.graph for name, each in self.functions.items()}
        made = DecoderGraphs(root, graphs, self.cache_dims, self.max_length)
        made.proved_error = self.proved_error
        memo[id(self)] = made
        return made


class FlatCacheDecoder:
    """Runs DecoderGraphs; the state is the flat cache."""

    keeps_cache = True

    def prefill(self, module: nn.Module, inputs: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits of the last prompt position, and the cache."""
        ids, graphs = token_ids(inputs), cast(DecoderGraphs, module)
        graphs.check_length(ids.shape[1])
        logits, *cache = graphs.prefill.run(ids)
        return logits, tuple(cache)

    def step(
        self, module: nn.Module, token: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits after one more token, and the cache with it."""
        graphs = cast(DecoderGraphs, module)
        if graphs.max_length is not None:
            graphs.check_length(graphs.cached_tokens(state) + 1)
        logits, *cache = graphs.step.run(token, *state)
        return logits, tuple(cache)


def derive_decoder_graphs(
    module: nn.Module, ids: Tensor, *, max_length: int | None = None, seed: int = 0
) -> DecoderGraphs:
    """The incremental decoder of a causal module from ids [batch, tokens] to logits.

    It is proved before it is given back: prefill and steps against the whole forward of `module`,
    on random prompts of several lengths.

    Args:
        module: keeps no cache, or has a config with `use_cache` to switch it off.
        ids: any ids that the module takes.
        max_length: the longest sequence, where it is known.
        seed: of the random prompts.

    Raises:
        StepRefused: it cannot be exported, is not causal, mixes tokens otherwise than by
        attention, or
            the derived decoder gives other logits.
    """
    captured = capture(module, ids, max_length=max_length)
    limit = longest(captured, max_length)
    incremental = Incremental(captured, limit)
    step = incremental.build()
    incremental.tables.read_in_graph(incremental.roles)
    graphs = {
        "forward": captured.graph,
        "prefill": _prefill_graph(captured, incremental.cached),
        "step": step,
    }
    for graph in graphs.values():
        quickened(graph)
    drop_unread(captured.root, graphs.values())
    made = DecoderGraphs(captured.root, graphs, incremental.cache_dims, limit)
    try:
        made.proved_error = prove(made, module, ids, seed=seed)
    except RuntimeError as error:  # what operators raise for shapes that do not fit
        line = str(error).splitlines()[0]
        raise StepRefused(f"The derived decoder does not run: {line}", detail=str(error)) from error
    return made


def cache_plan(module: nn.Module, ids: Tensor) -> dict[str, int]:
    """What a derived decoder would keep and run.

    `cache_tensors` and `cache_bytes_per_token` (of one sequence); `operators` of the whole forward
    and `operators_step` of a step.

    Raises:
        StepRefused: none can be derived.
    """
    captured = capture(module, ids)
    incremental = Incremental(captured, longest(captured, None))
    before = _operators(captured.graph)
    step = incremental.build()
    held = [incremental.bytes_for_one_token(node) for node in incremental.cached]
    return {
        "cache_tensors": len(held),
        "cache_bytes_per_token": sum(held),
        "operators": before,
        "operators_step": _operators(step),
    }


def _operators(graph: fx.Graph) -> int:
    return sum(node.op in ("call_function", "call_method", "call_module") for node in graph.nodes)


def drop_unread(root: nn.Module, graphs: Iterable[fx.Graph]) -> None:
    """Removes the buffers that no graph reads: masks that a table stands for."""
    read = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "get_attr"}
    for name, _ in list(root.named_buffers()):
        path, _, leaf = name.rpartition(".")
        owner = root.get_submodule(path)
        if type(owner) is nn.Module and name not in read:
            del owner._buffers[leaf]


def _prefill_graph(captured: Captured, cached: Sequence[fx.Node]) -> fx.Graph:
    """The whole forward that also gives what is cached; its last layers ask one row alone."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(captured.graph, copied)
    logits = captured.logits
    while _works_by_row(logits) and len(args_of(logits)[0].users) == 1:
        logits = args_of(logits)[0]
    if logits is captured.logits:
        last = graph.call_method("select", (copied[logits], 1, -1))
    else:
        first = next(user for user in logits.users if user in copied)
        with graph.inserting_before(copied[first]):
            newest = graph.call_function(aten.slice.Tensor, (copied[logits], 1, -1, 2**62))
        copied[first].replace_input_with(copied[logits], newest)
        last = graph.call_method("select", (copied[captured.logits], 1, -1))
    # A view would keep all it was cut from alive, and compilers fix the strides of what they were
    # given.
    kept = [graph.call_method("contiguous", (copied[node],)) for node in cached]
    graph.output((last, *kept))
    graph.eliminate_dead_code(is_boundary)
    return graph


def _works_by_row(node: fx.Node) -> bool:
    return node.op == "call_module" and node.meta["operator"] is not aten.embedding.default


def prove(graphs: DecoderGraphs, module: nn.Module, ids: Tensor, *, seed: int) -> float:
    """The largest relative error of prefill and steps against the whole forward.

    Raises:
        StepRefused: it is above 1e-4, or not a number.
    """
    generator = torch.Generator().manual_seed(seed)
    # Packed layers round a row on its own otherwise than among others.
    loose = bool(packed_layers(module))
    highest = int(ids.max()) + 1
    worst = 0.0
    config = getattr(module, "config", None)
    options = {"use_cache": False} if hasattr(config, "use_cache") else {}
    training = module.training
    module.eval()
    with torch.inference_mode():
        vocabulary = logits_of(module(ids[:, :1], **options)).shape[-1]
        for batch, prompt, length in _proof_sizes(graphs.max_length):
            sample = torch.randint(max(highest, vocabulary), (batch, length), generator=generator)
            sample = (sample % vocabulary).to(ids)
            expected = logits_of(module(sample, **options))
            worst = max(worst, _error(graphs(sample), expected, "the whole forward", loose))
            logits, *cache = graphs.prefill(sample[:, :prompt])
            early = logits_of(module(sample[:, :prompt], **options))[:, -1]
            _error(
                early,
                expected[:, prompt - 1],
                "earlier logits change with later tokens: not causal",
                loose,
            )
            for position in range(prompt, length + 1):
                where = f"the step at token {position}"
                found = _error(logits, expected[:, position - 1], where, loose)
                worst = max(worst, found)
                if position < length:
                    logits, *cache = graphs.step(sample[:, position : position + 1], *cache)
    module.train(training)
    return worst


def _proof_sizes(longest: int | None) -> list[tuple[int, int, int]]:
    """Batch, prompt and whole length of the random prompts, none above the longest."""
    sizes = [(1, 1, 6), (2, 4, 7), (1, 9, 13), (1, 37, 40)]
    fitting = [each for each in sizes if longest is None or each[2] <= longest]
    return fitting or [(1, 1, longest or 1)]


def _error(found: Tensor, expected: Tensor, where: str, loose: bool) -> float:
    if not torch.isfinite(expected).all():
        raise StepRefused("The model's own logits are NaN or Inf on random prompts.")
    error = float((found - expected).float().norm() / expected.float().norm().clamp_min(1e-12))
    if not error <= (_ROUNDED if loose else _TOLERANCE.get(expected.dtype, _ROUNDED)):
        raise StepRefused(f"A cache would change the answer: {where} (relative error {error:.2g}).")
    return error
