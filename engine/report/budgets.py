"""Budgets: what a variant may cost at most and must bring at least, and whether it does; no torch.

    latency_ms: 12            # the median, at most
    speedup: 1.5              # over the model as it is, at least
    size: 4 MB                # weights held, at most
    quality_loss_percent: 1   # against the model as it is, at most
    realness: REAL            # every step, at least

An interval decides where there is one: a budget is broken where the whole of it is beyond the
limit. Where the limit lies inside, nothing can be claimed yet.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml

from engine.errors import InputError
from engine.jobs.limits import read_bytes
from engine.measure.statistics import block_length, bootstrap_medians
from engine.quality_text import claim_text
from engine.quantities import bytes_text, ms_text, number_text
from engine.records import (
    Budget,
    BudgetCheck,
    BudgetOutcome,
    BudgetWord,
    Comparison,
    RealnessWord,
    VariantResult,
)

_MAX_FILE_BYTES = 1 << 20
_FEWEST_SAMPLES = 8
_QUALITY = ("EQUIVALENT", "BETTER")
# From the one that did nothing to the one that did all.
_REALNESS: tuple[RealnessWord, ...] = ("NO-OP", "SIMULATED", "PARTIAL", "REAL")

Figure = tuple[float, float | None, float | None]  # value, and its 95 % interval where it has one


@dataclass(frozen=True)
class _Kind:
    """What one name of a budget file stands for."""

    title: str
    bound: Literal["at most", "at least"]
    read: Callable[[VariantResult, VariantResult], Figure | None]
    text: Callable[[float], str] = number_text
    is_size: bool = False


def _latency(variant: VariantResult, base: VariantResult) -> Figure | None:
    found = variant.latency_ms
    if found is None:
        return None
    samples = np.asarray(found.samples, dtype=np.float64)
    if len(samples) < _FEWEST_SAMPLES:
        return found.median, None, None
    medians = bootstrap_medians(samples, block=block_length(len(samples)))
    low, high = np.percentile(medians, (2.5, 97.5))
    return found.median, float(low), float(high)


def _speedup(variant: VariantResult, base: VariantResult) -> Figure | None:
    found = variant.speedup
    return (found.median, found.low, found.high) if found else None


def _quality(variant: VariantResult, base: VariantResult) -> Figure | None:
    found = variant.quality
    return (found.value, found.low, found.high) if found else None


def _loss(variant: VariantResult, base: VariantResult) -> Figure | None:
    """How much worse the metric is than the baseline's, in percent of it."""
    found, held = variant.quality, base.quality
    if found is None or held is None or found.difference is None or not held.value:
        return None
    sign = (-100.0 if found.higher_is_better else 100.0) / abs(held.value)
    value = sign * found.difference
    if found.difference_low is None or found.difference_high is None:
        return value, None, None
    ends = (sign * found.difference_low, sign * found.difference_high)
    return value, min(ends), max(ends)


def _plain(name: str, of: str = "") -> Callable[[VariantResult, VariantResult], Figure | None]:
    def read(variant: VariantResult, base: VariantResult) -> Figure | None:
        owner = getattr(variant, of) if of else variant
        value = getattr(owner, name) if owner is not None else None
        return None if value is None else (float(value), None, None)

    return read


