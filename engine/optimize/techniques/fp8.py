"""8-bit floating point for weights and activations, on GPUs that multiply it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable
from engine.optimize.layers import NAMES, at_pace, is_product, is_wide, slow_products, small_ratio
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.params import param
from engine.records import Evidence, Fingerprint, Product, Range, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

MULTIPLE = 16
# Peak rates by NVIDIA's data sheets: fp8 twice bfloat16, which is twice TF32; not measured here.
_WIDE, _HALF = Range(0.25, 0.80), Range(0.50, 1.00)
_CALL_MS = Range(0.010, 0.060)


class Fp8(Technique):
    """Linear layers in 8-bit floating point.

    Weights are rounded once to 4 bits of exponent and 3 of mantissa; activations while the model
    runs, with a scale for each row or for the whole tensor. The products run on the GPU's fp8
    units, which NVIDIA has from Ada and Hopper (capability 8.9) on and AMD from MI300. Everything
    else keeps its format. The kernel takes sizes that are multiples of 16: other layers stay as
    they are, and so do those that move their outputs further than `max_layer_error`.
    """

    name: ClassVar[str] = "fp8"
    stage: ClassVar[Stage] = "precision"
    requires: ClassVar[tuple[str, ...]] = ("a GPU with fp8 (NVIDIA capability 8.9, AMD MI300)",)
    sources: ClassVar[tuple[str, ...]] = (
        "Micikevicius et al. 2022, FP8 Formats for Deep Learning",
        "Kuzmin et al. 2022, FP8 Quantization: The Power of the Exponent",
    )
    theory: ClassVar[str] = (
        "Fp8 units multiply twice as many pairs a second as bfloat16's, and a weight of one byte is"
        " half of what a memory-bound product reads. An exponent keeps small and large values apart"
        " without outliers coarsening the rest, at 3 bits of mantissa: about 3 % for one value,"
        " which averages out in a product."
    )
    sample: ClassVar[str] = "random_llama"
    example_workload: ClassVar[dict[str, Any]] = {"device": "cuda"}
    max_relative_error: ClassVar[float] = 0.1

    @dataclass(frozen=True)
    class Config:
        """Which layers, and how many scales."""

        scales: str = param(
            "row", "One scale for each row and output channel, or one for a whole tensor.",
            choices=("row", "tensor"),
        )  # fmt: skip
        exclude: str = param("lm_head", f"Layers to leave as they are: {NAMES}")
        min_features: int = param(
            1024,
            "Layers with fewer inputs or outputs stay as they are: scaling costs more than it"
            " brings.", low=16, high=65536, step=16, unit="features",
        )  # fmt: skip
        max_layer_error: float = param(
            0.1, "A layer whose outputs move further than this stays as it is.",
            low=0.0, high=1.0, step=0.01,
        )  # fmt: skip

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The Linear layers, and why there is no kernel where there is none."""
        from engine.optimize.quantize.fp8 import describe_fp8

        return {"kind": workload.kind, **describe_fp8(program.module)}

    def check(self, target: Target) -> tuple[str, ...]:
        """No without a GPU that has fp8 units, or layers of sizes that its kernel takes."""
        facts, config = target.facts, target.config
        if facts.get("kind") == "train_step":
            return ("fp8 layers cannot be trained here.",)
        if "layers" not in facts:
            return ()
        if facts["refusal"]:
            return (str(facts["refusal"]),)
        if not facts["layers"]:
            already = facts.get("already", 0)
            return (
                f"all {already} Linear layers are in fp8 already." if already else
                "the model has no Linear layers in floating point.",
            )  # fmt: skip
        if not chosen_linear(facts["layers"], config):
            return (
                f"no layer is left: the kernel takes multiples of {MULTIPLE}, and min_features is"
                f" {config.min_features}.",
            )
        return ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Products of the chosen layers at fp8's pace, plus a fixed time for scaling."""
        layers = chosen_linear(target.facts.get("layers", {}), target.config)
        size = target.facts.get("element_bytes", 4)
        rows = tuple(
            at_pace(
                row, _HALF if "16" in row.dtype else _WIDE, weight_ratio=small_ratio(row.dtype),
                dtype="float8_e4m3fn", call_ms=_CALL_MS,
            )
            if is_product(row, layers) else row
            for row in costs.operators
        )  # fmt: skip
        saved = sum(shape[0] * shape[1] * (size - 1) - 4 * shape[0] for shape in layers.values())
        held = costs.weight_bytes - saved
        return dataclasses.replace(
            costs,
            operators=rows,
            weight_bytes=held,
            peak_low_bytes=max(held, costs.peak_low_bytes - saved),
            peak_high_bytes=max(held, costs.peak_high_bytes - saved),
            quality_risk="medium" if costs.quality_risk in ("none", "low") else costs.quality_risk,
            basis=(*costs.basis, f"fp8: {len(layers)} layers by the peak rates of data sheets"),
        )

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """The layer with the scaling of its input, on a GPU that has fp8."""
        shape = [product.outputs, product.inputs]
        everything = dataclasses.replace(config, exclude="")
        if product.kind != "linear" or not chosen_linear({"product": shape}, everything):
            return None
        from engine.optimize.quantize.fp8 import probed_fp8, why_no_kernel

        if why_no_kernel(product.device):
            return None
        return probed_fp8(product, by_row=config.scales == "row")

    def suggest(self, target: Target) -> Suggestion | None:
        """Where a GPU has fp8 and wide Linear layers hold much of the time."""
        layers = chosen_linear(target.facts.get("layers", {}), target.config)
        if not layers or target.profile is None or self.check(target):
            return None
        slow = slow_products(target.profile, layers, worth_ms=0.0)
        share, names = slow.share, slow.names
        if share < 0.3:
            return None
        return Suggestion(
            rule="wide products on a GPU with fp8",
            title="Compute wide Linear layers in fp8",
            summary=f"{share:.0%} of the operators' time is in {len(names)} wide Linear layers.",
            steps=(Step(self.name),),
            evidence=(
                Evidence("share of the operators' time", 100 * share, "%", names[:50]),
            ),
            risk="medium",
            next_step="Add fp8 after reduced_precision, and look at the quality.",
            theory=self.theory,
        )  # fmt: skip

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Replaces the chosen layers, the same layer in two places once."""
        from engine.optimize.quantize.fp8 import quantize_fp8_

        program.notes += quantize_fp8_(program, context)
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Fp8 bytes are held, and the fp8 product ran on a GPU."""
        from engine.optimize.quantize.realness import FP8, low_precision_realness

        found = low_precision_realness(before, after, FP8)
        if found.verdict in ("REAL", "PARTIAL") and after.devices == ("cpu",):
            return Realness(
                "SIMULATED", "fp8 products ran on the CPU, not on a GPU's fp8 units", 0.0
            )
        return found


def chosen_linear(layers: dict[str, Any], config: Any) -> dict[str, list[int]]:
    """Layers [out, in] that are wide enough, of sizes that the kernel takes, and not excluded."""
    return {
        name: list(shape)
        for name, shape in layers.items()
        if is_wide(name, shape, config) and all(each % MULTIPLE == 0 for each in shape)
    }
