"""The model as an OpenVINO graph, run by OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.optimize.techniques.onnxruntime import (
    engine_costs,
    engine_realness,
    engine_suggestion,
    refusals,
    runtime_facts,
)
from engine.optimize.techniques.torch_compile import overhead_evidence
from engine.params import param
from engine.records import Fingerprint, Product, Range, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

_OVERHEAD = Range(0.05, 0.4)
# Time of products over eager float32, and bytes of the weights. One thread of a busy machine with
# AMX, 128 x 768 x 768: float32 0.82 to 0.95, default (bfloat16) 0.25 to 0.45, int8 0.28 to 0.29.
_PRODUCTS = {
    "default": (Range(0.2, 1.05), 1.0),
    "float32": (Range(0.7, 1.1), 1.0),
    "int8_weights": (Range(0.15, 0.9), 0.26),
    "int8": (Range(0.12, 0.7), 0.26),
    "int4_weights": (Range(0.15, 0.9), 0.16),
}
_REST = Range(0.3, 1.0)
_RISKS = {"float32": "none", "default": "low", "int4_weights": "high"}
_BFLOAT16 = {"avx512_bf16", "amx_bf16"}
_REALIZED = ("dynamic_int8", "reduced_precision")


class OpenVino(Technique):
    """Run the model in OpenVINO.

    The forward (prefill and step of a decoder with a cache) is converted for any batch and length
    and compiled for this processor. `default` computes in bfloat16 where the processor has it, as
    OpenVINO itself does, and says so; float32 asks for exact products. NNCF makes weights smaller:
    int8_weights and int4_weights round them alone (activations are rounded while it runs, where
    the processor has integer units and no bfloat16 ones), int8 rounds activations too, in ranges
    that were seen on calibration data. The layers that dynamic_int8 planned keep their int8
    weights, the others stay as they are.
    """

    name: ClassVar[str] = "openvino"
    stage: ClassVar[Stage] = "runtime"
    requires: ClassVar[tuple[str, ...]] = ("openvino", "nncf")
    sources: ClassVar[tuple[str, ...]] = (
        "OpenVINO documentation, Precision Control",
        "NNCF documentation, Post-Training Quantization",
        "NNCF documentation, Weight Compression",
    )
    theory: ClassVar[str] = (
        "An engine that knows the whole graph and the processor lays weights out for its kernels"
        " once, fuses what follows a product into it, and chooses the number format by what the"
        " hardware multiplies fastest: bfloat16 and int8 units give several products for each one"
        " in float32."
    )
    sample: ClassVar[str] = "digits_vision"
    max_relative_error: ClassVar[float] = 0.02

    @dataclass(frozen=True)
    class Config:
        """Number formats of weights and activations."""

        precision: str = param(
            "default",
            "What products are computed in: default is bfloat16 where the CPU has it.",
            choices=tuple(_PRODUCTS),
        )
        activations: str = param(
            "default",
            "What is not quantized is computed in this: default is bfloat16 where the CPU has it.",
            choices=("default", "float32"),
        )

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The workload, where it runs and which number formats are held."""
        return runtime_facts(program, workload)

    def check(self, target: Target) -> tuple[str, ...]:
        """No without the packages, off the CPU, in float16, and where two plans meet."""
        from engine.runtimes.openvino import OpenVino as Runtime

        reasons = [*Runtime().check(target.machine), *refusals(target, "OpenVINO", _REALIZED)]
        formats, config = target.facts.get("formats", {}), target.config
        if "float16" in formats:
            reasons.append("OpenVINO's CPU kernels take bfloat16, not float16: set that step so.")
        planned = [step.technique for step in target.steps if step.technique in _REALIZED]
        if planned and (config.precision, config.activations) != ("default", "default"):
            asked = config.precision if config.precision != "default" else config.activations
            reasons.append(
                f"{planned[0]} planned a number format already, and {asked} plans again: keep one"
                " of the two."
            )
        if config.precision == "int8" and target.facts.get("keeps_cache"):
            # A quantized prefill graph gave logits of another shape, for a reason not found yet.
            reasons.append("int8 takes no decoder that keeps a cache: set precision int8_weights.")
        is_small = config.precision in ("int8", "int8_weights", "int4_weights")
        if is_small and formats and not target.facts.get("matrices"):
            reasons.append(f"the model has no weights that {config.precision} would shrink.")
        return tuple(reasons)

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Nearly no overhead; products as their number format allows."""
        precision = target.config.precision
        if precision == "default" and not _BFLOAT16 & set(target.machine.features):
            precision = "float32"
        ratio, weights = _PRODUCTS[precision]
        return engine_costs(
            costs, self.name, _OVERHEAD, ratio, _REST, weight_ratio=weights,
            risk=_RISKS.get(precision, "medium"),
        )  # fmt: skip

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """A graph of this one product, compiled with the product's threads."""
        from engine.inference.probing import openvino_product

        return openvino_product(product, config)

    def suggest(self, target: Target) -> Suggestion | None:
        """Worth it where dispatch takes a good part of the time."""
        found = overhead_evidence(target)
        if found is None or self.check(target):
            return None
        return engine_suggestion(self, "OpenVINO", found, Step(self.name, {"precision": "float32"}))

    def apply(self, program: Program, context: BuildContext) -> Program:
        """The program run by OpenVINO."""
        from engine.runtimes.openvino import OpenVino as Runtime

        return Runtime().prepare(program, context)

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Its kernels ran; where int8 weights are held, in kernels made for them."""
        return engine_realness(after, self.name)
