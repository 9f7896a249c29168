"""Attention written by hand, replaced by one fused call."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import StepRefused
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.records import (
    BuildForecast,
    Evidence,
    Fingerprint,
    Realness,
    Step,
    Suggestion,
    Workload,
)

if TYPE_CHECKING:
    from engine.program import Inputs, Program

_FUSED = ("matmul", "bmm", "softmax", "masked_fill", "where", "scaled_dot_product")
_ATTENTION = ("scaled_dot_product", "flash_attention", "efficient_attention")


class FuseAttention(Technique):
    """Compute all heads of attention in one call.

    Finds attention that is written out (scores, mask, softmax, weighted sum), one module for each
    head or all heads in one, and replaces the module by one with a single Linear for queries,
    keys and values, one `scaled_dot_product_attention` over all heads and one output projection,
    with the same weights. Each replacement is compared with the module that it replaces; one that
    differs is left as it was.
    """

    name: ClassVar[str] = "fuse_attention"
    stage: ClassVar[Stage] = "rewrite"
    sources: ClassVar[tuple[str, ...]] = (
        "Dao et al. 2022, FlashAttention, section 3.1",
        "PyTorch documentation, torch.nn.functional.scaled_dot_product_attention",
    )
    theory: ClassVar[str] = (
        "Written by hand, attention stores the scores of every pair of tokens several times"
        " (product, scale, mask, softmax) and launches an operator for each, for each head."
        " Fused, scores stay in the cache of the processor and the weights of all heads are read"
        " by one product."
    )

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The modules whose attention is written by hand."""
        from engine.optimize.graph.fusing import survey

        return survey(program.module, inputs)

    def check(self, target: Target) -> tuple[str, ...]:
        """There must be attention written by hand that can be followed."""
        facts = target.facts
        if not facts or facts.get("handmade") or facts.get("switchable"):
            return ()
        refused = facts.get("refused") or {}
        if refused:
            place, reason = next(iter(refused.items()))
            return (f"No attention can be fused: in {place}, {reason}.",)
        return ("No attention is written by hand in this model.",)

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Scores, mask and softmax by about a half, overhead of all heads by that of one call."""
        modules = tuple(target.facts.get("handmade", ()))
        if not modules:
            return costs
        rows = tuple(_fused(row, modules, target.facts) for row in costs.operators)
        return dataclasses.replace(
            costs, operators=rows, basis=(*costs.basis, f"fuse_attention: {len(modules)} modules")
        )

    def forecast(self, target: Target) -> BuildForecast:
        """Modules are traced, written anew and compared, one at a time."""
        from engine.optimize.needs import needs

        # Measured on tiny_gpt: 25 MB beside 8 MB of weights, 27 s with 20 at work on two cores.
        return needs(
            target,
            copies=(0.0, 1.0),
            more_bytes=(0.0, 1e8),
            seconds=(0.5, 60.0),
            seconds_per_gb=(0.0, 20.0),
        )

    def suggest(self, target: Target) -> Suggestion | None:
        """Worth it where attention is written by hand."""
        modules = tuple(target.facts.get("handmade", ()))
        switchable = bool(target.facts.get("switchable"))
        if not (modules or switchable) or self.check(target):
            return None
        evidence = [
            Evidence(
                "modules with attention by hand", float(len(modules) or 1), "modules", modules
            ),
            Evidence(
                "operators for it", float(target.facts.get("operators", 0)), "operators", modules
            ),
        ]
        if target.profile is not None:
            times = [
                row.self_time_ms or 0.0
                for row in target.profile.operators
                if _belongs(row.module, modules) and row.self_time_ms is not None
            ]
            if times:
                evidence.append(Evidence("time in these modules", sum(times), "ms", modules))
        return Suggestion(
            rule="attention by hand",
            title="Compute all heads in one fused call",
            summary=(
                f"{len(modules) or 'All'} attention modules compute scores, mask and softmax as"
                f" separate operators."
            ),
            steps=(Step(self.name),),
            evidence=tuple(evidence),
            risk="none: the same sums in another order, compared when it is built",
            next_step="Add fuse_attention; it goes well before kv_cache and a compiler.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Replaces every attention module that can be proved equal."""
        from engine.optimize.graph.fusing import fuse

        context.progress(0.1, "reading the graph")
        module, fused, refused = fuse(program.module, context.inputs, seed=context.seed)
        if not fused:
            place, reason = next(iter(refused.items()), ("this model", "none is written by hand"))
            raise StepRefused(f"fuse_attention: no attention can be fused: in {place}, {reason}.")
        notes = [f"fuse_attention: {len(fused)} modules fused ({', '.join(fused[:3])}…)."]
        notes += [
            f"fuse_attention: {place} was left: {reason}." for place, reason in refused.items()
        ]
        return dataclasses.replace(program, module=module, notes=[*program.notes, *notes])

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Real where fused attention runs that did not before."""
        fused, known = _attention_calls(after), _attention_calls(before)
        if fused <= known:
            return Realness("NO-OP", "No fused attention runs.", 0.0)
        left = after.operators.get("aten::softmax", 0) + after.operators.get(
            "aten._softmax.default", 0
        )
        if left:
            return Realness(
                "PARTIAL", f"{fused} fused calls run, {left} softmax calls are left.", 0.5
            )
        fewer = sum(before.operators.values()) - sum(after.operators.values())
        return Realness("REAL", f"{fused} fused calls run, {max(fewer, 0)} operators are gone.")


def _attention_calls(fingerprint: Fingerprint) -> int:
    return sum(
        count
        for name, count in fingerprint.operators.items()
        if any(word in name for word in _ATTENTION)
    )


def _belongs(module: str, owners: tuple[str, ...]) -> bool:
    return any(not owner or module == owner or module.startswith(f"{owner}.") for owner in owners)


def _fused(row: OperatorCost, owners: tuple[str, ...], facts: Any) -> OperatorCost:
    if not _belongs(row.module, owners) or row.calls <= 0:
        return row
    before = max(1.0, float(facts.get("operators", 0)) / max(1, len(owners)))
    after = float(facts.get("operators_fused", 8))
    kept = min(1.0, after / before)
    work_low = max(0.0, row.time_low_ms - row.overhead_ms)
    work_high = max(0.0, row.time_high_ms - row.overhead_ms)
    pairs = row.weight_bytes == 0 and any(word in row.name for word in _FUSED)
    return dataclasses.replace(
        row,
        calls=row.calls * kept,
        overhead_ms=row.overhead_ms * kept,
        time_low_ms=row.overhead_ms * kept + work_low * (0.3 if pairs else 0.7),
        time_high_ms=row.overhead_ms * kept + work_high,
    )
