"""Records as a real run leaves them, for pages that are shown without running anything."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path

from engine.profile.machine import this_machine
from engine.records import (
    Artifact,
    Certificate,
    CertificateCheck,
    Comparison,
    Damage,
    DivergenceAlong,
    Fidelity,
    FlippedAnswer,
    Interval,
    LatencySummary,
    MemoryLedger,
    ModelReference,
    ModelSummary,
    ModuleProfile,
    NotCounted,
    OperatorProfile,
    PartedPrompt,
    Prediction,
    Profile,
    Quality,
    QualitySpec,
    Range,
    Realness,
    Recipe,
    Step,
    StepOutcome,
    Study,
    TimeShare,
    Totals,
    UsageSample,
    VariantDamage,
    VariantResult,
    WaterfallStep,
    Workload,
)
from engine.store import Store
from tests.workbench import fixture_traces

WIDTH, LAYERS, HEADS, TOKENS, VOCABULARY = 128, 4, 4, 108, 1024
_RECIPES = ("inference_mode", "kv_cache,inference_mode", "kv_cache,dynamic_int8,inference_mode")


def study() -> Study:
    """A small language model that generates."""
    return Study(
        id="f1e2d3c4b5a69788",
        reference=ModelReference("tiny_gpt"),
        model=ModelSummary(
            name="tiny_gpt", source="sample", architecture="TinyGPT", task="language modelling",
            parameters=1_054_208, parameter_bytes=4_216_832, dtype="float32",
            content_hash="ab" * 32, workloads=("generate", "forward"), vocabulary=VOCABULARY,
            max_length=256, quality_metric="perplexity", quality_samples=412,
        ),
        workload=Workload("generate", prompt_tokens=8, new_tokens=100, threads=1),
        quality=QualitySpec(),
        machine=this_machine(),
        created=time.time() - 600,
    )  # fmt: skip


def profile(*, runtime: bool = True, trace: Path | None = None) -> Profile:
    """The profile of that study; operators' self times add up to the traced time."""
    operators = _operators() if runtime else ()
    modules = _modules(runtime)
    traced = sum(each.self_time_ms or 0.0 for each in operators)
    noise = random.Random(3)
    samples = tuple(612.0 * math.exp(noise.gauss(0, 0.02)) for _ in range(30))
    return Profile(
        study=study(),
        modules=modules,
        operators=operators,
        totals=Totals(1_054_208, 4_216_832, 11_372_000_000, 3_811_000_000,
                      traced if runtime else None),
        not_counted=(NotCounted("aten::multinomial", 100, ("",)),
                     NotCounted("aten::cumsum", 4, ("blocks.0.attention",))),
        facts={},
        latency_ms=LatencySummary(612.0, 655.0, samples) if runtime else None,
        phases_ms={"prefill": 2.9, "decode": 609.1} if runtime else {},
        traced_time_ms=traced if runtime else None,
        outside_modules_ms=sum(e.self_time_ms or 0 for e in operators if not e.module),
        step_breakdown=(TimeShare("Matrix products", 0.46 * traced),
                        TimeShare("Elementwise", 0.21 * traced),
                        TimeShare("Softmax and norms", 0.12 * traced),
                        TimeShare("Copies", 0.08 * traced),
                        TimeShare("Python and dispatch", 0.13 * traced)) if runtime else (),
        memory=MemoryLedger(4_216_832, 246_000_000, 0, 3_100_000, 253_316_832, 712_000_000)
        if runtime else None,
        predicted_memory=MemoryLedger(4_216_832, 239_500_000, 0, 0, 243_716_832),
        usage=tuple(
            UsageSample(0.1 * i, 96 + 6 * math.sin(i / 3) + noise.gauss(0, 2),
                        420_000_000 + 8_000_000 * min(30, i))
            for i in range(60)
        ) if runtime else (),
        trace_folder=str(trace.parent) if trace else ("/tmp/traces/f1e2" if runtime else None),
        trace_file=str(trace) if trace else None,
    )  # fmt: skip


