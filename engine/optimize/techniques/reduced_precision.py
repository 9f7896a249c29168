"""16-bit floating point."""

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

_CPU_FEATURES = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
    "float16": ("avx512_fp16", "amx_fp16"),
}
_PRODUCTS = (
    "linear",
    "addmm",
    "::mm",
    "bmm",
    "matmul",
    "convolution",
    "conv2d",
    "scaled_dot_product",
)
# Measured on two cores with AVX-512 BF16, 768-wide decoder: 1.7 to 2.4 times faster in all.
_PRODUCT_LOW, _PRODUCT_HIGH = 0.35, 0.75
_OTHER_LOW, _OTHER_HIGH = 0.6, 1.3


class ReducedPrecision(Technique):
    """Weights and activations in 16 bits.

    The whole module is converted, inputs are cast where they are floating point. bfloat16 keeps the
    range of float32 with 8 bits of precision; float16 has 11 bits, and overflows above 65504.
    Tables of frequencies for rotary positions stay in float32, since a position times a rounded
    frequency is far off. Sums inside products and norms are still taken in float32 by the kernels.
    """

    name: ClassVar[str] = "reduced_precision"
    stage: ClassVar[Stage] = "precision"
    sources: ClassVar[tuple[str, ...]] = (
        "Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training, section 2",
        "Micikevicius et al. 2018, Mixed Precision Training, section 3",
    )
    theory: ClassVar[str] = (
        "Half the bytes are read for each weight and activation, so what is bound by memory takes"
        " half the"
        " time; processors with bf16 or fp16 units also multiply two to sixteen times as many"
        " pairs. Without"
        " such units each product is converted back and forth, and is slower than float32."
    )
    sample: ClassVar[str] = "random_llama"
    max_relative_error: ClassVar[float] = 0.03
    probed_kinds: ClassVar[tuple[str, ...]] = (
        "linear", "conv2d", "attention", "norm", "elementwise", "transcendental", "call",
    )  # fmt: skip
    probed_by: ClassVar[tuple[str, ...]] = ("dtype",)

    @dataclass(frozen=True)
    class Config:
        """Which format."""

        dtype: str = param(
            "bfloat16", "The format: bfloat16 for range, float16 for precision.",
            choices=("bfloat16", "float16"),
        )  # fmt: skip
        exclude: str = param(
            "",
            "Modules to leave in float32, as those that overflow: parts of names, parted by |.",
        )

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """Which formats the weights are held in."""
        from engine.program import held_bytes

        return {
            "kind": workload.kind,
            "dtype_bytes": held_bytes(program.module),
            "device": program.context.device,
        }

    def check(self, target: Target) -> tuple[str, ...]:
        """No where the hardware has no such units, or where nothing is held in float32."""
        facts, wanted = target.facts, target.config.dtype
        held = facts.get("dtype_bytes")
        reasons = []
        if facts.get("kind") == "train_step":
            reasons.append("weights in 16 bits lose small updates: a training step keeps float32.")
        if held is not None and not held.get("float32") and not held.get("float64"):
            reasons.append(f"nothing is held in float32: {', '.join(held) or 'no weights at all'}.")
        reason = _missing(target.machine, str(facts.get("device", "cpu")), wanted)
        return (*reasons, reason) if reason else tuple(reasons)

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Each operator by what was timed here, else by assumption; half the bytes."""

        def is_float(dtype: str) -> bool:
            return "32" in dtype or dtype in ("", "float")

        rows = []
        timed = 0
        for each in costs.operators:
            if not is_float(each.dtype):
                rows.append(each)
                continue
            ratio = target.measured_ratio(self, each)
            if ratio is not None:
                timed += 1
                rows.append(_in_16_bits(each, ratio, target.config.dtype))
                continue
            is_product = any(word in each.name for word in _PRODUCTS)
            low, high = (_PRODUCT_LOW, _PRODUCT_HIGH) if is_product else (_OTHER_LOW, _OTHER_HIGH)
            rows.append(
                dataclasses.replace(
                    each.scaled_weights(0.5),
                    time_low_ms=each.overhead_ms + (each.time_low_ms - each.overhead_ms) * low,
                    time_high_ms=1.1 * each.overhead_ms
                    + (each.time_high_ms - each.overhead_ms) * high,
                    moved_bytes=each.moved_bytes / 2,
                    dtype=target.config.dtype,
                )
            )
        held = target.facts.get("dtype_bytes", {})
        saved = min(costs.weight_bytes, float(held.get("float32", 0))) / 2
        return dataclasses.replace(
            costs,
            operators=tuple(rows),
            weight_bytes=costs.weight_bytes - saved,
            peak_low_bytes=costs.peak_low_bytes / 2,
            peak_high_bytes=costs.peak_high_bytes - saved,
            quality_risk="low" if costs.quality_risk == "none" else costs.quality_risk,
            basis=(
                *costs.basis,
                f"reduced_precision: {timed} of {len(rows)} kinds of call as timed here, other"
                " products at 0.35 to 0.75 of their time (assumed), half the bytes",
            ),
        )

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """The same operator in 16 bits."""
        from engine.profile.product_probes import eager

        return eager(dataclasses.replace(product, dtype=config.dtype))

    def forecast(self, target: Target) -> BuildForecast:
        """Tensor after tensor is converted and the wide one freed."""
        from engine.optimize.needs import needs

        # Measured on a 60 M decoder: 0.05 copies, 1.3 s on a busy machine.
        return needs(target, copies=(0.0, 0.5), seconds=(0.0, 1.0), seconds_per_gb=(0.3, 10.0))

    def suggest(self, target: Target) -> Suggestion | None:
        """Where the hardware has a format that the model does not use and products take time."""
        facts, profile = target.facts, target.profile
        held = facts.get("dtype_bytes", {})
        size = float(held.get("float32", 0))
        if not size or profile is None or facts.get("kind") == "train_step":
            return None
        device = str(facts.get("device", "cpu"))
        if _missing(target.machine, device, "bfloat16"):
            return None
        rows = [each for each in profile.operators if any(word in each.name for word in _PRODUCTS)]
        total = sum(each.self_time_ms or 0.0 for each in profile.operators)
        # A call that is done in microseconds is dispatch, which no number format makes shorter.
        large = [each for each in rows if (each.self_time_ms or 0.0) > 0.03 * each.calls]
        share = sum(each.self_time_ms or 0.0 for each in large) / total if total else 0.0
        if share < 0.25:
            return None
        units = [each for each in _CPU_FEATURES["bfloat16"] if each in target.machine.features]
        names = tuple(dict.fromkeys(each.module for each in large))[:50]
        return Suggestion(
            rule="a precision that the hardware has and the model does not use",
            title="Convert to bfloat16",
            summary=(
                f"The hardware has bf16 units ({', '.join(units) or device}); the model holds"
                f" {size / 1e6:.0f} MB in float32."
            ),
            steps=(Step(self.name),),
            evidence=(
                Evidence("held in float32", size, "bytes"),
                Evidence("share of the operators' time in large products", 100 * share, "%", names),
            ),
            risk="low",
            next_step="Add reduced_precision and look at the quality; float16 has three bits more.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """The module converted in place, with a cast in front where inputs are floating point."""
        from engine.optimize.quantize.half import convert_

        program.notes += convert_(program, context.inputs, context.config)
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """16-bit bytes are held that were 32-bit before."""
        held = after.dtype_bytes.get("bfloat16", 0) + after.dtype_bytes.get("float16", 0)
        had = before.dtype_bytes.get("bfloat16", 0) + before.dtype_bytes.get("float16", 0)
        if held <= had:
            return Realness("NO-OP", "no more is held in 16 bits than before", 0.0)
        share = held / max(1, after.bytes_held)
        left = after.dtype_bytes.get("float32", 0)
        detail = f"{held / 1e6:.1f} MB held in 16 bits, {left / 1e6:.1f} MB in 32"
        return Realness("REAL" if share > 0.5 else "PARTIAL", detail, share)


def _in_16_bits(row: OperatorCost, ratio: Range, dtype: str) -> OperatorCost:
    return dataclasses.replace(
        row.scaled_weights(0.5),
        time_low_ms=row.time_low_ms * ratio.low,
        time_high_ms=row.time_high_ms * ratio.high,
        moved_bytes=row.moved_bytes / 2,
        dtype=dtype,
    )


def _missing(machine: Machine, device: str, dtype: str) -> str | None:
    if device.startswith("cuda"):
        return _missing_on_gpu(machine, dtype)
    if device != "cpu" or any(each in machine.features for each in _CPU_FEATURES[dtype]):
        return None
    listed = " or ".join(_CPU_FEATURES[dtype])
    return f"this CPU has no {dtype} units ({listed}): it would be slower than float32."


def _missing_on_gpu(machine: Machine, dtype: str) -> str | None:
    known = [gpu.capability for gpu in machine.gpus if gpu.capability[:1].isdigit()]
    needed = 8.0 if dtype == "bfloat16" else 7.0
    if known and max(float(each) for each in known) < needed:
        return f"this GPU (capability {known[0]}) has no {dtype} units: it would be slower."
    return None
