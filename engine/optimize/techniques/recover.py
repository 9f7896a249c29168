"""Quality that other steps cost, won back by a short training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.optimize.train.config import TrainingConfig
from engine.records import Fingerprint, Realness

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

_MILDER = {"high": "medium", "medium": "low"}
_MOSTLY = 0.5


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
