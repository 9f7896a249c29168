"""Verbs that give records back at once, for tests of what the command line makes of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from engine.errors import ModelError, StepRefused
from engine.profile.traces.reporting import report
from engine.records import (
    Artifact,
    Certificate,
    CertificateCheck,
    Comparison,
    Fidelity,
    Interval,
    LatencySummary,
    LayerDistances,
    Machine,
    MemoryLedger,
    MixCheck,
    ModelReference,
    ModelSummary,
    ModuleProfile,
    NotCounted,
    Profile,
    Quality,
    QualitySpec,
    Realness,
    Sensitivity,
    Step,
    StepOutcome,
    Study,
    StudyRequest,
    Totals,
    TraceReport,
    VariantResult,
    Workload,
    from_plain,
    replace,
)
from tests.workbench import fixture_layers

MACHINE = Machine("m", "box", "Linux", "a processor", 2, 8 * 10**9)


def _study(arguments: dict[str, Any]) -> Study:
    asked = from_plain(arguments["request"], StudyRequest)
    location = asked.reference.location
    if location == "missing":
        raise ModelError("There is no file missing.", hint="Look at the path.")
    summary = ModelSummary(location, "canned", "Canned", "text", 10, 40, "float32", "hash")
    workload = Workload(
        kind=asked.workload.kind or "forward", batch=asked.workload.batch or 1,
        threads=asked.workload.threads,
    )  # fmt: skip
    return Study("s1", ModelReference(location), summary, workload, QualitySpec(), MACHINE, 0.0)


def profile(arguments: dict[str, Any], job: Any) -> Profile:
    job.stage("Tracing", 0.5)
    time.sleep(arguments["request"]["reference"]["options"].get("seconds", 0))
    print("noise on stdout", flush=True)
    modules = (
        ModuleProfile("", "Net", 10, 40, 2048, 99, 8, 20.7, "float32", 1, 2.0, 0.5),
        ModuleProfile("fc", "Linear", 10, 40, 2048, 99, 8, 20.7, "float32", 1, 1.5, 1.5),
    )
    return Profile(
        _study(arguments), modules, (), Totals(10, 40, 2048, 99, 2.0),
        (NotCounted("aten::odd", 3, ("fc",)),), latency_ms=LatencySummary(2.0, 2.5, (2.0,)),
        memory=MemoryLedger(40, 8, 0, 0, 48), outside_modules_ms=0.25,
    )  # fmt: skip


def compare(arguments: dict[str, Any], job: Any) -> Comparison:
    recipes = arguments["recipes"]
    if "cpu_threads" in recipes[0] or "refused" in arguments["request"]["reference"]["location"]:
        raise StepRefused("kv_cache: the model does not generate.", hint="Remove the step.")
    base = VariantResult(
        "baseline", "baseline", LatencySummary(10.0, 12.0, (10.0,)), None, "BASELINE", 100, 64, 128,
        40, Quality("perplexity", 20.0, 50, also=(Quality("bits_per_byte", 1.25, 50),)),
    )  # fmt: skip
    outcome = StepOutcome(Step("inference_mode"), Realness("REAL", "gradients off"), 0.1)
    variants = tuple(
        VariantResult(
            f"v{index}", recipe, LatencySummary(5.0, 6.0, (5.0,)), Interval(2.0, 1.9, 2.1),
            "FASTER", 50, 32, 96, 20,
            Quality("perplexity", 20.5, 50, False, 20.1, 20.9, 0.5, 0.1, 0.9,
                    verdict="INCONCLUSIVE", samples_needed=80,
                    margin=arguments["settings"]["quality_margin"] * 20.0),
            Fidelity(0.01, flips=12, flips_to_wrong=9, flips_to_right=3, mcnemar_p=0.146),
            steps=(outcome,),
        )
        for index, recipe in enumerate(recipes, 1)
    )  # fmt: skip
    noise = Interval(1.0, 0.99, 1.01)
    return Comparison(
        "c1", _study(arguments), (base, *variants), noise, arguments["settings"]["rounds"],
        "interleaved", 0.0, 1.0,
    )  # fmt: skip


def optimize(arguments: dict[str, Any], job: Any) -> Comparison:
    return compare({**arguments, "recipes": [arguments["recipe"]]}, job)


def export(arguments: dict[str, Any], job: Any) -> Artifact:
    return _artifact(arguments["out"], arguments["format"], "PASSED")


def verify(arguments: dict[str, Any], job: Any) -> Artifact:
    passed = "bad" not in arguments["path"]
    return _artifact(arguments["path"], "onnx", "PASSED" if passed else "FAILED")


def _artifact(path: str, form: str, verdict: Any) -> Artifact:
    checks = (CertificateCheck("outputs", verdict == "PASSED", "largest relative error 1e-6"),)
    certificate = Certificate(
        form, verdict, 1e-6, checks, "baseline", "m", Workload(), {}, {}, {}, (), "box", 0.0
    )
    return Artifact(path, form, verdict, 1e-6, 40, certificate)


def trace(arguments: dict[str, Any], job: Any) -> TraceReport:
    return report(Path(arguments["path"]), name=arguments["name"], progress=job.progress)


def sensitivity(arguments: dict[str, Any], job: Any) -> Sensitivity:
    found = fixture_layers.sensitivity("s1")
    return replace(found, missing=3) if arguments["seconds"] == 0 else found


def check_mix(arguments: dict[str, Any], job: Any) -> MixCheck:
    predicted, saved = arguments["predicted"], arguments["predicted_bytes"]
    return MixCheck("s1", arguments["recipe"], predicted, 1.1 * predicted, "kl_divergence", saved,
                    saved, 0.2, 16, 0.0)  # fmt: skip


def layer_distances(arguments: dict[str, Any], job: Any) -> LayerDistances:
    return replace(fixture_layers.distances("s1"), recipe=arguments["recipe"])


WORK = {
    "sensitivity": sensitivity, "check_mix": check_mix, "layer_distances": layer_distances,
    "trace": trace, "profile": profile, "compare": compare, "optimize": optimize, "export": export,
    "verify": verify,
}  # fmt: skip