_KINDS: dict[str, _Kind] = {
    "latency_ms": _Kind("median latency", "at most", _latency, ms_text),
    "p95_ms": _Kind("p95 latency", "at most", _plain("p95", "latency_ms"), ms_text),
    "speedup": _Kind("speed-up", "at least", _speedup, lambda value: f"{value:.3g}x"),
    "throughput_per_s": _Kind("throughput", "at least", _plain("throughput_per_s")),
    "ttft_ms": _Kind("time to the first token", "at most", _plain("ttft_ms"), ms_text),
    "time_per_token_ms": _Kind("time per token", "at most", _plain("time_per_token_ms"), ms_text),
    "peak_memory": _Kind(
        "peak tensor memory", "at most", _plain("peak_tensor_bytes"), bytes_text, is_size=True
    ),
    "process_memory": _Kind(
        "peak process memory", "at most", _plain("peak_process_bytes"), bytes_text, is_size=True
    ),
    "size": _Kind("weights held", "at most", _plain("size_bytes"), bytes_text, is_size=True),
    "quality_at_least": _Kind("quality", "at least", _quality),
    "quality_at_most": _Kind("quality", "at most", _quality),
    "quality_loss_percent": _Kind("loss of quality in percent", "at most", _loss),
    "relative_error": _Kind(
        "relative output error", "at most", _plain("relative_error", "fidelity")
    ),
    "kl_divergence": _Kind("KL divergence", "at most", _plain("kl_divergence", "fidelity")),
    "top1_agreement": _Kind("top-1 agreement", "at least", _plain("top1_agreement", "fidelity")),
    "flips_to_wrong": _Kind("right answers lost", "at most", _plain("flips_to_wrong", "fidelity")),
    "build_seconds": _Kind("seconds to build", "at most", _plain("build_seconds")),
}
BUDGETS: dict[str, str] = {
    **{name: f"{each.title}, {each.bound}" for name, each in _KINDS.items()},
    "realness": "of every step, at least: " + " < ".join(_REALNESS),
    "quality": "EQUIVALENT, or BETTER: the verdict on quality within its margin",
}


