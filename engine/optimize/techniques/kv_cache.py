"""A key-value cache for a model that has none."""

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
    Range,
    Realness,
    Step,
    Suggestion,
    Workload,
)

if TYPE_CHECKING:
    from engine.program import Inputs, Program

# One concatenation for each cached tensor and token, dispatch included.
_APPEND_LOW_MS, _APPEND_HIGH_MS = 0.002, 0.006
# Share of a call that is left where a step calls operators directly instead of through modules.
_DIRECT = 0.6
# Share of the Python between operators that is left at best.
_PYTHON_LEFT = 0.3
# A product of many rows is bound by arithmetic, one of a single row by reading its weights: a row
# alone takes this many times its share. Measured: 128 x 512 weights, 8 µs alone, 70 µs for 64.
_ONE_ROW = Range(3.0, 10.0)
_PAIRWISE = ("matmul", "bmm", "baddbmm", "softmax", "masked_fill", "scaled_dot_product", "where")


class KvCache(Technique):
    """Keep the keys and values of earlier tokens.

    Generating a token asks only what the newest token changes. A model that is called on the
    whole prefix again computes every earlier token once more. This step reads the model's graph,
    finds the tensors that later tokens look back at (keys and values), and derives a prefill and
    a step that hands them on. The derived decoder is proved against the whole forward before it
    is used.
    """

    name: ClassVar[str] = "kv_cache"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("fuse_attention", "fuse_qkv")
    sources: ClassVar[tuple[str, ...]] = (
        "Pope et al. 2022, Efficiently Scaling Transformer Inference, section 2",
        "Shazeer 2019, Fast Transformer Decoding, section 2.3",
    )
    theory: ClassVar[str] = (
        "With causal attention the keys and values of a token do not change when tokens are"
        " added. Without a cache n new tokens after a prompt of p cost the forward of p + (p+1)"
        " + ... tokens, which grows with the square; with one they cost p + n tokens and"
        " attention to what is cached. What is paid is memory: two vectors for each layer and"
        " token."
    )

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """Whether the model generates, keeps a cache, and can be given one."""
        from engine.program import token_ids

        decoder = program.decoder
        facts: dict[str, Any] = {
            "generates": decoder is not None,
            "keeps_cache": decoder is not None and decoder.keeps_cache,
        }
        if decoder is None or decoder.keeps_cache or workload.kind != "generate":
            return facts
        from engine.optimize.graph.decoding import cache_plan

        try:
            plan = cache_plan(program.module, token_ids(inputs))
        except StepRefused as refusal:
            return {**facts, "refusal": refusal.message}
        return {**facts, **plan}

    def check(self, target: Target) -> tuple[str, ...]:
        """A cache needs a model that generates and keeps none."""
        reasons = []
        if target.study is not None and target.study.workload.kind != "generate":
            reasons.append(
                f"A cache serves the workload generate; this one is {target.study.workload.kind}."
            )
        if target.facts.get("generates") is False:
            reasons.append("This model does not generate.")
        elif target.facts.get("keeps_cache"):
            reasons.append("This model already keeps a cache.")
        if target.facts.get("refusal"):
            reasons.append(str(target.facts["refusal"]))
        return tuple(reasons)

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Decode rows at one token a step instead of the whole prefix; dispatch stays."""
        if target.study is None:
            return costs
        lengths = _lengths(target.study.workload)
        if not lengths:
            return costs
        once = len(lengths) / sum(lengths)
        squared = sum(lengths) / sum(length * length for length in lengths)
        facts = target.facts
        calls = min(1.0, facts.get("operators_step", 1) / max(1, facts.get("operators", 1)))
        rows = tuple(
            _cached(row, once, squared, calls) if row.phase == "decode" else row
            for row in costs.operators
        )
        tensors = _cached_tensors(target)
        appends = tensors * len(lengths)
        kept = int(target.facts.get("cache_bytes_per_token", 0)) * (lengths[-1] + 1)
        workload = target.study.workload
        # Activations of one token instead of the whole prefix, then the cache and its copy.
        share = max(workload.prompt_tokens or 1, 1) / (lengths[-1] + 1)
        above_low = max(0.0, costs.peak_low_bytes - costs.weight_bytes)
        above_high = max(0.0, costs.peak_high_bytes - costs.weight_bytes)
        return dataclasses.replace(
            costs,
            operators=rows,
            rest_low_ms=costs.rest_low_ms * _PYTHON_LEFT + appends * _APPEND_LOW_MS,
            rest_high_ms=costs.rest_high_ms + appends * _APPEND_HIGH_MS,
            peak_low_bytes=costs.weight_bytes + above_low * share * share + kept,
            peak_high_bytes=costs.weight_bytes + above_high + kept,
            basis=(
                *costs.basis,
                "kv_cache: FLOPs of one token a step, overhead of every call left",
            ),
        )

    def forecast(self, target: Target) -> BuildForecast:
        """The graph is exported twice and proved; the weights stay where they are."""
        from engine.optimize.needs import needs

        # Measured on tiny_gpt: 29 MB beside 8 MB of weights, 62 s with 20 at work on two cores.
        return needs(
            target,
            copies=(0.0, 1.0),
            more_bytes=(0.0, 1e8),
            seconds=(2.0, 90.0),
            seconds_per_gb=(0.0, 20.0),
        )

    def suggest(self, target: Target) -> Suggestion | None:
        """Worth it whenever prefixes are recomputed."""
        if target.study is None or self.check(target):
            return None
        workload = target.study.workload
        lengths = _lengths(workload)
        if not lengths:
            return None
        prompt, new = lengths[0] - 1, len(lengths) + 1
        recomputed = sum(lengths) - len(lengths)
        evidence = [
            Evidence("tokens computed again", float(recomputed), "tokens"),
            Evidence("tokens that are new", float(new), "tokens"),
        ]
        if target.profile is not None:
            decode = [row for row in target.profile.operators if row.phase == "decode"]
            flops = sum(row.flops for row in decode)
            evidence.append(Evidence("FLOPs of decoding", float(flops), "FLOP"))
        return Suggestion(
            rule="prefixes recomputed",
            title="Keep keys and values instead of running the prefix again",
            summary=(
                f"For {new} new tokens after a prompt of {prompt}, the model computes"
                f" {recomputed} tokens that it has computed before."
            ),
            steps=(Step(self.name),),
            evidence=tuple(evidence),
            risk="none: the same operators on the same numbers; proved when it is built",
            next_step="Add kv_cache, then compare: tokens must be identical.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Derives and proves the decoder, and lets the program run it."""
        from engine.optimize.graph.decoding import FlatCacheDecoder, derive_decoder_graphs
        from engine.program import token_ids

        if program.decoder is None:
            raise StepRefused("kv_cache: this model does not generate.")
        if program.decoder.keeps_cache:
            raise StepRefused("kv_cache: this model already keeps a cache.")
        context.progress(0.1, "reading the graph")
        graphs = derive_decoder_graphs(
            program.module,
            token_ids(context.inputs),
            max_length=context.max_length,
            seed=context.seed,
        )
        program.notes.append(
            f"kv_cache: {len(graphs.cache_dims)} tensors cached, proved with relative error"
            f" {graphs.proved_error:.1e} on random prompts."
        )
        return dataclasses.replace(program, module=graphs, decoder=FlatCacheDecoder())

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Real where a cache is kept and the FLOPs fell."""
        if not after.keeps_cache:
            return Realness("NO-OP", "The program keeps no cache.", 0.0)
        if before.flops and after.flops >= before.flops:
            return Realness("PARTIAL", "A cache is kept, but the FLOPs did not fall.", 0.0)
        share = 1 - after.flops / before.flops if before.flops else 1.0
        return Realness("REAL", f"A cache is kept; {share:.0%} of the FLOPs are gone.", share)


def _lengths(workload: Workload) -> list[int]:
    """Tokens of the whole prefix at each step of decoding, the prefill left out."""
    if workload.kind != "generate" or not workload.prompt_tokens or not workload.new_tokens:
        return []
    return [workload.prompt_tokens + step for step in range(1, workload.new_tokens)]


def _cached_tensors(target: Target) -> int:
    """Tensors that are cached: two for each attention once its heads are one product."""
    tensors = int(target.facts.get("cache_tensors", 0))
    if target.profile is None or "fuse_attention" not in [s.technique for s in target.steps]:
        return tensors
    fused = target.profile.facts.get("fuse_attention", {}).get("handmade", ())
    return min(tensors, 2 * len(fused)) or tensors


def _cached(row: OperatorCost, once: float, squared: float, calls: float) -> OperatorCost:
    pairs = row.weight_bytes == 0 and any(word in row.name for word in _PAIRWISE)
    ratio = squared if pairs else once
    read = min(row.moved_bytes, row.weight_bytes * row.calls)
    fastest, slowest = (_ONE_ROW.low, _ONE_ROW.high) if row.weight_bytes else (1.0, 2.0)
    work_low = max(0.0, row.time_low_ms - row.overhead_ms)
    work_high = max(0.0, row.time_high_ms - row.overhead_ms)
    overhead = row.overhead_ms * calls
    return dataclasses.replace(
        row,
        calls=row.calls * calls,
        flops=row.flops * ratio,
        moved_bytes=read + (row.moved_bytes - read) * ratio,
        overhead_ms=overhead * _DIRECT,
        time_low_ms=overhead * _DIRECT + work_low * min(1.0, ratio * fastest),
        time_high_ms=overhead + work_high * min(1.0, ratio * slowest),
    )
