"""A graph compiled ahead into a shared library."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from engine.optimize.costs import CostTable
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.optimize.techniques.torch_compile import (
    compiled_costs,
    compiled_realness,
    overhead_evidence,
)
from engine.records import BuildForecast, Fingerprint, Range, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Program

# Python and dispatch are gone: what is left is one call for each graph and its library calls.
_OVERHEAD = Range(0.2, 0.6)
_ARITHMETIC = Range(0.7, 1.05)


class AotInductor(Technique):
    """Compile the model ahead into a shared library.

    The graph is exported for any batch and length, compiled to C++ and loaded; a call then runs
    without Python between its kernels. The library is kept and found again by its content; it
    reads the model's own weights, so that they are held once.
    """

    name: ClassVar[str] = "aot_inductor"
    stage: ClassVar[Stage] = "runtime"
    requires: ClassVar[tuple[str, ...]] = ("a C++ compiler",)
    sources: ClassVar[tuple[str, ...]] = (
        "PyTorch documentation, AOTInductor: Ahead-Of-Time Compilation for Torch.Export-ed Models",
    )
    theory: ClassVar[str] = (
        "torch.compile still enters each graph through Python, which checks its guards."
        " Compiled ahead, the whole graph is one native function: what is left per token is its"
        " kernels and one call. The price is a fixed graph: its shapes may change, its code path"
        " may not."
    )

    def check(self, target: Target) -> tuple[str, ...]:
        """A compiler must be there, and nothing that needs gradients."""
        from engine.runtimes.aot_inductor import AotInductor as Runtime

        reasons = list(Runtime().check(target.machine))
        if target.study is not None and target.study.workload.kind == "train_step":
            reasons.append("A compiled package computes no gradients: use torch_compile.")
        return tuple(reasons)

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Almost no overhead; arithmetic nearly as before."""
        return compiled_costs(costs, self.name, _OVERHEAD, _ARITHMETIC)

    def forecast(self, target: Target) -> BuildForecast:
        """A compiler's packages and processes; little where the library is kept."""
        from engine.optimize.needs import needs

        # Measured on tiny_gpt: 115 MB of its own, 547 MB with the compiler's processes.
        return needs(
            target,
            copies=(0.0, 1.0),
            more_bytes=(0.0, 1.5e9),
            seconds=(0.3, 240.0),
            seconds_per_gb=(0.0, 60.0),
        )

    def suggest(self, target: Target) -> Suggestion | None:
        """Worth it where dispatch takes a good part of the time."""
        found = overhead_evidence(target)
        if found is None or self.check(target):
            return None
        return Suggestion(
            rule="tiny operators",
            title="Run the model as a compiled library",
            summary=(
                "Much of the time goes to launching operators, not to their arithmetic; a"
                " library runs all of them in one call."
            ),
            steps=(Step(self.name),),
            evidence=found,
            risk="none: the answer stays; compiling takes seconds to minutes once",
            next_step="Add kv_cache and fuse_attention first: there is less to compile then.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """The program prepared by the AOTInductor runtime."""
        from engine.runtimes.aot_inductor import AotInductor as Runtime

        return Runtime().prepare(program, context)

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Real where compiled code runs."""
        return compiled_realness(before, after, "aot_inductor")
