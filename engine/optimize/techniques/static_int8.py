"""Int8 weights and activations with scales observed on calibration data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.layers import (
    NAMES,
    at_pace,
    is_excluded,
    is_product,
    is_wide,
    slow_products,
    small_ratio,
)
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.params import param
from engine.records import Evidence, Fingerprint, Product, Range, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
# Measured on one core, over float32, weights of Linear layers in no cache. With AMX: Linear from
# 768 wide 0.14 to 0.57, Conv2d from 16 channels 0.08 to 0.56; with VNNI alone (oneDNN held to it)
# 0.18 to 0.50 and 0.17 to 0.78; with AVX-512 alone 0.21 to 0.72 and 0.16 to 0.97.
_RATIOS = {
    ("linear", True): Range(0.14, 0.57), ("conv2d", True): Range(0.08, 0.78),
    ("linear", False): Range(0.21, 0.72), ("conv2d", False): Range(0.16, 0.97),
}  # fmt: skip
_CALL_MS = Range(0.005, 0.030)
_BETWEEN_NEIGHBOURS = 0.7


class StaticInt8(Technique):
    """Linear and convolution layers in int8, calibrated.

    Weights are rounded once, with one scale for each output channel. Activations get one scale for
    each layer, observed on calibration data, so that nothing is searched for while the model runs,
    and a layer whose outputs only go into other int8 layers hands them on as int8. Batch norms are
    folded into their convolution first, and rectifiers into the product before them. The products
    are oneDNN's int8 kernels. A layer that moves its outputs further than `max_layer_error` on
    calibration data stays in floating point. `smooth` moves the inputs' unevenness into the weights
    (SmoothQuant), for transformers with a few very large activations. Convolutions in groups stay
    as they are: they gain nothing.
    """

    name: ClassVar[str] = "static_int8"
    stage: ClassVar[Stage] = "precision"
    sources: ClassVar[tuple[str, ...]] = (
        "Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient"
        " Integer-Arithmetic-Only Inference",
        "Nagel et al. 2021, A White Paper on Neural Network Quantization, section 3",
        "Xiao et al. 2023, SmoothQuant: Accurate and Efficient Post-Training Quantization for Large"
        " Language Models",
        "Migacz 2017, 8-bit Inference with TensorRT (the entropy observer)",
    )
    theory: ClassVar[str] = (
        "Int8 products read a quarter of the bytes and multiply four pairs where float32 multiplies"
        " one; with AMX, tiles of them. When the activations' scale is known before, neighbouring"
        " layers pass int8 to each other, and no pass over memory is left between them. The price"
        " is one scale for all inputs: values beyond the calibrated range are clipped, so the"
        " calibration data has to look like what will come."
    )
    sample: ClassVar[str] = "digits_vision"
    example_workload: ClassVar[dict[str, Any]] = {"batch": 256}
    max_relative_error: ClassVar[float] = 0.1
    probed_kinds: ClassVar[tuple[str, ...]] = ("linear", "conv2d")
    probed_by: ClassVar[tuple[str, ...]] = ()

    @dataclass(frozen=True)
    class Config:
        """Which layers, and how their scales are found."""

        observer: str = param(
            "minmax",
            "How the range of activations is cut: not at all, without one value of ten thousand at"
            " each side, by least squares, or by least divergence.",
            choices=("minmax", "percentile", "mse", "entropy"),
        )  # fmt: skip
        smooth: float = param(
            0.0,
            "SmoothQuant's alpha: how much of the inputs' unevenness goes over to the weights of"
            " Linear layers; 0 leaves it.", low=0.0, high=1.0, step=0.05,
        )  # fmt: skip
        calibration_calls: int = param(
            16, "Calibration examples to observe.", low=1, high=1024, step=8, unit="examples"
        )  # fmt: skip
        exclude: str = param("", f"Layers to leave in floating point: {NAMES}")
        max_layer_error: float = param(
            0.1,
            "A layer whose outputs move further than this on calibration data stays in floating"
            " point.", low=0.0, high=1.0, step=0.01,
        )  # fmt: skip
        min_features: int = param(
            256,
            "Linear layers with fewer inputs or outputs stay in floating point: they gain nothing.",
            low=1, high=65536, step=64, unit="features",
        )  # fmt: skip
        min_channels: int = param(
            16,
            "Convolutions with fewer output channels stay in floating point.",
            low=1, high=65536, step=8, unit="channels",
        )  # fmt: skip

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The layers, the batch norms that can be folded, and whether the kernel is here."""
        from engine.optimize.quantize.static_building import describe_static

        return {"kind": workload.kind, **describe_static(program.module, inputs)}

    def check(self, target: Target) -> tuple[str, ...]:
        """No without layers that are large enough, without the kernel, or away from the CPU."""
        facts = target.facts
        if facts.get("kind") == "train_step":
            return ("int8 layers cannot be trained.",)
        if "layers" not in facts:
            return ()
        if not facts["layers"]:
            already, grouped = facts.get("already", 0), facts.get("other_convolutions", 0)
            return (
                f"all {already} layers are int8 already." if already else
                "the model's convolutions are in groups or padded otherwise than with zeros."
                if grouped else
                "the model has no Linear or Conv2d layers in floating point.",
            )  # fmt: skip
        reasons = []
        if not chosen_layers(facts["layers"], target.config):
            reasons.append(
                "no layer is left: all are excluded, or narrower than min_features"
                f" {target.config.min_features} and min_channels {target.config.min_channels}."
            )
        if facts.get("device", "cpu") != "cpu":
            reasons.append(
                f"its kernels are oneDNN's on the CPU, and the model is on {facts['device']}: take"
                " fp8 or dynamic_int8."
            )
        elif not facts.get("has_kernel", True):
            reasons.append("this build of torch has no oneDNN int8 kernels.")
        return tuple(reasons)

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Products of the chosen layers at int8's pace; norms that are folded cost nothing."""
        layers = chosen_layers(target.facts.get("layers", {}), target.config)
        has_vnni = any(each in target.machine.features for each in _VNNI)
        norms = set(target.facts.get("norms", []))
        rows = [
            self._in_int8(row, target, has_vnni=has_vnni, is_linear=len(layers[row.module]) == 2)
            if is_product(row, layers, "conv")
            else _less(row, 0.0) if row.module in norms else row
            for row in costs.operators
        ]  # fmt: skip
        size = target.facts.get("element_bytes", 4)
        tied = set(target.facts.get("tied", []))
        saved = 0.0
        for name, shape in layers.items():
            elements = 1
            for each in shape:
                elements *= each
            saved += elements * (size * (name not in tied) - 1) - 8 * shape[0]
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
                f"static_int8: {len(layers)} layers in int8, {len(norms)} batch norms folded",
            ),
        )

    def _in_int8(
        self, row: OperatorCost, target: Target, *, has_vnni: bool, is_linear: bool
    ) -> OperatorCost:
        ratio = small_ratio(row.dtype)
        measured = target.measured_ratio(self, row)
        if measured is None:
            pace = _RATIOS["linear" if is_linear else "conv2d", has_vnni]
            return at_pace(row, pace, weight_ratio=ratio, dtype="int8", call_ms=_CALL_MS)
        # Timed alone; a neighbour in int8 spares it the quantization of its input.
        pace = Range(_BETWEEN_NEIGHBOURS * measured.low, measured.high)
        return at_pace(row, pace, weight_ratio=ratio, dtype="int8")

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """The layer with the quantization of its input, as it runs without a neighbour in int8."""
        shape = [product.outputs, product.inputs // product.groups, *product.window]
        if product.device != "cpu" or product.groups != 1:
            return None
        if not chosen_layers({"product": shape}, dataclasses.replace(config, exclude="")):
            return None
        from engine.optimize.quantize.static_int8 import probed

        return probed(product)

    def suggest(self, target: Target) -> Suggestion | None:
        """Where large layers hold much of the time and there is data to calibrate on."""
        layers = chosen_layers(target.facts.get("layers", {}), target.config)
        profile, study = target.profile, target.study
        if not layers or profile is None or self.check(target):
            return None
        if study is None or not study.model.quality_samples:
            return None
        slow = slow_products(profile, layers)
        share, names = slow.share, slow.names
        if share < 0.2:
            return None
        convolutions = sum(len(layers[name]) > 2 for name in names)
        return Suggestion(
            rule="float products where calibrated int8 is faster",
            title="Quantize layers to int8 with calibrated activations",
            summary=(
                f"{share:.0%} of the operators' time is in {convolutions} convolutions and"
                f" {len(names) - convolutions} Linear layers; int8 kernels multiply them faster."
            ),
            steps=(Step(self.name),),
            evidence=(
                Evidence(
                    "share of the operators' time in these layers", 100 * share, "%", names[:50]
                ),
                Evidence(
                    "FLOPs in them", float(sum(each.flops for each in slow.rows)), "FLOPs a run"
                ),
            ),
            risk="medium",
            next_step="Add static_int8 and look at the quality; exclude the layers that hurt.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Folds, observes, replaces, and lets neighbours hand on int8."""
        from engine.optimize.quantize.static_building import make_static_

        program.notes += make_static_(program, context)
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Int8 bytes are held, and int8 kernels ran."""
        from engine.optimize.quantize.realness import INT8, low_precision_realness

        return low_precision_realness(before, after, INT8)


def chosen_layers(layers: dict[str, Any], config: Any) -> dict[str, list[int]]:
    """Layers [out, in, ...] that are wide enough and not excluded."""
    return {
        name: list(shape)
        for name, shape in layers.items()
        if (
            is_wide(name, shape, config) if len(shape) == 2 else
            shape[0] >= config.min_channels and not is_excluded(name, config.exclude)
        )
    }  # fmt: skip


def _less(row: OperatorCost, ratio: float) -> OperatorCost:
    """The row at that part of its cost."""
    return dataclasses.replace(
        row,
        time_low_ms=row.time_low_ms * ratio,
        time_high_ms=row.time_high_ms * ratio,
        overhead_ms=row.overhead_ms * ratio,
        moved_bytes=row.moved_bytes * ratio,
    )
