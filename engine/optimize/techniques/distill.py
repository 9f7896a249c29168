"""A smaller student that learns from the whole model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import StepRefused
from engine.optimize.costs import CostTable
from engine.optimize.technique import BuildContext, Stage, Target, Technique, technique
from engine.optimize.train.config import TrainingConfig
from engine.params import param
from engine.records import Evidence, Fingerprint, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

_PROPOSED_DEPTH = 0.75
_FEWEST_SAMPLES, _WORTH_SHARE = 16, 0.5


class Distill(Technique):
    """Train a student with fewer layers, and narrower ones.

    The student begins as the model itself without some of its blocks: those that stay are evenly
    spaced, and each learns the hidden states that the blocks left out behind it gave. With `width`
    below 1 its feed-forwards lose channels as well, chosen on calibration data. Then it is trained
    towards the teacher's answers. Leaving blocks out is proved against the whole model with the
    same blocks passed by. Beside it, a comparison puts the whole model, trained as long; a killed
    job goes on from its last checkpoint.
    """

    name: ClassVar[str] = "distill"
    stage: ClassVar[Stage] = "reduce"
    trains: ClassVar[bool] = True
    sources: ClassVar[tuple[str, ...]] = (
        "Sanh et al. 2019, DistilBERT, section 3 (layers copied from the teacher)",
        "Jiao et al. 2020, TinyBERT: Distilling BERT for Natural Language Understanding",
        "Hinton et al. 2015, Distilling the Knowledge in a Neural Network",
    )
    theory: ClassVar[str] = (
        "Blocks with residual connections refine one state little by little, so a model without"
        " some of them still speaks the same language and learns fast to do without. Time, FLOPs"
        " and memory fall in proportion to the blocks, dispatch overhead included, which narrower"
        " layers leave as it is. How much a training wins back depends on its length and data, and"
        " is read beside the whole model trained as long."
    )
    example: ClassVar[str] = "distill:depth=0.75:steps=100"
    max_relative_error: ClassVar[float] = 1.0

    @dataclass(frozen=True)
    class Config(TrainingConfig):
        """How large the student is and how it is trained."""

        hidden: float = param(
            1.0, "Weight of the hidden states' error after each block, beside the answers'.",
            low=0.0, high=100.0, step=0.1,
        )  # fmt: skip
        depth: float = param(0.5, "Share of the blocks that stay.", low=0.05, high=1.0, step=0.05)
        width: float = param(
            1.0, "Share of the feed-forward channels that stay.", low=0.1, high=1.0, step=0.05
        )

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The stacks of equal blocks."""
        from engine.optimize.train.stack import find_stacks

        return {
            "kind": workload.kind,
            "stacks": [
                {"name": each.name, "blocks": list(each.blocks), "parameters": each.parameters}
                for each in find_stacks(program, inputs)
            ],
        }

    def check(self, target: Target) -> tuple[str, ...]:
        """No without blocks that can be left out, or where the student would be the teacher."""
        stacks, config = target.facts.get("stacks"), target.config
        if config.depth == 1 and config.width == 1:
            return ("a student of full depth and width is the model itself: lower depth or width.",)
        if stacks is None or config.depth == 1:
            return ()
        if not stacks:
            return ("the model has no stack of equal blocks, one called after the other: take"
                    " structured_prune and recover.",)  # fmt: skip
        if not any(kept_count(len(each["blocks"]), config.depth) < len(each["blocks"])
                   for each in stacks):  # fmt: skip
            most = max(len(each["blocks"]) for each in stacks)
            return (f"a depth of {config.depth} leaves all {most} blocks: lower it.",)
        return ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """No rows of the blocks that are left out; smaller products where channels go."""
        costs = _narrowed(costs, target)
        gone = _gone(target.facts.get("stacks", []), target.config.depth)
        rows = [row for row in costs.operators if not _is_inside(row.module, gone)]
        lost: dict[str, float] = {}
        stays = {name for row in rows for name in row.held}
        for row in costs.operators:
            if _is_inside(row.module, gone):
                lost |= {name: size for name, size in row.held.items() if name not in stays}
        saved = sum(lost.values())
        held = costs.weight_bytes - saved
        return dataclasses.replace(
            costs,
            operators=tuple(rows),
            weight_bytes=held,
            peak_low_bytes=max(held, costs.peak_low_bytes - 2 * saved),
            peak_high_bytes=max(held, costs.peak_high_bytes - saved),
            quality_risk="high",
            basis=(*costs.basis, f"distill: without {len(gone)} blocks"),
        )

    def suggest(self, target: Target) -> Suggestion | None:
        """Where a stack of equal blocks holds most of the time and there is data to train on."""
        profile, study = target.profile, target.study
        stacks = [each for each in target.facts.get("stacks", []) if len(each["blocks"]) >= 4]
        if not stacks or profile is None or study is None:
            return None
        names = {name for each in stacks for name in each["blocks"]}
        total = sum(each.self_time_ms or 0.0 for each in profile.operators)
        inside = sum(
            each.self_time_ms or 0.0 for each in profile.operators if _is_inside(each.module, names)
        )
        share = inside / total if total else 0.0
        step = Step(self.name, {"depth": _PROPOSED_DEPTH})
        few = study.model.quality_samples < _FEWEST_SAMPLES
        if share < _WORTH_SHARE or few or study.workload.kind == "train_step":
            return None
        return Suggestion(
            rule="a stack of equal blocks",
            title="Train a student with three quarters of the blocks",
            summary=(
                f"{share:.0%} of the operators' time is in {len(names)} equal blocks; a student"
                " without a quarter of them runs as much less of everything."
            ),
            steps=(step,),
            evidence=(
                Evidence(
                    "share of the operators' time in the blocks", 100 * share, "%",
                    tuple(sorted(names))[:50],
                ),
                Evidence("examples to train and measure on", study.model.quality_samples,
                         "examples"),
            ),
            risk="high: a smaller model that has to learn; its quality is measured beside the"
            " whole model trained as long",
            next_step="Try the milder steps first; then add distill with as many steps as you can"
            " wait for.",
            theory=self.theory,
        )  # fmt: skip

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Leaves blocks and channels out, then trains."""
        from engine.optimize.train.student import shrink_
        from engine.optimize.train.training import train_

        pairs = shrink_(program, context)
        if not pairs and context.config.depth < 1:
            raise StepRefused("distill: no block could be left out.")
        train_(self.name, program, context, pairs=pairs if context.config.hidden else {})
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Fewer parameters are held and fewer FLOPs are run, and what stays has learned."""
        if after.parameters >= before.parameters:
            return Realness("NO-OP", "no parameters are gone", 0.0)
        share = 1 - after.parameters / before.parameters
        detail = f"{before.parameters - after.parameters:,} parameters are gone ({share:.1%})"
        if before.flops:
            detail += f", {1 - after.flops / before.flops:.1%} of the FLOPs"
        return Realness("REAL" if after.flops < before.flops else "PARTIAL", detail, share)


def kept_count(blocks: int, depth: float) -> int:
    """How many of so many blocks stay."""
    return max(1, round(depth * blocks))


def _narrowed(costs: CostTable, target: Target) -> CostTable:
    """As structured_prune estimates the same channels, from what it has found in the profile."""
    if target.config.width == 1 or target.profile is None:
        return costs
    pruning = technique("structured_prune")
    facts = target.profile.facts.get(pruning.name, {})
    config = pruning.configure({"ratio": round(1 - target.config.width, 6)})
    return pruning.estimate(costs, dataclasses.replace(target, config=config, facts=facts))


def _gone(stacks: list[dict[str, Any]], depth: float) -> set[str]:
    gone: set[str] = set()
    for each in stacks:
        names = each["blocks"]
        keep = kept_count(len(names), depth)
        gone |= {name for index, name in enumerate(names) if index not in _kept(len(names), keep)}
    return gone


def _kept(count: int, keep: int) -> list[int]:
    return [0] if keep == 1 else [round(i * (count - 1) / (keep - 1)) for i in range(keep)]


def _is_inside(module: str, names: set[str]) -> bool:
    return module in names or any(module.startswith(f"{each}.") for each in names)
