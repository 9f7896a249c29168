"""Padded batches run in parts of similar length."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import StepRefused
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.params import param
from engine.records import Evidence, Fingerprint, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

_WORTH = 0.1


class Batching(Technique):
    """Run a padded batch in parts of similar length.

    Rows of a batch are padded to the longest of them, and a model computes padding like text. Rows
    are sorted by length at each call and cut into parts at the places that cost least, each part to
    its own longest row; outputs come back in their order and shape, zero where a row is padding.
    Masks stay as they are. It takes masks that leave out the ends of rows; other batches run whole.
    """

    name: ClassVar[str] = "batching"
    stage: ClassVar[Stage] = "context"
    sources: ClassVar[tuple[str, ...]] = (
        "Khomenko et al. 2016, Accelerating recurrent neural network training using sequence"
        " bucketing",
        "Krell et al. 2021, Efficient Sequence Packing without Cross-contamination",
    )
    theory: ClassVar[str] = (
        "The time of a forward goes with rows times longest row, its use with the tokens that are"
        " there. Texts differ in length, so half of a batch is easily padding. Parts of similar"
        " length leave most of it out, for the price of a few more calls."
    )
    sample: ClassVar[str] = "random_llama"
    example: ClassVar[str] = "inference_mode,batching"
    example_workload: ClassVar[Mapping[str, Any]] = {
        "kind": "forward", "batch": 16, "sequence_length": 128, "padding_percent": 50,
    }  # fmt: skip

    @dataclass(frozen=True)
    class Config:
        """When one more part pays."""

        call_tokens: int = param(
            64, "What one more call costs, as the number of tokens that take as long.",
            low=0, high=65536, step=16, unit="tokens",
        )  # fmt: skip

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The rows' lengths in the workload's inputs."""
        from torch import Tensor

        facts: dict[str, Any] = {"kind": workload.kind}
        mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
        if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.is_meta:
            return {**facts, "lengths": [], "tokens": 0}
        seen = mask != 0
        lengths = [int(each) for each in seen.sum(1).tolist()]
        ends = all(bool(row[:length].all()) for row, length in zip(seen, lengths, strict=True))
        return {**facts, "lengths": lengths, "tokens": int(mask.shape[1]), "at_ends": ends}

    def check(self, target: Target) -> tuple[str, ...]:
        """No without padding at the ends of rows, and for anything but a forward."""
        facts = target.facts
        if facts.get("kind", "forward") != "forward":
            return (f"it regroups the rows of a forward, and the workload is {facts['kind']}.",)
        if "lengths" not in facts:
            return ()
        if not facts["lengths"]:
            return ("the inputs have no attention_mask: there is no padding.",)
        if not facts["at_ends"]:
            return ("the mask leaves out other tokens than the ends of rows.",)
        if min(facts["lengths"]) == facts["tokens"]:
            return ("no row of the workload is padded: ask for it with padding_percent.",)
        if _kept(target) >= 1:
            return ("no cut saves more than one more call costs: lower call_tokens.",)
        return ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Work by the tokens that are left, overhead once for each part."""
        kept = _kept(target)
        if not target.facts.get("lengths") or kept >= 1:
            return costs
        parts = len(_parts(target))
        return dataclasses.replace(
            costs,
            operators=tuple(_fewer_tokens(row, kept, parts) for row in costs.operators),
            rest_low_ms=costs.rest_low_ms,
            rest_high_ms=costs.rest_high_ms * parts,
            basis=(*costs.basis, f"batching: {kept:.0%} of the tokens in {parts} parts"),
        )

    def suggest(self, target: Target) -> Suggestion | None:
        """Where a good part of the batch is padding."""
        if not target.facts.get("lengths") or self.check(target):
            return None
        kept = _kept(target)
        if 1 - kept < _WORTH:
            return None
        lengths, tokens = target.facts["lengths"], target.facts["tokens"]
        padding = 1 - sum(lengths) / (len(lengths) * tokens)
        return Suggestion(
            rule="padding computed like text",
            title="Run rows of similar length together",
            summary=f"{padding:.0%} of the batch is padding; {1 - kept:.0%} need not be computed.",
            steps=(Step(self.name),),
            evidence=(
                Evidence("padding in a batch", 100 * padding, "%"),
                Evidence("parts that are cheapest", float(len(_parts(target))), "parts"),
            ),
            risk="none: text stays; outputs at padding are zero",
            next_step="Add batching as the last step; no runtime can follow it.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Puts the regrouping around the module, and compares what is no padding."""
        from engine.optimize.regrouping import plan_parts, regrouped

        made = regrouped(program.module, context.inputs, context.config.call_tokens)
        parts = plan_parts(made.lengths, context.config.call_tokens)
        error = _compared(program, made, context)
        left = sum(len(each.rows) * each.tokens for each in parts)
        mask = context.inputs["attention_mask"]  # type: ignore[call-overload]
        program = dataclasses.replace(program, module=made)
        program.notes.append(
            f"batching: {left} of {mask.numel()} tokens are computed, in {len(parts)} parts; what"
            f" is no padding moves by {error:.1e}, padding is zero."
        )
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Fewer FLOPs are run."""
        if not before.flops or after.flops >= before.flops:
            return Realness("NO-OP", "as many FLOPs are run as before", 0.0)
        share = 1 - after.flops / before.flops
        return Realness("REAL", f"{share:.1%} of the FLOPs are gone", share)


def _parts(target: Target) -> list[Any]:
    from engine.optimize.regrouping import plan_parts

    lengths = [max(1, each) for each in target.facts["lengths"]]
    return plan_parts(lengths, target.config.call_tokens)


def _kept(target: Target) -> float:
    """The share of a batch's tokens that is left."""
    if not target.facts.get("lengths"):
        return 1.0
    whole: int = len(target.facts["lengths"]) * target.facts["tokens"]
    left: int = sum(len(each.rows) * each.tokens for each in _parts(target))
    return left / whole


def _fewer_tokens(row: OperatorCost, kept: float, parts: int) -> OperatorCost:
    work_low = max(0.0, row.time_low_ms - row.overhead_ms)
    work_high = max(0.0, row.time_high_ms - row.overhead_ms)
    overhead = row.overhead_ms * parts
    return dataclasses.replace(
        row,
        calls=row.calls * parts,
        flops=row.flops * kept,
        overhead_ms=overhead,
        time_low_ms=overhead + work_low * kept * kept,
        # Small parts read the weights as often as the whole batch did.
        time_high_ms=overhead + work_high * (kept + 1) / 2,
    )


def _compared(program: Program, made: Any, context: BuildContext) -> float:
    """The relative error of what is no padding, against the whole batch.

    Raises:
        StepRefused: it is more than rounding.
    """
    import torch

    from engine.optimize.graph.rounding import relative_error, rounding_limit
    from engine.program import call, logits_of, to_device

    inputs: Any = to_device(context.inputs, program.context.device)
    with torch.no_grad():
        wanted = logits_of(call(program.module, inputs))
        found = logits_of(call(made, inputs))
    mask = inputs["attention_mask"] != 0
    if wanted.shape[:2] == mask.shape:
        wanted, found = wanted[mask], found[mask]
    error = relative_error([found], [wanted])
    if not error <= rounding_limit(wanted.dtype):
        raise StepRefused(f"batching: the outputs would move by {error:.1e}.")
    return error