def read_budgets(path: Path) -> tuple[Budget, ...]:
    """The budgets of a YAML file.

    Raises:
        InputError: no such file, no mapping of names to limits, an unknown name or a bad limit.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InputError(f"{path.name} is larger than 1 MiB: this is no budget file.")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path.name} is not a YAML file.", detail=str(error)) from error
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{path.name} must hold one limit for each name, like `speedup: 1.5`.",
            hint=f"Names: {', '.join(BUDGETS)}.",
        )
    return tuple(_budget(str(name), limit) for name, limit in content.items())


def hold(
    comparison: Comparison, budgets: tuple[Budget, ...], *, recipe: str | None = None
) -> BudgetCheck:
    """Each budget beside what was measured of one variant.

    Args:
        comparison: with the baseline first.
        budgets: as `read_budgets` gives them.
        recipe: of the variant; the first one behind the baseline where it is None.

    Raises:
        InputError: the comparison has no such variant.
    """
    base, *others = comparison.variants
    wanted = [each for each in others if not each.control_of]
    found = [each for each in wanted if recipe in (None, each.recipe)]
    if not found:
        raise InputError(f"The comparison has no variant of the recipe {recipe!r}.")
    variant = found[0]
    return BudgetCheck(
        comparison.id, comparison.study.model.name, variant.recipe,
        tuple(_outcome(each, variant, base) for each in budgets), comparison.seconds, time.time(),
    )  # fmt: skip


def drafted(variant: VariantResult) -> str:
    """A budget file that a measured variant keeps, with room for noise, as YAML text.

    The speed-up gives a tenth less than was measured, sizes and memory a tenth more.
    """
    lines = []
    if variant.speedup:
        lines.append(f"speedup: {0.9 * variant.speedup.low:.2f}")
    for name, value in (("size", variant.size_bytes), ("peak_memory", variant.peak_tensor_bytes)):
        lines += [f"{name}: {1.1 * value / 1e6:.3g} MB"] if value else []
    if variant.quality and variant.quality.difference is not None:
        lines.append("quality_loss_percent: 1")
    elif variant.fidelity:
        lines.append(f"relative_error: {max(1e-6, 2 * variant.fidelity.relative_error):.1g}")
    if variant.steps:
        worst = min(_REALNESS.index(each.realness.verdict) for each in variant.steps)
        lines.append(f"realness: {_REALNESS[worst]}")
    return "\n".join(lines) + "\n"


def is_held(check: BudgetCheck, *, strict: bool = False) -> bool:
    """Whether no budget is broken or unmeasured; with `strict`, none unsure either."""
    bad = {"BROKEN", "NOT MEASURED", *(("UNSURE",) if strict else ())}
    return not any(each.word in bad for each in check.outcomes)


def _budget(name: str, limit: Any) -> Budget:
    if name == "realness":
        if limit not in get_args(RealnessWord):
            raise InputError(f"realness is one of {', '.join(_REALNESS)}, got {limit!r}.")
        return Budget(name, limit)
    if name == "quality":
        if limit not in _QUALITY:
            raise InputError(f"quality is one of {', '.join(_QUALITY)}, got {limit!r}.")
        return Budget(name, limit)
    kind = _KINDS.get(name)
    if kind is None:
        raise InputError(f"No budget is called {name!r}.", hint=f"There are: {', '.join(BUDGETS)}.")
    if kind.is_size and isinstance(limit, str):
        return Budget(name, float(read_bytes(limit)))
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not math.isfinite(limit):
        size = ", or a size like 4 MB" if kind.is_size else ""
        raise InputError(f"{name} must be a number{size}, got {limit!r}.")
    return Budget(name, float(limit))


def _outcome(budget: Budget, variant: VariantResult, base: VariantResult) -> BudgetOutcome:
    if variant.error is not None:
        return BudgetOutcome(budget, "NOT MEASURED", f"{budget.name}: {variant.error.message}")
    if budget.name == "realness":
        return _realness(budget, variant)
    if budget.name == "quality":
        return _verdict(budget, variant)
    kind, limit = _KINDS[budget.name], float(budget.limit)
    figure = kind.read(variant, base)
    if figure is None:
        return BudgetOutcome(
            budget, "NOT MEASURED", f"{budget.name}: {kind.title} was not measured here."
        )
    value, low, high = figure
    least, most = (value, value) if low is None or high is None else (low, high)
    if kind.bound == "at most":
        word: BudgetWord = "KEPT" if most <= limit else "BROKEN" if least > limit else "UNSURE"
    else:
        word = "KEPT" if least >= limit else "BROKEN" if most < limit else "UNSURE"
    span = f" [{kind.text(least)}, {kind.text(most)}]" if least != most else ""
    more = ": measure longer to tell" if word == "UNSURE" else ""
    words = (
        f"{budget.name}: {kind.title} {kind.text(value)}{span}, {kind.bound} {kind.text(limit)}"
        f" allowed{more}"
        if kind.bound == "at most"
        else f"{budget.name}: {kind.title} {kind.text(value)}{span}, at least {kind.text(limit)}"
        f" asked{more}"
    )
    return BudgetOutcome(budget, word, words, value, low, high)


def _realness(budget: Budget, variant: VariantResult) -> BudgetOutcome:
    if not variant.steps:
        return BudgetOutcome(budget, "NOT MEASURED", "realness: the recipe has no steps.")
    worst = min(variant.steps, key=lambda each: _REALNESS.index(each.realness.verdict))
    word = worst.realness.verdict
    kept = _REALNESS.index(word) >= _REALNESS.index(budget.limit)
    words = f"realness: {worst.step.technique} is {word}, at least {budget.limit} asked"
    return BudgetOutcome(budget, "KEPT" if kept else "BROKEN", words, word)


def _verdict(budget: Budget, variant: VariantResult) -> BudgetOutcome:
    found = variant.quality
    if found is None or found.verdict is None:
        return BudgetOutcome(budget, "NOT MEASURED", "quality: it was not measured here.")
    word: BudgetWord = (
        "UNSURE" if found.verdict == "INCONCLUSIVE" else
        "KEPT" if found.verdict in ("BETTER", budget.limit) else "BROKEN"
    )  # fmt: skip
    words = f"quality: {claim_text(found)}, {budget.limit} asked"
    return BudgetOutcome(budget, word, words, found.verdict)
