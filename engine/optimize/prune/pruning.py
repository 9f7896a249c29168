"""The whole of pruning one live program: find, choose, cut, fit, tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.graph.capture import capture_operators
from engine.optimize.layers import is_excluded
from engine.optimize.prune.blocks import blocks_of, find_blocks
from engine.optimize.prune.depth import describe_stacks, remove_blocks_
from engine.optimize.prune.importance import Choice, calibration_calls, choose, second_moments
from engine.optimize.prune.surgery import Cut, cut_all_
from engine.optimize.prune.thinning import describe_channels, thin_
from engine.optimize.prune.units import Block
from engine.optimize.technique import BuildContext
from engine.program import Inputs, Program

# Inspection stays within seconds: wider blocks are described, and not tried.
_WIDEST_TRIED, _MOST_TRIED = 1024, 16
_REDUNDANT_BELOW = 0.1
_MOST_PASSES = 16
_CONFIG_NAMES = {
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", "hidden_dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
}
# Targets that are found and cut in another way than a block of one consumer.
_OTHERS: dict[str, Callable[[Program, BuildContext], list[str]]] = {
    "channels": thin_,
    "layers": remove_blocks_,
}


def describe(program: Program, inputs: Inputs) -> dict[str, Any]:
    """The blocks that can be cut, and how much of each the rest can make up for; plain JSON."""
    if any(each.is_meta for each in program.module.parameters()):
        return {"refusal": "the weights are not in memory, and what goes is chosen by them."}
    stacks = describe_stacks(program, inputs)
    try:
        graph = capture_operators(program.module, inputs).graph
    except StepRefused as refusal:
        return {"refusal": refusal.message, "stacks": stacks}
    blocks = blocks_of(program.module, graph)
    channels = describe_channels(program.module, graph)
    tried = [b for b in blocks if b.kind == "ffn" and b.columns.numel() <= _WIDEST_TRIED]
    shares, rows = _redundancy(program, tried[:_MOST_TRIED], inputs)
    return {
        "blocks": [
            {
                "kind": each.kind,
                "units": each.units,
                "shared": each.shared,
                "by_query_heads": each.by_query_heads() is not None,
                "modules": list(each.modules),
                "redundant": shares.get(each.consumer.name, 0.0),
            }
            for each in blocks
        ]
        + channels,
        "stacks": stacks,
        "rows": rows,
        "redundant_below": _REDUNDANT_BELOW,
    }


def prune_(program: Program, context: BuildContext) -> list[str]:
    """Cuts what the config asks for, in place, and gives back what the person should know.

    Raises:
        StepRefused: nothing could be cut.
    """
    config = context.config
    if config.target in _OTHERS:
        return _OTHERS[config.target](program, context)
    context.progress(0.05, "reading the graph")
    blocks = [
        fitting
        for each in find_blocks(program.module, context.inputs)
        if config.target in (each.kind, "both")
        and not any(is_excluded(name, config.exclude) for name in each.modules)
        and (fitting := _fitting(each, config))
    ]
    calls = calibration_calls(context.calibration, context.inputs)
    cuts: list[Cut] = []
    whole: list[str] = []
    size = -(-len(blocks) // _MOST_PASSES) or 1
    for start in range(0, len(blocks), size):
        batch = blocks[start : start + size]
        context.progress(0.1 + 0.9 * start / len(blocks), f"choosing in {batch[0].consumer.name}")
        moments = second_moments(program, [each.consumer for each in batch], calls)
        made = [
            Cut(program.module, each, _chosen(each, moments[each.consumer.name][0], config))
            for each in batch
            if each.consumer.name in moments
        ]
        refused = cut_all_(program, made, context.inputs)
        whole += refused
        for cut in made:
            if cut.block.consumer.name not in refused:
                cut.fit_()
                cuts.append(cut)
    if not cuts:
        raise StepRefused(
            "structured_prune: nothing could be removed without changing what stays.",
            detail=", ".join(whole),
        )
    return [*_notes(cuts, whole, context), *_tell_config_(program.module, cuts)]


def units_to_keep(block: Block, config: Any) -> int:
    """How many units of a block stay."""
    if block.kind == "heads":
        gone: int = min(block.units - 1, int(config.ratio * block.units + 1e-9))
        return block.units - gone
    stays: int = -(-round((1 - config.ratio) * block.units) // config.round_to) * config.round_to
    return min(block.units, max(1, stays))


def _fitting(block: Block, config: Any) -> Block | None:
    """The block in units that the ratio removes some of; None where it removes none."""
    for each in (block, block.by_query_heads() if block.kind == "heads" else None):
        if each is not None and units_to_keep(each, config) < each.units:
            return each
    return None


def _chosen(block: Block, moments: Tensor, config: Any) -> Choice:
    return choose(block, moments, units_to_keep(block, config), refit=config.refit)


def _notes(cuts: list[Cut], whole: list[str], context: BuildContext) -> list[str]:
    used = (
        f"{len(context.calibration)} calibration examples" if context.calibration
        else "the workload's own inputs, since there is no calibration data"
    )  # fmt: skip
    worst = max(cuts, key=lambda cut: cut.choice.relative_error)
    before = sum(cut.block.units for cut in cuts)
    gone = before - sum(len(cut.choice.kept) for cut in cuts)
    notes = [
        f"structured_prune: {gone} of {before} units removed in {len(cuts)} places,"
        f" chosen on {used}.",
        f"The layer that moves most is {worst.block.consumer.name}:"
        f" {worst.choice.relative_error:.3f} relative error.",
    ]
    if whole:
        notes.append(f"Left whole, since their shape is fixed elsewhere: {', '.join(whole[:5])}.")
    return notes


def _tell_config_(module: nn.Module, cuts: list[Cut]) -> list[str]:
    """Writes new sizes into a Hugging Face config, so that the model can be saved and loaded."""
    config: Any = getattr(module, "config", None)
    layers = getattr(config, "num_hidden_layers", None)
    if config is None or layers is None:
        return []
    notes = []
    for kind, names in _CONFIG_NAMES.items():
        mine = [cut for cut in cuts if cut.block.kind == kind]
        if not mine:
            continue
        kept = {len(cut.choice.kept) for cut in mine}
        is_told = len(kept) == 1 and len(mine) == layers and _write_(config, kind, mine[0], names)
        if not is_told:
            noun = "channels" if kind == "ffn" else "heads"
            notes.append(
                f"The config cannot tell the new number of {noun}:"
                " a Hugging Face folder would not load."
            )
    return notes


def _write_(config: Any, kind: str, cut: Cut, names: tuple[str, ...]) -> bool:
    block, kept = cut.block, len(cut.choice.kept)
    if kind == "ffn":
        for name in names:
            # GPT-2 leaves n_inner open where it is four times the width.
            held = getattr(config, name, 0)
            if held == block.units or (name == "n_inner" and held is None):
                setattr(config, name, kept)
                return True
        return False
    if getattr(config, "head_dim", None) is None:
        return False
    if block.is_by_position:
        heads = kept * block.columns.shape[1] // block.width
    else:
        heads = kept * block.shared
        if hasattr(config, "num_key_value_heads"):
            config.num_key_value_heads = kept
    for name in names:
        if hasattr(config, name):
            setattr(config, name, heads)
            return True
    return False


def _redundancy(
    program: Program, blocks: list[Block], inputs: Inputs
) -> tuple[dict[str, float], int]:
    if not blocks:
        return {}, 0
    consumers = [each.consumer for each in blocks]
    try:
        moments = second_moments(program, consumers, [random_inputs(program.module, inputs)])
    except (RuntimeError, IndexError, ValueError):  # a model that takes other lengths or tokens
        moments = second_moments(program, consumers, [inputs])
    shares, fewest = {}, 0
    for block in blocks:
        total, rows = moments.get(block.consumer.name, (None, 0))
        # With fewer rows than features every layer looks redundant.
        if total is None or rows < 2 * len(total):
            continue
        fewest = min(fewest or rows, rows)
        for share in (0.5, 0.25, 0.1):
            keep = block.units - int(share * block.units)
            if choose(block, total, keep, refit=True).relative_error < _REDUNDANT_BELOW:
                shares[block.consumer.name] = share
                break
    return shares, fewest


def random_inputs(module: nn.Module, inputs: Inputs) -> Inputs:
    """More rows than the workload's own: random tokens, or images of the same kind."""
    values = list(inputs.values() if isinstance(inputs, dict) else inputs)
    ids = [each for each in values if isinstance(each, Tensor) and each.ndim == 2]
    tables = [each for each in module.modules() if isinstance(each, nn.Embedding)]
    if len(values) != 1 or len(ids) != 1 or not tables or ids[0].is_floating_point():
        return inputs
    generator = torch.Generator().manual_seed(0)
    count = getattr(getattr(module, "config", None), "vocab_size", tables[0].num_embeddings)
    length = min([128, *(each.num_embeddings for each in tables if each.num_embeddings >= 8)])
    made = torch.randint(count, (16, length), generator=generator).to(ids[0].device)
    return dict.fromkeys(inputs, made) if isinstance(inputs, dict) else (made,)
