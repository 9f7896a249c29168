"""torch.compile with the Inductor backend."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.params import param
from engine.records import BuildForecast, Evidence, Fingerprint, Range, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

# Share of the overhead of operators that is left when they are fused and called by generated code.
_OVERHEAD = Range(0.3, 1.0)
# Share of the Python outside of operators that no compiler takes: the loop that asks for tokens.
_LOOP_LEFT = 0.8
# Share of the arithmetic's time that is left: products stay library calls, the rest is fused.
_ARITHMETIC = Range(0.8, 1.05)
_WORTH = 0.3


class TorchCompile(Technique):
    """Compile the model into fewer and larger kernels.

    Records the operators of the model and generates C++ (or Triton on a GPU) in which
    neighbouring operators are one loop. A decoder's prefill and step are compiled apart, for any
    length, so that no token compiles again. Compiling takes seconds to minutes and is reported
    apart from latency. With frozen weights it packs them once, in the order that kernels read.
    """

    name: ClassVar[str] = "torch_compile"
    stage: ClassVar[Stage] = "runtime"
    requires: ClassVar[tuple[str, ...]] = ("a C++ compiler",)
    sources: ClassVar[tuple[str, ...]] = (
        "Ansel et al. 2024, PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode"
        " Transformation and Graph Compilation",
    )
    theory: ClassVar[str] = (
        "Eager PyTorch pays for each operator: Python, dispatch, a pass over memory for every"
        " intermediate. Small models are bound by that. A compiler sees the whole graph, fuses"
        " elementwise operators into the loops of their neighbours and calls the kernels from"
        " generated code. Matrix products stay in the same libraries, so large ones gain little."
    )

    @dataclass(frozen=True)
    class Config:
        """How hard the compiler tries."""

        mode: str = param(
            "default",
            "How long to search: max-autotune times several kernels for each product (on the CPU"
            " for frozen weights only), reduce-overhead replays CUDA graphs.",
            choices=("default", "reduce-overhead", "max-autotune"),
        )
        freeze: bool = param(
            False, "Take the weights as constants, packed for the kernels: no gradients after it."
        )
        dynamic: bool = param(
            True, "Compile once for any batch and length, instead of for each that is seen."
        )

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The device, and whether gradients are recorded."""
        return {
            "device": program.context.device,
            "gradients": program.context.gradients,
            "kind": workload.kind,
        }

    def check(self, target: Target) -> tuple[str, ...]:
        """A compiler must be there, and the options must change something."""
        from engine.runtimes.inductor import Inductor

        return (*Inductor().check(target.machine), *_idle_options(target))

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Less overhead for each operator; arithmetic nearly as before."""
        made = compiled_costs(costs, self.name, _OVERHEAD, _ARITHMETIC)
        if not getattr(target.config, "freeze", False):
            return made
        # No time is promised: three products of 256 x 256 on 32 rows took as long as without.
        held = {name: size for row in costs.operators for name, size in row.held.items()}
        packed = sum(held.values())
        return dataclasses.replace(
            made,
            # The module keeps its own weights beside the packed ones.
            peak_high_bytes=made.peak_high_bytes + packed,
            basis=(*made.basis, "torch_compile: frozen weights are held twice, packed for kernels"),
        )

    def forecast(self, target: Target) -> BuildForecast:
        """A compiler's packages and processes, whatever the model's size."""
        from engine.optimize.needs import needs

        return needs(
            target,
            copies=(0.0, 1.0),
            more_bytes=(0.0, 1.5e9),
            seconds=(3.0, 240.0),
            seconds_per_gb=(0.0, 60.0),
        )

    def suggest(self, target: Target) -> Suggestion | None:
        """Worth it where dispatch takes a good part of the time."""
        found = overhead_evidence(target)
        if found is None or self.check(target):
            return None
        return Suggestion(
            rule="tiny operators",
            title="Compile the many small operators into few",
            summary="Much of the time goes to launching operators, not to their arithmetic.",
            steps=(Step(self.name),),
            evidence=found,
            risk="none: the answer stays; compiling takes seconds to minutes when it is built",
            next_step="Add kv_cache and fuse_attention first: there is less to compile then.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """The program prepared by the Inductor runtime."""
        from engine.runtimes.inductor import Inductor

        return Inductor().prepare(program, context)

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Real where compiled code runs; tells the products with packed weights."""
        found = compiled_realness(before, after, "inductor")
        packed = sum(
            count
            for name, count in after.operators.items()
            if (name.startswith(("mkl::", "mkldnn::")) and "pointwise" in name)
            or "mkl_linear" in name
        )
        if found.verdict != "REAL" or not packed:
            return found
        return Realness("REAL", f"{found.detail} {packed} calls read packed weights.")