def comparison() -> Comparison:
    """Three recipes against the baseline."""
    noise = random.Random(7)
    figures = [
        ("baseline", "baseline", 612.0, 1.0, 253_316_832, 4_216_832, 17.42, "BASELINE"),
        ("inference_mode", _RECIPES[0], 598.0, 1.023, 7_900_000, 4_216_832, 17.42, "INCONCLUSIVE"),
        ("kv_cache", _RECIPES[1], 96.4, 6.35, 5_600_000, 4_216_832, 17.42, "FASTER"),
        ("kv_cache + int8", _RECIPES[2], 121.0, 5.06, 2_900_000, 1_420_000, 17.49, "FASTER"),
    ]
    rows = []
    for name, recipe, median, ratio, peak, size, value, verdict in figures:
        samples = tuple(median * math.exp(noise.gauss(0, 0.018)) for _ in range(30))
        is_base = verdict == "BASELINE"
        rows.append(
            VariantResult(
                name=name, recipe=recipe,
                latency_ms=LatencySummary(median, 1.07 * median, samples),
                speedup=None if is_base else Interval(ratio, 0.972 * ratio, 1.031 * ratio),
                verdict=verdict, flops=11_372_000_000 if ratio < 2 else 195_000_000,
                peak_tensor_bytes=peak, peak_process_bytes=peak + 420_000_000, size_bytes=size,
                quality=Quality("perplexity", value, 412, higher_is_better=False, low=value - 0.6,
                                high=value + 0.6, difference=value - 17.42,
                                difference_low=value - 17.42 - 0.01,
                                difference_high=value - 17.42 + 0.01,
                                verdict=None if is_base else "EQUIVALENT", margin=0.1742),
                fidelity=None if is_base else Fidelity(
                    0.0 if ratio < 2 else 2e-6 if size > 2e6 else 0.011, 1.0 if size > 2e6 else
                    0.991, 1e-9 if size > 2e6 else 4e-4, 0 if size > 2e6 else 71, 0 if size > 2e6
                    else 44, 0 if size > 2e6 else 27, None if size > 2e6 else 37.5, 8110, 64,
                    64 if size > 2e6 else 51, 3e-6, mcnemar_p=1.0 if size > 2e6 else 0.057),
                throughput_per_s=1e5 / median, throughput_unit="tokens/s",
                ttft_ms=2.9, time_per_token_ms=median / 100, build_seconds=0.4, load_seconds=0.02,
                prediction=None if is_base else Prediction(Range(0.85 * ratio, 1.2 * ratio)),
                steps=() if is_base else tuple(
                    StepOutcome(Step(step), Realness("PARTIAL" if "int8" in step else "REAL",
                                                     _DETAILS[step], 0.84 if "int8" in step else 1),
                                0.1) for step in recipe.split(",")),
                texts=("def read(self, size=-1):\n    Return up to size bytes from"
                       f"{' from' * (size < 2e6)}"
                       " the stream. If size is negative, read until EOF.",
                       "class Thread:\n    A class that represents a thread of control."),
            )
        )  # fmt: skip
    return Comparison(
        id="c0ffee0123456789", study=study(), variants=tuple(rows),
        noise_floor=Interval(1.002, 0.988, 1.015), rounds=30,
        method="interleaved processes, random order", created=time.time() - 120, seconds=94.0,
        waterfall=(WaterfallStep("baseline", 612.0, None, "BASELINE"),
                   WaterfallStep("kv_cache", 101.0, Interval(6.06, 5.9, 6.2), "FASTER"),
                   WaterfallStep("inference_mode", 96.4, Interval(1.048, 1.03, 1.07), "FASTER")),
    )  # fmt: skip


def damage() -> Damage:
    """The worst examples of the int8 variant."""
    text = "Return up to size bytes from the stream. If size is negative, read until"
    words = [each + " " for each in text.split()]
    flips = [
        FlippedAnswer("to wrong", 3, " size", " n", 0.91, 0.48, " size",
                      "def read(self, size=-1):\n    Return up to"),
        FlippedAnswer("to wrong", 8, "\n", " <b>", 0.66, 0.41, "\n", "raise ValueError"),
        FlippedAnswer("to right", 5, " a", " the", 0.35, 0.37, " the", "the name of"),
    ]  # fmt: skip
    return Damage(
        comparison().id,
        (VariantDamage("kv_cache"),
         VariantDamage(
             "kv_cache + int8", tuple(flips), 68,
             (PartedPrompt(4, "def read(self, size=-1):", f"\n    {text} EOF.",
                           f"\n    {text} the end.", 17, 100),
              PartedPrompt(9, "class Thread:", "\n    A class that <runs>.",
                           "\n    A class of threads.", 5, 100)),
             5,
             tuple(DivergenceAlong(example, tuple(words),
                                   tuple(0.01 * (1 + (example * 7 + i) % 5) for i in
                                         range(len(words))), 40) for example in (2, 6)),
         )),
    )  # fmt: skip


def artifact(folder: Path, *, verdict: str = "PASSED") -> Artifact:
    """An export with its certificate."""
    passed = verdict == "PASSED"
    certificate = Certificate(
        format="safetensors", verdict=verdict, max_relative_error=2.1e-6 if passed else 0.4,
        checks=(CertificateCheck("loads in a clean process", True, "engine is not importable"),
                CertificateCheck("outputs agree", passed, "largest relative error 2.1e-06"
                                 if passed else "largest relative error 0.4, at most 1e-4"),
                CertificateCheck("50 whole generations agree", passed, "50 of 50 prompts"
                                 if passed else "3 of 50 prompts")),
        recipe=_RECIPES[1], model="tiny_gpt", workload=study().workload,
        versions={"torch": "2.13.0", "safetensors": "0.6.2", "python": "3.11.7"},
        hashes={"model.safetensors": "9f" * 32, "load.py": "3c" * 32},
        latency_ms={"variant": 96.4, "artifact": 97.2}, notes=(), machine=this_machine().name,
        created=time.time() - 60,
    )  # fmt: skip
    return Artifact(str(folder / "tiny_gpt"), "safetensors", verdict,
                    certificate.max_relative_error, 4_260_112, certificate, study().id)  # fmt: skip


