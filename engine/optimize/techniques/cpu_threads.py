"""How many threads an operator uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.params import param
from engine.records import (
    BuildForecast,
    Evidence,
    Fingerprint,
    Product,
    Profile,
    Realness,
    Step,
    Suggestion,
)

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

# A parallel region costs 5 to 20 microseconds to open and close: below that, more threads lose.
_TINY_MS = 0.02


class CpuThreads(Technique):
    """Set the number of threads inside an operator.

    torch splits each operator over its threads. More threads than physical cores wait for each
    other; operators that are done within microseconds are slowed by the splitting itself.
    """

    name: ClassVar[str] = "cpu_threads"
    stage: ClassVar[Stage] = "context"
    sources: ClassVar[tuple[str, ...]] = (
        "https://pytorch.org/docs/stable/notes/cpu_threading_torchscript_inference.html",
        "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html",
    )
    theory: ClassVar[str] = (
        "Threads share the arithmetic of one operator and meet at its end. With more threads than"
        " physical"
        " cores the last one is scheduled late and all wait for it; with tiny operators the"
        " meeting costs"
        " more than the arithmetic. Large products gain nearly in proportion until memory"
        " bandwidth ends it."
    )
    max_relative_error: ClassVar[float] = 1e-4
    probed_kinds: ClassVar[tuple[str, ...]] = (
        "linear", "conv2d", "attention", "norm", "elementwise", "transcendental",
    )  # fmt: skip

    @dataclass(frozen=True)
    class Config:
        """How many."""

        threads: int = param(1, "Threads inside one operator.", low=1, high=1024, unit="threads")

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The threads in use now."""
        import torch

        return {
            "threads": program.context.threads or workload.threads or torch.get_num_threads(),
            "device": program.context.device,
        }

    def check(self, target: Target) -> tuple[str, ...]:
        """No where that many are used already, or where there are fewer cores."""
        wanted, cores = target.config.threads, target.machine.cores
        reasons = []
        if wanted > cores:
            reasons.append(f"this machine has {cores} physical cores: {wanted} threads would wait.")
        if target.facts.get("threads") == wanted:
            reasons.append(f"{wanted} {_noun(wanted)} in use already: it would change nothing.")
        device = str(target.facts.get("device", "cpu"))
        if device != "cpu":
            reasons.append(f"the model runs on {device}: CPU threads do not matter there.")
        return tuple(reasons)

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Arithmetic in proportion to useful threads; tiny operators by the cost of splitting."""
        now = int(target.facts.get("threads", 0) or 0)
        if not now:
            return costs
        wanted, cores = target.config.threads, target.machine.cores
        useful_now, useful = min(now, cores), min(wanted, cores)
        oversubscribed = now > cores >= wanted

        def row(each: OperatorCost) -> OperatorCost:
            timed = target.measured_ratio(self, each)
            if timed is not None:
                return dataclasses.replace(
                    each,
                    time_low_ms=each.time_low_ms * timed.low,
                    time_high_ms=each.time_high_ms * timed.high,
                )
            per_call = each.time_high_ms / max(each.calls, 1.0)
            if per_call < _TINY_MS:
                # Splitting is left out altogether for most of them.
                low, high = (0.8, 1.0) if wanted < now else (1.0, 1.2)
            else:
                ratio = useful_now / useful
                low, high = min(1.0, ratio), max(1.0, ratio)
            if oversubscribed:
                low = min(low, 0.3)
            return dataclasses.replace(
                each, time_low_ms=each.time_low_ms * low, time_high_ms=each.time_high_ms * high
            )

        return dataclasses.replace(
            costs,
            operators=tuple(row(each) for each in costs.operators),
            basis=(*costs.basis, f"cpu_threads: {now} to {wanted}, as timed here or in proportion"),
        )

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """The same operator on that many threads."""
        import torch

        from engine.profile.product_probes import eager

        run = eager(product)
        if run is None or product.device != "cpu" or product.threads in (None, config.threads):
            return None

        def on_threads() -> Any:
            if torch.get_num_threads() != config.threads:
                torch.set_num_threads(config.threads)
            return run()

        return on_threads

    def forecast(self, target: Target) -> BuildForecast:
        """Nothing: a number."""
        from engine.optimize.needs import needs

        return needs(target)

    def suggest(self, target: Target) -> Suggestion | None:
        """More threads than cores, or operators so small that one thread wins."""
        now, cores = int(target.facts.get("threads", 0) or 0), target.machine.cores
        if target.facts.get("device", "cpu") != "cpu" or now <= 1:
            return None
        if now > cores:
            return self._suggestion(
                "thread oversubscription", f"{now} threads share {cores} physical cores.", cores,
                (Evidence("threads", now, "threads"), Evidence("physical cores", cores, "cores")),
            )  # fmt: skip
        share, calls = _tiny_share(target.profile)
        if share < 0.6:
            return None
        return self._suggestion(
            "tiny operators",
            f"{share:.0%} of the operators' time is in calls below {1e3 * _TINY_MS:.0f}"
            f" microseconds:"
            " splitting them over threads costs more than it brings.",
            1,
            (
                Evidence("share of time in tiny operators", 100 * share, "%"),
                Evidence("such calls", calls, "calls a run"),
            ),
        )

    def _suggestion(
        self, rule: str, summary: str, threads: int, evidence: tuple[Evidence, ...]
    ) -> Suggestion:
        return Suggestion(
            rule=rule,
            title=f"Use {threads} {_noun(threads)}",
            summary=summary,
            steps=(Step(self.name, {"threads": threads} if threads != 1 else {}),),
            evidence=evidence,
            risk="none",
            next_step="Add cpu_threads and compare: the best number depends on the sizes.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """The same program on that many threads."""
        program.context.threads = context.config.threads
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """The number is another one."""
        if before.threads == after.threads:
            return Realness("NO-OP", f"{after.threads} threads before and after", 0.0)
        shown = "torch's own choice of" if before.threads is None else before.threads
        return Realness("REAL", f"{after.threads} threads instead of {shown} threads")


def _noun(count: int) -> str:
    return "thread" if count == 1 else "threads"


def _tiny_share(profile: Profile | None) -> tuple[float, int]:
    timed = (
        [each for each in profile.operators if each.self_time_ms and each.calls] if profile else []
    )
    total = sum(each.self_time_ms or 0.0 for each in timed)
    tiny = [each for each in timed if (each.self_time_ms or 0.0) / each.calls < _TINY_MS]
    spent = sum(each.self_time_ms or 0.0 for each in tiny)
    return (spent / total if total else 0.0), sum(each.calls for each in tiny)
