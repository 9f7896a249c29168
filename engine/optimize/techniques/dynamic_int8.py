"""Int8 weights and activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable
from engine.optimize.layers import (
    NAMES,
    at_pace,
    is_product,
    slow_products,
    small_ratio,
    wide_layers,
)
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.params import param
from engine.records import (
    BuildForecast,
    Evidence,
    Fingerprint,
    Machine,
    Product,
    Range,
    Realness,
    Step,
    Suggestion,
)

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm")
# Measured with AVX-512 VNNI on weights that no cache held, 768 x 768 to 768 x 1920, over float32:
# one row 0.35 to 0.41 on one and two cores, 0.57 to 0.65 with the second product; 64 rows 0.3 to
# 0.6. A call costs 0.01 to 0.03 ms beyond its product.
_WITH_VNNI, _WITHOUT = Range(0.30, 0.70), Range(0.50, 1.50)
_CALL_MS = Range(0.005, 0.030)


class DynamicInt8(Technique):
    """Linear layers in int8.

    Weights are rounded once, with one scale for each output channel; activations while the model
    runs, with one scale for each token. The products are computed by int8 kernels (FBGEMM on x86).
    Everything else stays in floating point. Layers are tried on calibration inputs: one that moves
    its outputs further than `refine_above` adds a second product with what rounding its inputs left
    over, and more do until the model's outputs move by less than `max_error`; one that still moves
    further than `max_layer_error` stays in floating point. Narrow layers gain nothing:
    `min_features` leaves them out.
    """

    name: ClassVar[str] = "dynamic_int8"
    stage: ClassVar[Stage] = "precision"
    sources: ClassVar[tuple[str, ...]] = (
        "Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient"
        " Integer-Arithmetic-Only Inference, section 2",
        "Dettmers et al. 2022, LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale,"
        " section 2 (row-wise scales)",
        "Khudia et al. 2021, FBGEMM: Enabling High-Performance Low-Precision Deep Learning"
        " Inference",
    )
    theory: ClassVar[str] = (
        "A weight of one byte instead of four lets a memory-bound product (one token at a time)"
        " read a quarter, and VNNI instructions multiply four int8 pairs where AVX-512 multiplies"
        " one in float32. Rounding to 255 levels adds an error of about 1 % a layer; a scale for"
        " each channel and token keeps one large value from coarsening all the others."
    )
    sample: ClassVar[str] = "random_llama"
    max_relative_error: ClassVar[float] = 0.05
    probed_kinds: ClassVar[tuple[str, ...]] = ("linear",)
    probed_by: ClassVar[tuple[str, ...]] = ()

    @dataclass(frozen=True)
    class Config:
        """Which layers."""

        exclude: str = param("", f"Layers to leave in floating point: {NAMES}")
        min_features: int = param(
            384,
            "Layers with fewer inputs or outputs stay in floating point: they gain nothing.",
            low=1, high=65536, step=64, unit="features",
        )  # fmt: skip
        max_layer_error: float = param(
            0.1,
            "A layer whose outputs move further than this on calibration inputs stays in floating"
            " point.", low=0.0, high=1.0, step=0.01,
        )  # fmt: skip

        refine_above: float = param(
            0.015,
            "A layer whose outputs move further than this adds a second int8 product with what"
            " rounding its inputs left over, where that helps.", low=0.0, high=1.0, step=0.005,
        )  # fmt: skip
        max_error: float = param(
            0.026,
            "More layers add a second product until the model's outputs move by less than this on"
            " calibration inputs.", low=0.0, high=1.0, step=0.005,
        )  # fmt: skip

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The Linear layers, and whether an int8 kernel is here."""
        from engine.optimize.quantize.selecting import describe_layers

        return {"kind": workload.kind, **describe_layers(program.module)}

    def check(self, target: Target) -> tuple[str, ...]:
        """No without Linear layers that are large enough, a kernel or on devices that have none."""
        facts, config = target.facts, target.config
        if facts.get("kind") == "train_step":
            return ("int8 layers cannot be trained.",)
        if "layers" not in facts:
            return ()
        reasons = []
        if not facts["layers"]:
            already = facts.get("int8_layers", 0)
            reasons.append(
                f"all {already} Linear layers are int8 already." if already else
                "the model has no Linear layers in floating point."
            )  # fmt: skip
        elif not wide_layers(facts["layers"], config):
            largest = max(min(sizes) for sizes in facts["layers"].values())
            reasons.append(
                f"no layer is left: the largest has {largest} features at its narrow side and"
                f" min_features is {config.min_features}."
            )
        if facts.get("device") == "mps":
            reasons.append("there is no int8 kernel on mps.")
        if not facts.get("has_kernel", True):
            reasons.append("this build of torch has no int8 kernel for this machine.")
        return tuple(reasons)

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Products of the chosen layers at int8's pace, plus a fixed time for each call."""
        layers = wide_layers(target.facts.get("layers", {}), target.config)
        pace = _WITH_VNNI if _has_vnni(target.machine) else _WITHOUT
        saved = 0.0
        timed = 0
        rows = []
        for each in costs.operators:
            if not is_product(each, layers):
                rows.append(each)
                continue
            # The pace that was timed is of one product: a refined layer's second is not in it.
            measured = target.measured_ratio(self, each)
            timed += measured is not None
            rows.append(
                at_pace(
                    each, measured or pace, weight_ratio=small_ratio(each.dtype), dtype="int8",
                    call_ms=None if measured else _CALL_MS,
                )
            )  # fmt: skip
        tied = set(target.facts.get("tied", []))
        for name, (inputs, outputs) in layers.items():
            size = target.facts.get("element_bytes", 4)
            kept = size if name in tied else 0
            saved += inputs * outputs * (size - kept - 1) - 4 * outputs
        held = costs.weight_bytes - saved
        return dataclasses.replace(
            costs,
            operators=tuple(rows),
            weight_bytes=held,
            peak_low_bytes=max(held, costs.peak_low_bytes - saved),
            peak_high_bytes=max(held, costs.peak_high_bytes - saved),
            quality_risk="medium" if costs.quality_risk in ("none", "low") else costs.quality_risk,
            basis=(
                *costs.basis,
                f"dynamic_int8: {len(layers)} layers, {timed} products as timed here, others at"
                f" {pace.low:.2f} to {pace.high:.2f} of their time plus {_CALL_MS.low:.3f} to"
                f" {_CALL_MS.high:.3f} ms a call (assumed)",
            ),
        )

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """The int8 layer with the quantization of its input."""
        is_wide = min(product.inputs, product.outputs) >= config.min_features
        if product.kind != "linear" or product.device == "mps" or not is_wide:
            return None
        from engine.optimize.quantize.int8_linear import probed

        return probed(product)

    def forecast(self, target: Target) -> BuildForecast:
        """Packed layers beside the floating ones, and tries on calibration inputs."""
        from engine.optimize.needs import needs

        # Measured on a 60 M decoder: 0.62 copies, 28 s on a busy machine.
        return needs(target, copies=(0.0, 1.0), seconds=(0.1, 5.0), seconds_per_gb=(5.0, 200.0))

    def suggest(self, target: Target) -> Suggestion | None:
        """Where large Linear layers hold much of the time, or weights are most of what moves."""
        layers = wide_layers(target.facts.get("layers", {}), target.config)
        profile = target.profile
        if not layers or profile is None or target.facts.get("kind") == "train_step":
            return None
        slow = slow_products(profile, layers)
        share, names = slow.share, slow.names
        if share < 0.2:
            return None
        moved = sum(each.moved_bytes for each in slow.rows)
        weights = sum(each.weight_bytes * each.calls for each in slow.rows)
        bound = "memory-bound" if moved and weights / moved > 0.5 else "compute-bound"
        return Suggestion(
            rule="memory-bound decode"
            if bound == "memory-bound"
            else "float products where int8 is faster",
            title="Quantize Linear layers to int8",
            summary=(
                f"{share:.0%} of the operators' time is in {bound} products of {len(names)}"
                f" Linear layers;"
                " int8 reads a quarter of their bytes."
            ),
            steps=(Step(self.name),),
            evidence=(
                Evidence(
                    "share of the operators' time in these layers", 100 * share, "%", names[:50]
                ),
                Evidence("weights read", float(weights), "bytes a run"),
                Evidence("all that they move", float(moved), "bytes a run"),
            ),
            risk="medium",
            next_step="Add dynamic_int8 and look at the quality; exclude the layers that hurt.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Replaces the chosen layers, the same layer in two places once."""
        from engine.optimize.quantize.selecting import quantize_layers_

        program.notes += quantize_layers_(program, context)
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Int8 bytes are held, int8 kernels ran, and how much of the FLOPs they are."""
        from engine.optimize.quantize.realness import INT8, low_precision_realness

        return low_precision_realness(before, after, INT8)


def _has_vnni(machine: Machine) -> bool:
    return any(each in machine.features for each in _VNNI)
