"""The head computed for the last position alone while generating."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import StepRefused
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.records import Evidence, Fingerprint, Realness, Step, Suggestion, Workload

if TYPE_CHECKING:
    from engine.program import Inputs, Program

_WORTH = 0.03
# What is left of the head's time may be more than its share of rows: a row alone is memory-bound.
_ONE_ROW = 4.0


class LastLogitsOnly(Technique):
    """Compute the logits of the last position alone while generating.

    The next token comes from the logits of the last position, yet a plain forward computes those of
    the whole prompt, [batch, tokens, vocabulary]. Models of transformers are told so by
    `logits_to_keep`; in others the layer that computes the logits gets the last position alone
    while a decoder asks. A plain forward, as quality is measured by, still gives every position.
    """

    name: ClassVar[str] = "last_logits_only"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("fuse_attention", "fuse_qkv")
    conflicts: ClassVar[tuple[str, ...]] = ("kv_cache", "aot_inductor")
    sources: ClassVar[tuple[str, ...]] = (
        "transformers documentation, logits_to_keep",
        "Brown et al. 2020, Language Models are Few-Shot Learners, section 2.1",
    )
    theory: ClassVar[str] = (
        "The head is a product of width times vocabulary for each position, and in small models"
        " with large vocabularies most of the FLOPs. Its results for the prompt's other positions"
        " are thrown away. A cache does not help the prompt: its logits are computed all the same."
    )
    sample: ClassVar[str] = "random_llama"
    example_workload: ClassVar[Mapping[str, Any]] = {"prompt_tokens": 128, "new_tokens": 2}

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The layer that computes the logits, or why nothing can be left out."""
        from engine.optimize.graph.last_position import find_head

        facts: dict[str, Any] = {
            "kind": workload.kind,
            "keeps_cache": bool(program.decoder and program.decoder.keeps_cache),
        }
        if workload.kind != "generate":
            return facts
        try:
            head = find_head(program, inputs)
        except StepRefused as refusal:
            return {**facts, "refusal": refusal.message}
        return {**facts, "head": head.name, "has_argument": head.has_argument}

    def check(self, target: Target) -> tuple[str, ...]:
        """No where all logits are asked for, or the others are left out already."""
        facts = target.facts
        if facts.get("kind", "generate") != "generate":
            return (f"a {facts['kind']} workload asks for the logits of every position.",)
        return (str(facts["refusal"]),) if facts.get("refusal") else ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """The head's rows by their share of positions."""
        head = target.facts.get("head")
        workload = target.study.workload if target.study else None
        if not head or workload is None:
            return costs
        shares = _shares(workload, keeps_cache=bool(target.facts.get("keeps_cache")))
        rows = tuple(
            _shorter(row, shares[row.phase]) if row.module == head and row.phase in shares else row
            for row in costs.operators
        )
        return dataclasses.replace(
            costs,
            operators=rows,
            basis=(*costs.basis, f"last_logits_only: {head} for one position of each run"),
        )

    def suggest(self, target: Target) -> Suggestion | None:
        """Where logits that nobody reads take a good part of the time."""
        head, profile = target.facts.get("head"), target.profile
        if not head or profile is None or self.check(target):
            return None
        if profile.facts.get("kv_cache", {}).get("cache_tensors"):
            return None  # kv_cache brings it along
        shares = _shares(profile.study.workload, keeps_cache=bool(target.facts.get("keeps_cache")))
        rows = [row for row in profile.operators if row.self_time_ms]
        total = sum(row.self_time_ms or 0.0 for row in rows)
        saved = sum(
            (row.self_time_ms or 0.0) * (1 - shares[row.phase])
            for row in rows
            if row.module == head and row.phase in shares
        )
        if not total or saved / total < _WORTH:
            return None
        return Suggestion(
            rule="logits that nobody reads",
            title="Compute the logits of the last position alone",
            summary=f"{saved / total:.0%} of the time goes into logits that no token comes from.",
            steps=(Step(self.name),),
            evidence=(
                Evidence("time in logits that are thrown away", 100 * saved / total, "%", (head,)),
            ),
            risk="none: a plain forward still gives every position",
            next_step="Add last_logits_only; kv_cache brings the same for models without a cache.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Lets the decoder ask for the last position, and compares the logits."""
        from engine.optimize.graph.last_position import ask_for_last_

        head, error = ask_for_last_(program, context.inputs)
        how = "by logits_to_keep" if head.has_argument else f"in {head.name}"
        program.notes.append(
            f"last_logits_only: other positions are left out {how}; the logits move by {error:.1e}."
        )
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Fewer FLOPs are run."""
        if not before.flops or after.flops >= before.flops:
            return Realness("NO-OP", "as many FLOPs are run as before", 0.0)
        share = 1 - after.flops / before.flops
        return Realness("REAL", f"{share:.1%} of a short run's FLOPs are gone", share)


def _shares(workload: Workload, *, keeps_cache: bool) -> dict[str, float]:
    """The share of positions whose logits are read, for each phase that computes others too."""
    prompt, new = workload.prompt_tokens or 1, workload.new_tokens or 1
    shares = {"prefill": 1 / prompt}
    if not keeps_cache and new > 1:
        shares["decode"] = (new - 1) / sum(prompt + step for step in range(1, new))
    return shares


def _shorter(row: OperatorCost, share: float) -> OperatorCost:
    work_low = max(0.0, row.time_low_ms - row.overhead_ms)
    work_high = max(0.0, row.time_high_ms - row.overhead_ms)
    read = min(row.moved_bytes, row.weight_bytes * row.calls)
    return dataclasses.replace(
        row,
        flops=row.flops * share,
        moved_bytes=read + (row.moved_bytes - read) * share,
        time_low_ms=row.overhead_ms + work_low * share,
        time_high_ms=row.overhead_ms + work_high * min(1.0, _ONE_ROW * share),
    )
