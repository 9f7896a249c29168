"""Gradients off."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.records import (
    BuildForecast,
    Evidence,
    Fingerprint,
    Product,
    Range,
    Realness,
    Step,
    Suggestion,
)

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload


class InferenceMode(Technique):
    """Run without recording gradients.

    A plain call of a module records each operator for a backward pass that never comes, and keeps
    what that pass would need. Switched off, activations are freed as soon as they were used;
    outputs are the same to the last bit.
    """

    name: ClassVar[str] = "inference_mode"
    stage: ClassVar[Stage] = "context"
    sources: ClassVar[tuple[str, ...]] = (
        "https://pytorch.org/docs/stable/notes/autograd.html#inference-mode",
    )
    theory: ClassVar[str] = (
        "Autograd keeps the inputs of each operator alive until backward, so memory grows with"
        " depth and,"
        " in a loop that keeps its outputs, with every turn of it. Recording also costs a few"
        " microseconds"
        " an operator. Inference mode skips both, and version counting with it."
    )
    max_relative_error: ClassVar[float] = 0.0
    probed_kinds: ClassVar[tuple[str, ...]] = ("linear", "elementwise", "norm", "call")

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """Whether gradients are on, and what they would be recorded for."""
        trainable = sum(each.numel() for each in program.module.parameters() if each.requires_grad)
        return {
            "gradients": program.context.gradients,
            "trainable_parameters": trainable,
            "kind": workload.kind,
        }

    def check(self, target: Target) -> tuple[str, ...]:
        """No for training, and where gradients are off already."""
        if target.facts.get("kind") == "train_step":
            return ("a training step needs its gradients.",)
        if target.facts.get("gradients") is False:
            return ("gradients are off already: it would change nothing.",)
        return ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """A little less time in each operator's overhead; activations that are freed at once."""
        rows = tuple(
            _unrecorded(each, target.measured_ratio(self, each)) for each in costs.operators
        )
        kept = max(0.0, costs.peak_high_bytes - costs.weight_bytes)
        return dataclasses.replace(
            costs,
            operators=rows,
            rest_low_ms=0.75 * costs.rest_low_ms,
            # What stays is the widest pair of activations instead of all of them.
            peak_low_bytes=min(costs.peak_low_bytes, costs.weight_bytes + 0.02 * kept),
            peak_high_bytes=costs.weight_bytes + 0.6 * kept,
            basis=(*costs.basis, "inference_mode: recording of gradients left out"),
        )

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """The same operator with gradients off."""
        import torch

        from engine.profile.product_probes import eager

        run = eager(product)
        return torch.inference_mode()(run) if run else None

    def forecast(self, target: Target) -> BuildForecast:
        """Nothing: a switch."""
        from engine.optimize.needs import needs

        return needs(target)

    def suggest(self, target: Target) -> Suggestion | None:
        """Where gradients are on and no training is asked for."""
        if target.facts.get("gradients") is not True or target.facts.get("kind") == "train_step":
            return None
        evidence = [
            Evidence(
                "parameters that gradients are recorded for",
                float(target.facts.get("trainable_parameters", 0)),
                "parameters",
            )
        ]
        memory = target.profile.memory if target.profile else None
        if memory is not None:
            held = memory.activations_bytes + memory.rest_bytes
            evidence.append(Evidence("memory beyond weights and cache at the peak", held, "bytes"))
        return Suggestion(
            rule="gradients left on",
            title="Switch gradients off",
            summary="The model records every operator for a backward pass that never comes.",
            steps=(Step(self.name),),
            evidence=tuple(evidence),
            risk="none",
            next_step="Add inference_mode: answers stay the same to the last bit.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """The same program with gradients off."""
        program.context.gradients = False
        program.module.eval()
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Gradients were on and are off."""
        if before.gradients and not after.gradients:
            return Realness("REAL", "gradients were recorded before and are not now")
        if not before.gradients and not after.gradients:
            return Realness("NO-OP", "outputs carried no gradients before this step either", 0.0)
        return Realness("NO-OP", "gradients are as they were", 0.0)


def _unrecorded(row: OperatorCost, ratio: Range | None) -> OperatorCost:
    if ratio is None:
        return dataclasses.replace(
            row,
            time_low_ms=row.time_low_ms - 0.35 * row.overhead_ms,
            overhead_ms=0.8 * row.overhead_ms,
        )
    return dataclasses.replace(
        row,
        time_low_ms=row.time_low_ms * min(1.0, ratio.low),
        time_high_ms=row.time_high_ms * min(1.0, ratio.high),
        overhead_ms=row.overhead_ms * min(1.0, ratio.low),
    )
