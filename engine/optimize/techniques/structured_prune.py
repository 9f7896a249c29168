"""Channels, attention heads and whole blocks removed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import StepRefused
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.layers import NAMES
from engine.optimize.prune.forecast import (
    remaining_shares,
    removed_blocks,
    removed_units,
    wanted_blocks,
)
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.params import param
from engine.records import BuildForecast, Evidence, Fingerprint, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload


class StructuredPrune(Technique):
    """Remove channels, attention heads or whole blocks.

    Layers really get smaller: a feed-forward channel goes from the layers that produce it and from
    the one that consumes it (`ffn`). Heads go with their queries, keys and values; where several
    query heads share a key head, the whole group goes, or one query head of every group.
    `channels` are those of convolutional networks: what a residual sum, a product or a depthwise
    convolution ties together goes together. `layers` are whole blocks of a stack, those that turn
    least what passes through them. What goes is chosen on calibration data, never on evaluation
    data, and the layer behind is fitted again to what stays (`refit`; not for whole blocks). Every
    cut is proved against the old shape with the same units set to zero, or with the same blocks
    handing on what they get; what cannot be cut so stays whole, and is named.
    """

    name: ClassVar[str] = "structured_prune"
    stage: ClassVar[Stage] = "reduce"
    repeats: ClassVar[bool] = True
    sources: ClassVar[tuple[str, ...]] = (
        "Hassibi and Stork 1993, Second order derivatives for network pruning",
        "Frantar and Alistarh 2022, Optimal Brain Compression, section 3",
        "Michel et al. 2019, Are Sixteen Heads Really Better than One?",
        "Fang et al. 2023, DepGraph: Towards Any Structural Pruning (channels tied together)",
        "Men et al. 2024, ShortGPT: Layers in Large Language Models are More Redundant Than You"
        " Expect, section 3.1",
    )
    theory: ClassVar[str] = (
        "A product costs in proportion to its channels, so removed channels save time, FLOPs and"
        " memory on every hardware, without special kernels. What a removed channel contributed is"
        " partly a mixture of the others: least squares on calibration activations puts that part"
        " on their weights. The rest is lost, and shows as quality; training recovers more."
    )
    sample: ClassVar[str] = "digits_vision"
    example: ClassVar[str] = "structured_prune:target=channels:ratio=0.5"
    max_relative_error: ClassVar[float] = 0.6

    @dataclass(frozen=True)
    class Config:
        """How much of what."""

        ratio: float = param(
            0.25, "Share of the channels, heads or blocks to remove.", low=0.01, high=0.9, step=0.05
        )
        target: str = param(
            "ffn", "What to remove: feed-forward channels, attention heads, both, channels of"
            " convolutions, or whole blocks.",
            choices=("ffn", "heads", "both", "channels", "layers"),
        )  # fmt: skip
        refit: bool = param(
            True, "Fit the layer behind to what stays, by least squares on calibration data."
        )
        round_to: int = param(
            8, "Channels that stay are a multiple of this, which kernels like.",
            low=1, high=256, step=8, unit="channels",
        )  # fmt: skip
        exclude: str = param("", f"Layers to leave whole: {NAMES}")

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """What could be removed, and how much of it the rest can make up for."""
        from engine.optimize.prune.pruning import describe

        return {"kind": workload.kind, **describe(program, inputs)}

    def check(self, target: Target) -> tuple[str, ...]:
        """No without channels or heads that can go, or where rounding leaves them all."""
        facts, config = target.facts, target.config
        if config.target == "layers" and "stacks" in facts:
            return _stack_reasons(facts["stacks"], config)
        if facts.get("refusal"):
            return (str(facts["refusal"]),)
        if "blocks" not in facts:
            return ()
        wanted = wanted_blocks(facts, config)
        if not wanted:
            return (
                f"no {_NOUNS[config.target]} can be removed: what lies between the layers mixes"
                " them, or a residual connection carries them to where they must stay.",
            )
        if not any(removed_units(each, config) for each in wanted):
            return (
                f"a ratio of {config.ratio} removes nothing from {wanted[0]['units']} units"
                f" (round_to={config.round_to}): raise the ratio.",
            )
        return ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Fewer FLOPs and bytes in the layers that are cut; overheads as they were."""
        config = target.config
        shares = remaining_shares(target.facts, config)
        blocks = tuple(removed_blocks(target.facts, config))
        rows = []
        gone: dict[str, float] = {}  # bytes of each weight, which prefill and decode both read
        for row in costs.operators:
            is_gone = any(
                row.module == name or row.module.startswith(f"{name}.") for name in blocks
            )
            stays = 0.0 if is_gone else shares.get(row.module, 1.0)
            for name, size in row.held.items():
                gone[name] = min(gone.get(name, size), size * (1 - stays))
            if not is_gone:
                rows.append(row if stays == 1.0 else _smaller(row, stays))
        saved = sum(gone.values())
        held = costs.weight_bytes - saved
        is_mild = config.refit and config.ratio <= 0.25 and config.target == "ffn"
        risk = "medium" if is_mild else "high"
        return dataclasses.replace(
            costs,
            operators=tuple(rows),
            weight_bytes=held,
            peak_low_bytes=max(held, costs.peak_low_bytes - 1.5 * saved),
            peak_high_bytes=max(held, costs.peak_high_bytes - saved),
            quality_risk="high" if costs.quality_risk == "high" else risk,
            basis=(
                *costs.basis,
                f"structured_prune: {len(shares)} layers smaller, time by their FLOPs;"
                f" {len(blocks)} blocks gone",
            ),
        )

    def forecast(self, target: Target) -> BuildForecast:
        """Activations of calibration inputs, and a least-squares fit a layer."""
        from engine.optimize.needs import needs

        # Measured on a 60 M decoder: 2.15 copies, 235 s on a machine with 12 at work on two cores.
        return needs(target, copies=(0.3, 3.0), seconds=(0.1, 10.0), seconds_per_gb=(50.0, 1500.0))

    def suggest(self, target: Target) -> Suggestion | None:
        """Where many channels can go at little error after the fit."""
        blocks = [each for each in target.facts.get("blocks", []) if each["kind"] == "ffn"]
        redundant = [each for each in blocks if each.get("redundant", 0.0) >= 0.1]
        if not redundant or target.facts.get("kind") == "train_step":
            return None
        channels = sum(each["units"] for each in blocks)
        share = sum(each["units"] * each.get("redundant", 0.0) for each in redundant) / channels
        if share < 0.1:
            return None
        ratio = 0.25 if share >= 0.25 else 0.1
        limit = target.facts.get("redundant_below", 0.1)
        step = Step(self.name, {"ratio": ratio} if ratio != self.Config.ratio else {})
        return Suggestion(
            rule="redundant feed-forward channels",
            title="Remove feed-forward channels that the others can make up for",
            summary=(
                f"About {share:.0%} of the feed-forward channels can go at less than {limit:.0%}"
                " error of their layer's outputs after a least-squares fit."
            ),
            steps=(step,),
            evidence=(
                Evidence(
                    "channels that the others make up for", 100 * share, "%",
                    tuple(each["modules"][-1] for each in redundant),
                ),
                Evidence("rows of activations looked at", target.facts.get("rows", 0), "rows"),
            ),
            risk="medium",
            next_step="Add structured_prune and watch the quality; train afterwards to recover.",
            theory=self.theory,
        )  # fmt: skip

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Chooses, cuts, proves and fits, block after block."""
        from engine.optimize.prune.pruning import prune_

        notes = prune_(program, context)
        if not notes:
            raise StepRefused("structured_prune: nothing could be removed.")
        program.notes += notes
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Fewer parameters are held, and fewer FLOPs are run."""
        if after.parameters >= before.parameters:
            return Realness("NO-OP", "no parameters are gone", 0.0)
        share = 1 - after.parameters / before.parameters
        detail = f"{before.parameters - after.parameters:,} parameters are gone ({share:.1%})"
        if before.flops and after.flops >= before.flops:
            return Realness("PARTIAL", f"{detail}, but as many FLOPs are run", share)
        if before.flops:
            detail += f", {1 - after.flops / before.flops:.1%} of the FLOPs"
        return Realness("REAL", detail, share)


_NOUNS = {
    "ffn": "feed-forward channels",
    "heads": "attention heads",
    "both": "channels",
    "channels": "channels of convolutions",
}


def _smaller(row: OperatorCost, stays: float) -> OperatorCost:
    return dataclasses.replace(
        row.scaled_weights(stays),
        flops=row.flops * stays,
        moved_bytes=row.moved_bytes * stays,
        time_low_ms=row.overhead_ms + (row.time_low_ms - row.overhead_ms) * stays,
        # Small products do not get faster in proportion.
        time_high_ms=row.overhead_ms + (row.time_high_ms - row.overhead_ms) * (stays + 1) / 2,
    )


def _stack_reasons(stacks: list[dict[str, Any]], config: Any) -> tuple[str, ...]:
    if not stacks:
        return (
            "no stack of blocks was found whose entries hand one tensor on past a residual"
            " connection, so none can go.",
        )
    if not removed_blocks({"stacks": stacks}, config):
        longest = max(stack["blocks"] for stack in stacks)
        return (
            f"a ratio of {config.ratio} removes nothing from {longest} blocks: raise the ratio.",
        )
    return ()
