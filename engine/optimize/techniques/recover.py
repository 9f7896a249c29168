"""Quality that other steps cost, won back by a short training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.optimize.train.config import TrainingConfig
from engine.records import Evidence, Fingerprint, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

_MILDER = {"high": "medium", "medium": "low"}
_MOSTLY = 0.5
_FEWEST_SAMPLES, _WORTH_SHARE = 16, 0.25


class Recover(Technique):
    """Train shortly towards the original model's answers.

    Follows what was pruned, factorized or quantized, as often as such steps stand in the recipe.
    The loss mixes the teacher's answers (KL divergence of the classes, else the squared error of
    the outputs), the task's own loss where the calibration data has labels, and on request the
    hidden states after each block. Evaluation data is never trained on. Integer weights stay as
    they are: what is left in floating point learns around them. A comparison puts the whole model
    beside it, trained as long, so that what training alone brings is not credited to a smaller
    model. A killed job goes on from its last checkpoint.
    """

    name: ClassVar[str] = "recover"
    stage: ClassVar[Stage] = "reduce"
    repeats: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    follows: ClassVar[bool] = True
    sources: ClassVar[tuple[str, ...]] = (
        "Hinton et al. 2015, Distilling the Knowledge in a Neural Network",
        "Muralidharan et al. 2024, Compact Language Models via Pruning and Knowledge Distillation",
        "Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization (AdamW)",
    )
    theory: ClassVar[str] = (
        "A smaller model starts close to the original and can come closer: training moves all"
        " weights at once, where a least-squares fit moved one layer at a time. The teacher's whole"
        " distribution tells more of each token than the one right answer, and holds the student"
        " near what the teacher learned from far more data than there is here. A decoder writes"
        " further text itself, so that few rows of calibration data are not learned by heart."
    )
    example: ClassVar[str] = "structured_prune,recover:steps=100"
    max_relative_error: ClassVar[float] = 0.6

    @dataclass(frozen=True)
    class Config(TrainingConfig):
        """How it is trained."""

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """How many weights can be trained, and the blocks whose hidden states can be compared."""
        from engine.optimize.train.stack import found_blocks
        from engine.optimize.train.weights import trainable

        return {
            "trainable": sum(each.numel() for each in trainable(program.module).values()),
            "blocks": len(found_blocks(program, inputs)),
        }

    def check(self, target: Target) -> tuple[str, ...]:
        """No where nothing can be trained, or hidden states are asked for and there are none."""
        facts = target.facts
        if facts.get("trainable") == 0:
            return ("no weight of this model can be trained: all are frozen or in integers.",)
        if target.config.hidden and facts.get("blocks") == 0:
            return (
                "the model has no stack of equal blocks to compare hidden states: set hidden=0.",
            )
        return ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """The same operators on other numbers; the risk for the quality is less."""
        return dataclasses.replace(
            costs,
            quality_risk=_MILDER.get(costs.quality_risk, costs.quality_risk),
            basis=(*costs.basis, "recover: the same operators, trained weights"),
        )

    def suggest(self, target: Target) -> Suggestion | None:
        """Where feed-forwards hold much of the time and there is data to train on."""
        profile, study = target.profile, target.study
        if profile is None or study is None or study.model.quality_samples < _FEWEST_SAMPLES:
            return None
        pruning = profile.facts.get("structured_prune", {})
        blocks = [each for each in pruning.get("blocks", []) if each["kind"] == "ffn"]
        names = {name for each in blocks for name in each["modules"]}
        total = sum(each.self_time_ms or 0.0 for each in profile.operators)
        inside = sum(each.self_time_ms or 0.0 for each in profile.operators if each.module in names)
        share = inside / total if total else 0.0
        if share < _WORTH_SHARE or study.workload.kind == "train_step" or self.check(target):
            return None
        return Suggestion(
            rule="feed-forwards that training can make smaller",
            title="Remove feed-forward channels and win the quality back by training",
            summary=(
                f"{share:.0%} of the operators' time is in feed-forwards. A quarter of their"
                " channels goes, then the model is trained shortly towards its own answers."
            ),
            steps=(Step("structured_prune"), Step(self.name)),
            evidence=(
                Evidence(
                    "share of the operators' time in feed-forwards", 100 * share, "%",
                    tuple(sorted(names))[:50],
                ),
                Evidence("examples to train and measure on", study.model.quality_samples,
                         "examples"),
            ),
            risk="medium: what training wins back is measured, beside the whole model trained as"
            " long",
            next_step="Add both steps and compare; the training takes minutes and can be resumed.",
            theory=self.theory,
        )  # fmt: skip

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Trains in place, or takes over what the same training came to."""
        from engine.optimize.train.stack import found_blocks
        from engine.optimize.train.training import train_

        pairs: dict[str, str] = {}
        if context.config.hidden and context.teacher is not None:
            theirs = found_blocks(context.teacher, context.inputs)
            pairs = {each: each for each in found_blocks(program, context.inputs) if each in theirs}
        train_(self.name, program, context, pairs=pairs)
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Which weights have other values than before, of all that are held."""
        return trained_realness(before, after)


def trained_realness(before: Fingerprint, after: Fingerprint) -> Realness:
    """REAL where most of the numbers held have changed, PARTIAL where fewer, NO-OP where none."""
    changed = sum(
        count for name, (count, norm) in after.weights.items()
        if before.weights.get(name) != (count, norm)
    )  # fmt: skip
    if not changed:
        return Realness("NO-OP", "no weight has changed", 0.0)
    integers = sum(after.dtype_bytes.get(name, 0) for name in ("int8", "uint8", "qint8"))
    share = changed / max(1, after.parameters + integers)
    return Realness(
        "REAL" if share >= _MOSTLY else "PARTIAL",
        f"{changed:,} of {after.parameters + integers:,} weights were trained", share,
    )  # fmt: skip
