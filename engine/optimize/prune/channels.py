"""Follows channels through a graph of operators and says which must go together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.optimize.graph.capture import capture_operators
from engine.optimize.prune.blocks import (
    ELEMENTWISE,
    POOLS,
    RESHAPES,
    operator_name,
    shape_of,
)
from engine.optimize.prune.channel_groups import BOUND, CONVOLUTIONS, Channels, grouped
from engine.optimize.prune.sharing import shared_parameters
from engine.program import Inputs

_KEEPING = {
    *POOLS, "dropout", "contiguous", "clone", "to", "upsample_nearest2d", "upsample_bilinear2d",
    "upsample_bicubic2d", "constant_pad_nd", "pad", "reflection_pad2d", "replication_pad2d",
    "adaptive_max_pool2d", "squeeze", "unsqueeze", "alias", "detach", "feature_dropout",
}  # fmt: skip
_NORMS = {"batch_norm", "_native_batch_norm_legit_no_training"}
_SPLITS = {"split", "chunk", "split_with_sizes"}


def find_channels(module: nn.Module, inputs: Inputs) -> Channels:
    """The channels of convolutions that can go, and what goes with each.

    Residual sums and products tie channels, concatenations and splits keep them apart, depthwise
    convolutions, batch norm, pooling and flattening pass them on. Whatever else a channel meets
    keeps it: a norm over channels, a grouped convolution, the outputs.

    Raises:
        StepRefused: the module cannot be read as a graph.
    """
    return channels_of(module, capture_operators(module, inputs).graph)


def channels_of(module: nn.Module, graph: fx.Graph) -> Channels:
    """The same channels from a graph that was captured before."""
    return _Walk(module, graph).channels()


@dataclass(frozen=True)
class _Track:
    """The labels of a tensor's channels, and the axis that they lie on."""

    labels: Tensor
    axis: int