def _idle_options(target: Target) -> tuple[str, ...]:
    """Options that would change nothing, or cannot be had."""
    config, facts = target.config, target.facts
    on_cpu = str(facts.get("device", "cpu")).startswith("cpu")
    frozen = getattr(config, "freeze", False)
    reasons = []
    if config.mode == "reduce-overhead" and on_cpu:
        reasons.append("mode=reduce-overhead replays CUDA graphs: on the CPU it changes nothing.")
    if config.mode == "max-autotune" and on_cpu and not frozen:
        reasons.append(
            "mode=max-autotune has kernels to choose from on the CPU for frozen weights only: set"
            " freeze=true."
        )
    without = "inference_mode" in [step.technique for step in target.steps]
    if frozen and facts.get("kind") == "train_step":
        reasons.append("freeze=true makes constants of the weights: they cannot be trained.")
    elif frozen and facts.get("gradients") and not without:
        reasons.append("freeze=true needs gradients off: add inference_mode.")
    return tuple(reasons)


def overhead_evidence(target: Target) -> tuple[Evidence, ...] | None:
    """Calls and their mean time, where most operators are too small to be worth their launch."""
    if target.profile is None:
        return None
    rows = [row for row in target.profile.operators if row.calls and row.self_time_ms is not None]
    calls = sum(row.calls for row in rows)
    total = sum(row.self_time_ms or 0.0 for row in rows)
    if calls < 1 or total <= 0:
        return None
    small = [row for row in rows if (row.self_time_ms or 0.0) / row.calls < _SMALL_MS]
    share = sum(row.self_time_ms or 0.0 for row in small) / total
    if share < _WORTH:
        return None
    worst = sorted(small, key=lambda row: -(row.self_time_ms or 0.0))[:5]
    modules = tuple(dict.fromkeys(row.module for row in worst if row.module))
    return (
        Evidence("operators called", float(calls), "calls"),
        Evidence("mean time of an operator", 1e3 * total / calls, "µs"),
        Evidence("time in operators below 20 µs", 100 * share, "%", modules),
    )


# Launching an operator from Python costs 2 to 10 µs; below 20 µs that is a good part of its time.
_SMALL_MS = 0.02


def compiled_costs(costs: CostTable, name: str, overhead: Range, arithmetic: Range) -> CostTable:
    """The cost table where a compiler takes shares of overhead and arithmetic."""
    rows = tuple(
        dataclasses.replace(
            row,
            overhead_ms=row.overhead_ms * overhead.low,
            time_low_ms=row.overhead_ms * overhead.low
            + max(0.0, row.time_low_ms - row.overhead_ms) * arithmetic.low,
            time_high_ms=row.overhead_ms * overhead.high
            + max(0.0, row.time_high_ms - row.overhead_ms) * arithmetic.high,
        )
        for row in costs.operators
    )
    return dataclasses.replace(
        costs,
        operators=rows,
        rest_low_ms=costs.rest_low_ms * overhead.low,
        rest_high_ms=costs.rest_high_ms * max(overhead.high, _LOOP_LEFT),
        basis=(
            *costs.basis,
            f"{name}: {overhead.low:.0%} to {overhead.high:.0%} of the overhead left",
        ),
    )


def compiled_realness(before: Fingerprint, after: Fingerprint, runtime: str) -> Realness:
    """Real where the runtime executes the program."""
    if after.runtime != runtime:
        return Realness("NO-OP", f"The program is run by {after.runtime}.", 0.0)
    return Realness("REAL", f"Compiled code runs ({runtime}).")