def fill(store: Store, *, artifacts: bool = True) -> Study:
    """Puts all of it into a store."""
    kept = study()
    store.put("study", kept.id, kept, study=kept.id)
    store.put("profile", kept.id, profile(), study=kept.id)
    store.put("trace", kept.id, fixture_traces.own_run(profile()), study=kept.id)
    store.put("comparison", comparison().id, comparison(), study=kept.id)
    store.put("damage", comparison().id, damage(), study=kept.id)
    if artifacts:
        store.put("artifact", "a1", artifact(store.artifacts_folder), study=kept.id)
    store.put("draft", kept.id, Recipe((Step("kv_cache"), Step("inference_mode"))), study=kept.id)
    return kept


_DETAILS = {
    "inference_mode": "no gradients were recorded",
    "kv_cache": "58x fewer FLOPs, one prefill and 99 single steps ran",
    "dynamic_int8": "24 of 28 linear layers hold int8; 4 are below 128 features",
}


def _modules(runtime: bool) -> tuple[ModuleProfile, ...]:
    per_token = 2 * WIDTH * WIDTH
    rows: list[ModuleProfile] = []

    def add(
        name: str, type_: str, parameters: int, flops: int, ms: float, calls: int = 100
    ) -> None:
        moved = 4 * parameters * 100 + flops // 60
        rows.append(
            ModuleProfile(
                name, type_, parameters, 4 * parameters, flops, moved, flops // 100,
                flops / moved if moved else 0.0, "float32", calls,
                ms if runtime else None, 0.35 * ms if runtime else None,
            )
        )  # fmt: skip

    add("", "TinyGPT", 1_054_208, 11_372_000_000, 603.0)
    add("embedding", "Embedding", VOCABULARY * WIDTH, 0, 4.0)
    for layer in range(LAYERS):
        base = f"blocks.{layer}"
        add(base, "Block", 198_000, 2_400_000_000, 136.0)
        add(f"{base}.attention", "Attention", 66_000, 900_000_000, 80.0)
        for head in range(HEADS):
            add(f"{base}.attention.heads.{head}", "Head", 12_300, 180_000_000, 17.0)
            for part in ("query", "key", "value"):
                add(f"{base}.attention.heads.{head}.{part}", "Linear", 4096, per_token * 1600, 2.6)
        add(f"{base}.attention.out", "Linear", 16_512, per_token * 5800, 8.0)
        add(f"{base}.norm1", "LayerNorm", 256, 1_000_000, 4.0)
        add(f"{base}.feed_forward", "FeedForward", 131_700, 1_500_000_000, 50.0)
        add(f"{base}.feed_forward.up", "Linear", 66_048, per_token * 22_000, 22.0)
        add(f"{base}.feed_forward.down", "Linear", 65_664, per_token * 22_000, 21.0)
    add("head", "Linear", VOCABULARY * WIDTH, 1_480_000_000, 44.0)
    return tuple(rows)


def _operators() -> tuple[OperatorProfile, ...]:
    rows = []
    for layer in range(LAYERS):
        for name, module, calls, flops, ms in (
            ("aten::addmm", "feed_forward.up", 100, 700_000_000, 26.0),
            ("aten::addmm", "feed_forward.down", 100, 700_000_000, 25.0),
            ("aten::mm", "attention.heads.0.query", 400, 450_000_000, 21.0),
            ("aten::bmm", "attention.heads.0", 800, 450_000_000, 24.0),
            ("aten::softmax", "attention.heads.0", 400, 60_000_000, 13.0),
            ("aten::masked_fill", "attention.heads.0", 400, 0, 11.0),
            ("aten::gelu", "feed_forward", 100, 30_000_000, 9.0),
            ("aten::native_layer_norm", "norm1", 200, 20_000_000, 5.0),
            ("aten::cat", "attention", 100, 0, 6.0),
        ):
            rows.append(
                OperatorProfile(
                    name, f"blocks.{layer}.{module}", "decode", "[1, 58, 128]", "float32", calls,
                    flops, 40_000 * calls + flops // 50, 4 * 16_384, 1.1 * ms, ms,
                )
            )  # fmt: skip
    rows.append(OperatorProfile("aten::addmm", "head", "decode", "[58, 128]", "float32", 100,
                                1_480_000_000, 60_000_000, 524_288, 46.0, 44.0))  # fmt: skip
    rows.append(OperatorProfile("aten::argmax", "", "decode", "[1, 1024]", "float32", 100, 0,
                                410_000, 0, 3.0, 3.0))  # fmt: skip
    rows.append(OperatorProfile("aten::cat", "", "decode", "[1, 58]", "int64", 100, 0,
                                90_000, 0, 2.5, 2.5))  # fmt: skip
    return tuple(rows)