class _Walk:
    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        self._module, self._graph = module, graph
        self._parents = [BOUND]
        self._tracks: dict[fx.Node, _Track | None] = {}
        self._pieces: dict[fx.Node, list[_Track]] = {}
        self._shared = shared_parameters(module)
        self._found = Channels({}, {}, {}, {})

    def channels(self) -> Channels:
        """Walks the graph once, in order."""
        for node in self._graph.nodes:
            self._tracks[node] = self._after(node)
        found = self._found
        for vectors in (found.rows, found.columns, found.norms, found.depthwise):
            for name, labels in vectors.items():
                vectors[name] = self._roots(labels)
        found.groups = grouped(self._module, found)
        return found

    # ---- sets of labels that are one unit

    def _new(self, count: int) -> Tensor:
        start = len(self._parents)
        self._parents += range(start, start + count)
        return torch.arange(start, start + count)

    def _root(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def _roots(self, labels: Tensor) -> Tensor:
        return torch.tensor([self._root(each) for each in labels.tolist()], dtype=torch.int64)

    def _tie(self, one: Tensor, other: Tensor) -> None:
        for pair in set(zip(one.tolist(), other.tolist(), strict=True)):
            low, high = sorted((self._root(pair[0]), self._root(pair[1])))
            self._parents[high] = low  # the bound label is the lowest

    def _bind(self, track: _Track | None) -> None:
        if track is not None:
            self._tie(track.labels, torch.zeros_like(track.labels))

    # ---- what an operator does with channels

    def _after(self, node: fx.Node) -> _Track | None:
        layer = self._layer(node)
        if layer is not None:
            return self._product(node, *layer)
        name = operator_name(node)
        for names, rule in self._rules():
            if name in names:
                made = rule(node)
                if made is not None:
                    return made
                break
        self._bind_inputs(node)
        return None

    def _rules(self) -> tuple[tuple[set[str], Callable[[fx.Node], _Track | None]], ...]:
        return (
            (_NORMS, self._norm),
            ({"cat"}, self._joined),
            (_SPLITS, self._split),
            ({"getitem"}, self._piece),
            (RESHAPES, self._reshaped),
            ({"transpose", "permute"}, self._turned),
            ({"mean"}, self._averaged),
            (_KEEPING, self._kept),
            (ELEMENTWISE, self._elementwise),
        )

    def _bind_inputs(self, node: fx.Node) -> None:
        for each in node.all_input_nodes:
            self._bind(self._tracks.get(each))
            for piece in self._pieces.get(each, ()):
                self._bind(piece)

    def _layer(self, node: fx.Node) -> tuple[str, nn.Module] | None:
        if node.op == "call_module":
            owner = self._module.get_submodule(str(node.target))
            return (str(node.target), owner) if type(owner) is nn.Linear else None
        names = {"conv2d", "conv1d", "conv_transpose2d"}
        if operator_name(node) not in names or not isinstance(node.args[1], fx.Node):
            return None
        path, _, leaf = str(node.args[1].target).rpartition(".")
        if node.args[1].op != "get_attr" or leaf != "weight":
            return None
        owner = self._module.get_submodule(path)
        return (path, owner) if type(owner) in CONVOLUTIONS else None

    def _product(self, node: fx.Node, name: str, layer: Any) -> _Track | None:
        entered = self._tracks.get(node.args[0])  # type: ignore[arg-type]
        is_linear = isinstance(layer, nn.Linear)
        axis = len(shape_of(node)) - 1 if is_linear else 1
        groups = 1 if is_linear else layer.groups
        width = shape_of(node.args[0])[-1 if is_linear else 1]
        is_bound = id(layer.weight) in self._shared or (entered and entered.axis != axis)
        if groups > 1 and groups == width and entered and not is_bound:
            repeated = entered.labels.repeat_interleave(layer.out_channels // groups)
            self._keep(self._found.depthwise, name, repeated)
            return _Track(repeated, axis)
        if is_bound or groups > 1:
            self._bind_inputs(node)
            return None
        taken = entered.labels if entered else torch.zeros(width, dtype=torch.int64)
        self._keep(self._found.columns, name, taken)
        outputs = shape_of(node)[axis]
        made = self._found.rows.get(name)
        made = self._new(outputs) if made is None else made
        self._found.rows[name] = made
        return _Track(made, axis)

    def _keep(self, vectors: dict[str, Tensor], name: str, labels: Tensor) -> None:
        """Notes labels of a place; of one that is used twice they are tied."""
        if name in vectors:
            self._tie(vectors[name], labels)
        vectors[name] = labels

    def _norm(self, node: fx.Node) -> _Track | None:
        track = self._tracks.get(node.args[0])  # type: ignore[arg-type]
        source = node.args[3]
        if track is None or not isinstance(source, fx.Node) or track.axis != 1:
            return None
        self._keep(self._found.norms, str(source.target).rpartition(".")[0], track.labels)
        self._pieces[node] = [track]  # one form gives a list, whose first entry is the result
        return track

    def _joined(self, node: fx.Node) -> _Track | None:
        parts: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
        tracks = [self._tracks.get(each) for each in parts]
        known = next((each for each in tracks if each), None)
        dimensions = len(shape_of(node))
        axis = int(_argument(node, 1, 0)) % dimensions
        if known is None or any(each and each.axis != known.axis for each in tracks):
            return None
        if axis != known.axis:
            return self._tied(tracks)
        sizes = [shape_of(each)[axis] for each in parts]
        labels = [
            each.labels if each else torch.zeros(size, dtype=torch.int64)
            for each, size in zip(tracks, sizes, strict=True)
        ]
        return _Track(torch.cat(labels), axis)

    def _tied(self, tracks: list[_Track | None]) -> _Track | None:
        first = tracks[0]
        if first is None or any(e is None or len(e.labels) != len(first.labels) for e in tracks):
            return None
        for each in tracks[1:]:
            self._tie(first.labels, each.labels)  # type: ignore[union-attr]
        return first

    def _split(self, node: fx.Node) -> _Track | None:
        track = self._tracks.get(node.args[0])  # type: ignore[arg-type]
        shapes = [tuple(each.shape) for each in node.meta.get("val", ())]
        if track is None or not shapes:
            return None
        sizes = [shape[track.axis] for shape in shapes]
        if sum(sizes) != len(track.labels):  # split along another axis
            parts = [track.labels] * len(sizes)
        else:
            parts = list(torch.split(track.labels, sizes))
        self._pieces[node] = [_Track(part, track.axis) for part in parts]
        return self._pieces[node][0]

    def _piece(self, node: fx.Node) -> _Track | None:
        pieces = self._pieces.get(node.args[0], [])  # type: ignore[arg-type]
        at = node.args[1]
        return pieces[at] if isinstance(at, int) and at < len(pieces) else None

    def _reshaped(self, node: fx.Node) -> _Track | None:
        track = self._tracks.get(node.args[0])  # type: ignore[arg-type]
        before, after = shape_of(node.args[0]), shape_of(node)
        if track is None:
            return None
        if track.axis == len(before) - 1 and after[-1] == before[-1]:
            return _Track(track.labels, len(after) - 1)
        if track.axis != 1 or after[0] != before[0] or len(after) < 2:
            return None
        if after[1] == before[1]:
            return track
        inner = after[1] // before[1]
        is_flat = len(after) == 2 and after[1] == before[1] * inner
        return _Track(track.labels.repeat_interleave(inner), 1) if is_flat else None

    def _turned(self, node: fx.Node) -> _Track | None:
        track = self._tracks.get(node.args[0])  # type: ignore[arg-type]
        if track is None:
            return None
        count = len(shape_of(node))
        order = list(range(count))
        if operator_name(node) == "permute":
            order = [int(each) % count for each in _argument(node, 1, ())]
        else:
            one, other = (int(_argument(node, at, 0)) % count for at in (1, 2))
            order[one], order[other] = order[other], order[one]
        return _Track(track.labels, order.index(track.axis))

    def _averaged(self, node: fx.Node) -> _Track | None:
        track = self._tracks.get(node.args[0])  # type: ignore[arg-type]
        if track is None or len(node.args) < 2 or not isinstance(node.args[1], list | tuple):
            return None
        count = len(shape_of(node.args[0]))
        gone = {int(each) % count for each in node.args[1]}  # type: ignore[arg-type]
        return track if all(each > track.axis for each in gone) else None

    def _kept(self, node: fx.Node) -> _Track | None:
        track = self._tracks.get(node.args[0])  # type: ignore[arg-type]
        if track is None or len(shape_of(node)) <= track.axis:
            return None
        same = shape_of(node)[: track.axis + 1] == shape_of(node.args[0])[: track.axis + 1]
        return track if same else None

    def _elementwise(self, node: fx.Node) -> _Track | None:
        shape = shape_of(node)
        tracks = []
        known = next((t for each in node.all_input_nodes if (t := self._tracks.get(each))), None)
        if known is None:
            return None
        from_right = known.axis - len(shape_of(next(
            each for each in node.all_input_nodes if self._tracks.get(each) is known
        )))  # fmt: skip
        for each in node.all_input_nodes:
            size = shape_of(each)
            if len(size) < -from_right or size[from_right] == 1:
                continue  # the same for every channel
            track = self._tracks.get(each)
            if track is None or track.axis - len(size) != from_right:
                return None
            tracks.append(track)
        tied = self._tied(list(tracks)) if tracks else None
        return _Track(tied.labels, len(shape) + from_right) if tied else None


def _argument(node: fx.Node, at: int, default: Any) -> Any:
    return node.args[at] if len(node.args) > at else default
