"""Batch norms folded into the layers before them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import StepRefused
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.records import Evidence, Fingerprint, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

_NORM = "batch_norm"


class FuseConvBn(Technique):
    """Fold batch norms into the convolutions and Linear layers before them.

    In evaluation a batch norm multiplies each channel by a fixed number and adds another, which
    the weight and bias of the layer before can do as well. Who feeds whom is seen in a run, not
    guessed from names: a norm is folded where one layer alone feeds it, and nobody else reads what
    that layer makes. Convolutions of one, two and three dimensions, transposed ones and Linear
    layers take part; the outputs are compared before and after.
    """

    name: ClassVar[str] = "fuse_conv_bn"
    stage: ClassVar[Stage] = "rewrite"
    sources: ClassVar[tuple[str, ...]] = (
        "Ioffe and Szegedy 2015, Batch Normalization, section 3.1",
        "Jacob et al. 2018, Quantization and Training of Neural Networks, section 3.2",
    )
    theory: ClassVar[str] = (
        "A batch norm does four operations for each number and moves all of them through memory"
        " twice, for no more than a scale and a shift of each channel. A product already multiplies"
        " and adds for each output channel: scaled weights and a shifted bias give the same result"
        " in no additional time."
    )
    sample: ClassVar[str] = "digits_vision"

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The norms that can be folded, and the reasons for the others."""
        from engine.optimize.graph.batch_norms import described, find_pairs

        return {"kind": workload.kind, **described(*find_pairs(program, inputs))}

    def check(self, target: Target) -> tuple[str, ...]:
        """No for training, and where no batch norm follows a layer that can take it in."""
        facts = target.facts
        if facts.get("kind") == "train_step":
            return ("training needs the batch norms: they use the batch's own statistics.",)
        if "pairs" not in facts or facts["pairs"]:
            return ()
        if facts.get("refused"):
            name, reason = next(iter(facts["refused"].items()))
            return (f"no batch norm can be folded: {name}, {reason}.",)
        return ("the model runs no batch norm.",)

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """The folded norms' rows are gone; products take what they took."""
        pairs = target.facts.get("pairs", ())
        norms = {norm for _, norm in pairs}
        if not norms:
            return costs
        rows, gone = [], 0.0
        for row in costs.operators:
            if row.module in norms and _NORM in row.name:
                gone += row.weight_bytes
                rows.append(_without(row))
            else:
                rows.append(row)
        return dataclasses.replace(
            costs,
            operators=tuple(rows),
            weight_bytes=costs.weight_bytes - gone,
            peak_low_bytes=costs.peak_low_bytes - gone,
            basis=(*costs.basis, f"fuse_conv_bn: the time of {len(norms)} batch norms left out"),
        )

    def suggest(self, target: Target) -> Suggestion | None:
        """Where batch norms can be folded."""
        pairs = target.facts.get("pairs", ())
        if not pairs or self.check(target):
            return None
        norms = tuple(norm for _, norm in pairs)
        evidence = [Evidence("batch norms behind a layer", float(len(pairs)), "norms", norms[:50])]
        rows = target.profile.operators if target.profile is not None else ()
        total = sum(row.self_time_ms or 0.0 for row in rows)
        if total:
            spent = sum(
                row.self_time_ms or 0.0 for row in rows if row.module in norms and _NORM in row.name
            )
            evidence.append(Evidence("time in them", 100 * spent / total, "%", norms[:50]))
        return Suggestion(
            rule="batch norm at inference",
            title="Fold batch norms into the layers before them",
            summary=(
                f"{len(pairs)} batch norms scale and shift what the layer before could scale and"
                " shift itself."
            ),
            steps=(Step(self.name),),
            evidence=tuple(evidence),
            risk="none: the same function, rounded once less; outputs are compared",
            next_step="Add fuse_conv_bn; it goes well before quantization.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Folds every pair that was seen, and compares the outputs."""
        from engine.optimize.graph.batch_norms import find_pairs, fold_

        pairs, refused = find_pairs(program, context.inputs)
        if not pairs:
            name, reason = next(iter(refused.items()), ("the model", "it runs no batch norm"))
            raise StepRefused(f"fuse_conv_bn: no batch norm can be folded: {name}, {reason}.")
        error = fold_(program, context.inputs, pairs)
        program.notes.append(
            f"fuse_conv_bn: {len(pairs)} batch norms folded; the outputs move by {error:.1e}."
        )
        program.notes += [
            f"fuse_conv_bn: {name} was left: {reason}." for name, reason in refused.items()
        ]
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Fewer batch norms run, and fewer parameters are held."""
        ran, left = _norms(before), _norms(after)
        if left >= ran:
            return Realness("NO-OP", "as many batch norms run as before", 0.0)
        share = 1 - left / ran
        if left:
            return Realness("PARTIAL", f"{ran - left} of {ran} batch norms are gone", share)
        return Realness("REAL", f"all {ran} batch norms are gone")


def _norms(fingerprint: Fingerprint) -> int:
    return fingerprint.operators.get("aten::batch_norm", 0)


def _without(row: OperatorCost) -> OperatorCost:
    """The row at no cost; an empty module is still called, at most an operator's launch."""
    return dataclasses.replace(
        row, calls=0.0, flops=0.0, moved_bytes=0.0, weight_bytes=0.0, weights={},
        time_low_ms=0.0, time_high_ms=min(row.time_high_ms, 0.5 * row.overhead_ms),
        overhead_ms=0.0,
    )  # fmt: skip
