"""Cuts units out of a live module, and proves that nothing else changed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.optimize.prune.importance import Choice
from engine.optimize.prune.running import outputs_of
from engine.optimize.prune.units import Block, Layer
from engine.program import Inputs, Program

_TOLERANCE = 1e-3
_HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead")
_KEY_COUNTS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
_COUNTS = (*_HEAD_COUNTS, *_KEY_COUNTS, "num_key_value_groups")
_WIDTHS = ("split_size", "all_head_size", "inner_dim", "hidden_size", "embed_dim")


@dataclass
class Cut:
    """One block, what stays of it, and how to take the cut back."""

    module: nn.Module
    block: Block
    choice: Choice
    layout: int = 0
    patched: tuple[str, ...] = _COUNTS
    _undo: list[Callable[[], None]] = field(default_factory=list)

    def mask_(self) -> None:
        """Sets the weights of what goes to zero: the same answer in the old shape."""
        block = self.block
        owner: Any = block.consumer.module
        gone = torch.ones(block.units, dtype=torch.bool)
        gone[self.choice.kept] = False
        self._set(owner, "weight", _masked(block.consumer, block.columns[gone].flatten()))

    def cut_(self) -> None:
        """Takes the units out of every layer."""
        block, kept = self.block, self.choice.kept
        if block.heads:
            self._cut_list()
        for name, layer in ({} if block.heads else block.producers).items():
            layouts = block.rows[name]
            # A unit's rows may lie apart: what stays keeps its order.
            rows = layouts[min(self.layout, len(layouts) - 1)][kept].flatten().sort().values
            self._cut_outputs(layer, rows)
        for norm in block.norms:
            for name in ("weight", "bias", "running_mean", "running_var"):
                if getattr(norm, name) is not None:
                    self._set(norm, name, getattr(norm, name)[kept])
            self._set(norm, "num_features", len(kept))
        self._cut_inputs(block.consumer, block.columns[kept].flatten().sort().values)
        if block.kind == "heads":
            self._patch_counts()

    def fit_(self) -> None:
        """Gives the consumer the weights that were fitted for what stays."""
        owner: Any = self.block.consumer.module
        fitted = self.choice.weight.reshape(self.block.consumer.weight.shape)
        with torch.no_grad():
            owner.weight.copy_(fitted.t() if self.block.consumer.is_transposed else fitted)
            if self.choice.bias is not None:
                owner.bias.copy_(self.choice.bias)

    def undo_(self) -> None:
        """Takes everything back since the block was whole."""
        for each in reversed(self._undo):
            each()
        self._undo.clear()

    def _set(self, owner: Any, name: str, value: Any) -> None:
        before = getattr(owner, name)
        self._undo.append(lambda: setattr(owner, name, before))
        if isinstance(before, nn.Parameter):
            value = nn.Parameter(value.detach().clone(), requires_grad=before.requires_grad)
        elif isinstance(before, Tensor):
            value = value.detach().clone()
        setattr(owner, name, value)

    def _cut_outputs(self, layer: Layer, rows: Tensor) -> None:
        owner: Any = layer.module
        weight = owner.weight
        self._set(owner, "weight", weight[:, rows] if layer.is_transposed else weight[rows])
        if owner.bias is not None:
            self._set(owner, "bias", owner.bias[rows])
        self._set(owner, _size_names(layer)[1], len(rows))

    def _cut_inputs(self, layer: Layer, columns: Tensor) -> None:
        owner: Any = layer.module
        weight = owner.weight
        self._set(owner, "weight", weight[columns] if layer.is_transposed else weight[:, columns])
        self._set(owner, _size_names(layer)[0], len(columns))

    def _cut_list(self) -> None:
        path, _, name = self.block.heads.rpartition(".")
        parent = self.module.get_submodule(path)
        held = list(parent.get_submodule(name).children())
        self._set(parent, name, nn.ModuleList(held[index] for index in self.choice.kept.tolist()))

    def _patch_counts(self) -> None:
        block = self.block
        before, after = block.units, len(self.choice.kept)
        counts = dict.fromkeys(_KEY_COUNTS, (before, after))
        heads = before * block.shared, after * block.shared
        if block.is_by_position:
            groups = block.columns.shape[1] // block.width
            counts = {"num_key_value_groups": (block.shared, after)}
            heads = groups * before, groups * after
        counts |= dict.fromkeys(_HEAD_COUNTS, heads)
        widths = heads[0] * block.width, heads[1] * block.width
        counts |= dict.fromkeys(_WIDTHS, widths)
        inside = [block.heads] if block.heads else list(block.producers)
        paths = {name.rpartition(".")[0] for name in inside}
        for path in paths:
            owner = self.module.get_submodule(path)
            for name in self.patched:
                if name in counts and getattr(owner, name, None) == counts[name][0]:
                    self._set(owner, name, counts[name][1])


def cut_all_(program: Program, cuts: list[Cut], inputs: Inputs) -> list[str]:
    """Cuts every block and gives back the names of those that had to stay whole.

    Each cut is proved: the outputs must be those of the old shape with the same units set to zero.
    What cannot be cut so, for a reshape that is written with fixed numbers say, is taken back.
    """
    for cut in cuts:
        cut.mask_()
    expected = outputs_of(program, inputs)
    for cut in cuts:
        cut.undo_()
    if _agrees(program, cuts, inputs, expected):
        return []
    for cut in cuts:
        cut.undo_()
    return [cut.block.consumer.name for cut in cuts if not _cut_alone_(program, cut, inputs)]


def _cut_alone_(program: Program, cut: Cut, inputs: Inputs) -> bool:
    cut.mask_()
    expected = outputs_of(program, inputs)
    cut.undo_()
    for layout, patched in _ways(cut.block):
        cut.layout, cut.patched = layout, patched
        if _agrees(program, [cut], inputs, expected):
            return True
        cut.undo_()
    return False


def _ways(block: Block) -> Iterator[tuple[int, tuple[str, ...]]]:
    layouts = max((len(each) for each in block.rows.values()), default=1)
    patches: tuple[tuple[str, ...], ...] = ((),)
    if block.kind == "heads":
        patches = (_COUNTS, (), (*_COUNTS, *_WIDTHS[:3]), (*_COUNTS, *_WIDTHS))
    return itertools.product(range(layouts), patches)


def _agrees(program: Program, cuts: list[Cut], inputs: Inputs, expected: list[Tensor]) -> bool:
    try:
        for cut in cuts:
            cut.cut_()
        given = outputs_of(program, inputs)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError):
        return False
    if [each.shape for each in given] != [each.shape for each in expected]:
        return False
    return all(_error(one, other) <= _TOLERANCE for one, other in zip(given, expected, strict=True))


def _error(given: Tensor, expected: Tensor) -> float:
    # Masks in the outputs are -inf on both sides.
    both = torch.isfinite(given) & torch.isfinite(expected)
    if not bool((torch.isfinite(given) == torch.isfinite(expected)).all()):
        return float("inf")
    difference = (given - expected)[both].double().norm()
    return float(difference / expected[both].double().norm().clamp_min(1e-12))


def _masked(layer: Layer, columns: Tensor) -> Tensor:
    owner: Any = layer.module
    weight: Tensor = owner.weight.detach().clone()
    if layer.is_transposed:
        weight[columns] = 0
    else:
        weight[:, columns] = 0
    return weight


def _size_names(layer: Layer) -> tuple[str, str]:
    if layer.is_convolution:
        return "in_channels", "out_channels"
    return ("nx", "nf") if layer.is_transposed else ("in_features", "out_features")
