"""Feed-forward channels and attention heads removed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import StepRefused
from engine.optimize.technique import BuildContext, CostTable, Stage, Target, Technique
from engine.params import param
from engine.records import BuildForecast, Evidence, Fingerprint, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload


class StructuredPrune(Technique):
    """Remove feed-forward channels and attention heads.

    Layers really get smaller: a channel goes from the layers that produce it and from the one that
    consumes it, in gated feed-forwards and through batch norm and pooling too. Heads go with their
    queries, keys and values; where several query heads share a key head, the whole group goes, or
    one query head of every group. What goes is chosen on calibration data, never on evaluation
    data, and the layer behind is fitted again to what stays (`refit`). Every cut is proved against
    the old shape with the same units set to zero; what cannot be cut so stays whole, and is named.
    """

    name: ClassVar[str] = "structured_prune"
    stage: ClassVar[Stage] = "reduce"
    repeats: ClassVar[bool] = True
    sources: ClassVar[tuple[str, ...]] = (
        "Hassibi and Stork 1993, Second order derivatives for network pruning",
        "Frantar and Alistarh 2022, Optimal Brain Compression, section 3",
        "Michel et al. 2019, Are Sixteen Heads Really Better than One?",
    )
    theory: ClassVar[str] = (
        "A product costs in proportion to its channels, so removed channels save time, FLOPs and"
        " memory on every hardware, without special kernels. What a removed channel contributed is"
        " partly a mixture of the others: least squares on calibration activations puts that part"
        " on their weights. The rest is lost, and shows as quality; training recovers more."
    )
    max_relative_error: ClassVar[float] = 0.6

    @dataclass(frozen=True)
    class Config:
        """How much of what."""

        ratio: float = param(
            0.25, "Share of the channels or heads to remove.", low=0.01, high=0.9, step=0.05
        )
        target: str = param(
            "ffn", "What to remove: feed-forward channels, attention heads, or both.",
            choices=("ffn", "heads", "both"),
        )  # fmt: skip
        refit: bool = param(
            True, "Fit the layer behind to what stays, by least squares on calibration data."
        )
        round_to: int = param(
            8, "Channels that stay are a multiple of this, which kernels like.",
            low=1, high=256, step=8, unit="channels",
        )  # fmt: skip
        exclude: str = param("", "Layers to leave whole: parts of their names, parted by |.")

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """What could be removed, and how much of it the rest can make up for."""
        from engine.optimize.prune.pruning import describe

        return {"kind": workload.kind, **describe(program, inputs)}

    def check(self, target: Target) -> tuple[str, ...]:
        """No without channels or heads that can go, or where rounding leaves them all."""
        facts, config = target.facts, target.config
        if facts.get("refusal"):
            return (str(facts["refusal"]),)
        if "blocks" not in facts:
            return ()
        wanted = [each for each in facts["blocks"] if config.target in (each["kind"], "both")]
        noun = {"ffn": "feed-forward channels", "heads": "attention heads", "both": "channels"}
        if not wanted:
            return (
                f"no {noun[config.target]} can be removed: what lies between the layers mixes them,"
                " or a residual connection carries them.",
            )
        if not any(_removed(each, config) for each in wanted):
            return (
                f"a ratio of {config.ratio} removes nothing from {wanted[0]['units']} units"
                f" (round_to={config.round_to}): raise the ratio.",
            )
        return ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Fewer FLOPs and bytes in the layers that are cut; overheads as they were."""
        config = target.config
        shares: dict[str, float] = {}
        for each in target.facts.get("blocks", []):
            if config.target not in (each["kind"], "both") or not each["units"]:
                continue
            stays = 1 - _removed(each, config) / each["units"]
            for name in each["modules"]:
                shares[name] = shares.get(name, 1.0) * stays
        rows = []
        gone: dict[str, float] = {}  # bytes of each weight, which prefill and decode both read
        for row in costs.operators:
            stays = shares.get(row.module, 1.0)
            for name, size in row.held.items():
                gone[name] = min(gone.get(name, size), size * (1 - stays))
            if stays == 1.0:
                rows.append(row)
                continue
            rows.append(
                dataclasses.replace(
                    row.scaled_weights(stays),
                    flops=row.flops * stays,
                    moved_bytes=row.moved_bytes * stays,
                    time_low_ms=row.overhead_ms + (row.time_low_ms - row.overhead_ms) * stays,
                    # Small products do not get faster in proportion.
                    time_high_ms=row.overhead_ms
                    + (row.time_high_ms - row.overhead_ms) * (stays + 1) / 2,
                )
            )
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
                f"structured_prune: {len(shares)} layers smaller, time by their FLOPs",
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


def _removed(block: dict[str, Any], config: Any) -> float:
    """Units that go from one block: rounding leaves more, never fewer, than asked."""
    units = int(block["units"])
    if block["kind"] == "ffn":
        stays: int = -(-round((1 - config.ratio) * units) // config.round_to) * config.round_to
        return max(0, units - max(stays, 1))
    whole: int = min(units - 1, int(config.ratio * units + 1e-9))
    if whole > 0 or block.get("shared", 1) < 2 or not block.get("by_query_heads"):
        return max(0, whole)
    shared = int(block["shared"])
    # One query head of every group, counted in groups as the units are.
    gone: int = min(shared - 1, int(config.ratio * shared + 1e-9))
    return gone * units / shared
