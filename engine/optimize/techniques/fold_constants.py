"""The model as a graph that computes constants, and what is equal, once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import StepRefused
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.params import param
from engine.records import Evidence, Fingerprint, Range, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

# Share of the Python outside of operators that is left when modules are one function.
_REST = Range(0.3, 1.0)
# Operators that are called directly cost less to reach than through modules and generic calls.
_DIRECT = 0.6
_WORTH = 0.1


class FoldConstants(Technique):
    """Compute constants once, and equal things once.

    Exports the model to a graph of operators for any batch and length. What depends on stored
    tensors alone is computed now; masks, position tables and rotary angles, which depend on the
    number of tokens alone, are stored for the longest sequence; of equal calls one is left; calls
    that give their argument back, or that nobody reads, are dropped. The graph then runs in the
    model's place, over its own layers, compared with it on several sizes. A decoder of kv_cache
    gets its graphs folded.
    """

    name: ClassVar[str] = "fold_constants"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("fuse_attention", "fuse_qkv", "kv_cache")
    conflicts: ClassVar[tuple[str, ...]] = ("last_logits_only",)
    sources: ClassVar[tuple[str, ...]] = (
        "Aho et al. 2006, Compilers, section 9.1",
        "PyTorch documentation, torch.export",
    )
    theory: ClassVar[str] = (
        "Code builds masks and position tables again at each call, in each layer, since it is"
        " easier to write than to hand them on. Each is an operator to launch, whatever its size."
        " In a graph it is plain what depends on what: the rest is done once."
    )
    sample: ClassVar[str] = "tiny_gpt"

    @dataclass(frozen=True)
    class Config:
        """How much may be stored."""

        max_result_mib: int = param(
            64, "The largest result that is stored instead of computed.",
            low=1, high=4096, step=16, unit="MiB",
        )  # fmt: skip

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """How many calls would be gone, or why the model cannot be a graph."""
        if workload.kind == "train_step":
            return {"kind": workload.kind}
        from engine.optimize.graph.folded import survey_fold

        return {"kind": workload.kind, **survey_fold(program, inputs, workload)}

    def check(self, target: Target) -> tuple[str, ...]:
        """No for training, where no graph can be made, and where nothing would be gone."""
        if target.facts.get("kind") == "train_step":
            return ("a folded graph is the model in evaluation mode: it cannot be trained.",)
        return (str(target.facts["refusal"]),) if target.facts.get("refusal") else ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Fewer launches, and less Python between them."""
        before, after = target.facts.get("before", 0), target.facts.get("after", 0)
        if not before or "kv_cache" in [step.technique for step in target.steps]:
            return costs
        kept = after / before
        return dataclasses.replace(
            costs,
            operators=tuple(_fewer(row, kept) for row in costs.operators),
            rest_low_ms=costs.rest_low_ms * _REST.low,
            rest_high_ms=costs.rest_high_ms * _REST.high,
            basis=(*costs.basis, f"fold_constants: {before - after} of {before} calls are gone"),
        )

    def suggest(self, target: Target) -> Suggestion | None:
        """Where a good part of the calls would be gone."""
        facts, profile = target.facts, target.profile
        before, after = facts.get("before", 0), facts.get("after", 0)
        if profile is None or not before or 1 - after / before < _WORTH or self.check(target):
            return None
        if profile.facts.get("kv_cache", {}).get("cache_tensors"):
            return None  # a cache's graphs read their tables already
        evidence = [
            Evidence(words, float(facts.get(name, 0)), "calls")
            for name, words in (
                ("tables", "that depend on positions alone"),
                ("constants", "that depend on stored tensors alone"),
                ("merged", "with the result of another call"),
                ("idle", "that change nothing"),
            )
            if facts.get(name)
        ]
        return Suggestion(
            rule="computed again at each call",
            title="Compute constants and equal things once",
            summary=f"{before - after} of {before} calls of a forward need not be made.",
            steps=(Step(self.name),),
            evidence=tuple(evidence),
            risk="none: the same operators, compared on several sizes",
            next_step="Add fold_constants as the last of the steps that rewrite the model.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Puts the folded graph in the module's place, or folds a decoder's graphs."""
        from engine.optimize.graph.decoding import DecoderGraphs
        from engine.optimize.graph.folded import fold_decoder, fold_module, foldable_inputs

        context.progress(0.1, "reading the graph")
        try:
            if isinstance(program.module, DecoderGraphs):
                module, counts = fold_decoder(program.module)
                error = module.proved_error
            else:
                made, counts, error = fold_module(
                    program.module,
                    foldable_inputs(program, context.inputs, context.workload),
                    max_length=context.max_length,
                    max_bytes=context.config.max_result_mib << 20,
                )
                program = dataclasses.replace(program, module=made)
        except StepRefused as refusal:
            raise StepRefused(
                f"fold_constants: {refusal.message}", detail=refusal.detail
            ) from refusal
        program.notes.append(
            f"fold_constants: of {counts.before} calls {counts.after} are left;"
            f" {counts.tables} were tables of positions, {counts.constants} constants,"
            f" {counts.merged} equal to others, {counts.idle} idle; relative error {error:.1e}."
        )
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Fewer operators run."""
        ran, left = sum(before.operators.values()), sum(after.operators.values())
        if left >= ran:
            return Realness("NO-OP", "as many operators run as before", 0.0)
        return Realness("REAL", f"{left} operators run instead of {ran}", 1 - left / ran)


def _fewer(row: OperatorCost, kept: float) -> OperatorCost:
    fastest = row.overhead_ms * kept * _DIRECT
    return dataclasses.replace(
        row,
        time_low_ms=fastest + max(0.0, row.time_low_ms - row.overhead_ms),
        overhead_ms=row.overhead_ms * kept,
    )
