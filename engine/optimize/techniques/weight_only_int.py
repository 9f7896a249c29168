"""Integer weights under floating activations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.layers import NAMES, at_pace, is_product, wide_layers
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.params import param
from engine.records import Evidence, Fingerprint, Product, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

# Over a float32 product of 768 x 1920 with cold weights, one thread with AVX-512: 0.60 by torch's
# int8 kernel for one row, 1.3 unpacked first (that one compiled); the ranges are wider than that.
_FEW_ROWS, _UNPACKED = (0.4, 1.1), (1.0, 3.0)
_KERNEL_ROWS = 8


class WeightOnlyInt(Technique):
    """Integer weights, floating activations.

    Weights of Linear layers are held in 8, 4 or 3 bits, with a scale for each output channel or
    group of inputs; activations are not rounded. `nearest` needs no data; `gptq` makes each
    column's rounding good in the columns after it; `awq` searches how much to scale up the weights
    of strong inputs. For one token at a time torch_compile and aot_inductor turn each product into
    one pass over the packed weights. Run eagerly, only 8 bits per channel have a kernel; all else
    unpacks at each call and is smaller, not faster.
    """

    name: ClassVar[str] = "weight_only_int"
    stage: ClassVar[Stage] = "precision"
    sources: ClassVar[tuple[str, ...]] = (
        "Frantar et al. 2023, GPTQ: Accurate Post-Training Quantization for Generative"
        " Pre-trained Transformers, algorithm 1",
        "Lin et al. 2024, AWQ: Activation-aware Weight Quantization for LLM Compression and"
        " Acceleration, section 3.2",
    )
    theory: ClassVar[str] = (
        "One token at a time reads every weight for one multiply-add: bytes decide, not arithmetic."
        " Weights of 8 bits are a quarter of float32, of 4 bits an eighth, and activations keep"
        " their precision. With many rows a product is bound by arithmetic, which stays floating:"
        " there unpacking costs and nothing is won."
    )
    sample: ClassVar[str] = "random_llama"
    example: ClassVar[str] = "weight_only_int:group_size=64,aot_inductor"
    max_relative_error: ClassVar[float] = 0.05
    probed_kinds: ClassVar[tuple[str, ...]] = ("linear",)
    probed_by: ClassVar[tuple[str, ...]] = ("bits", "group_size", "many_rows")

    @dataclass(frozen=True)
    class Config:
        """Bits, groups, the way to round, and which layers."""

        bits: int = param(8, "Bits of a weight.", choices=(8, 4, 3), unit="bits")
        group_size: int = param(
            0,
            "Inputs that share a scale; 0 takes one scale for each output channel.",
            choices=(0, 32, 64, 128, 256), unit="features",
        )  # fmt: skip
        method: str = param(
            "nearest",
            "How weights are rounded; gptq and awq look at calibration data.",
            choices=("nearest", "gptq", "awq"),
        )
        many_rows: str = param(
            "model",
            "Number format of products with many rows (a prompt): the model's, or bfloat16, which"
            " is faster where the processor has it.",
            choices=("model", "bfloat16"),
        )
        exclude: str = param("", f"Layers to leave in floating point: {NAMES}")
        min_features: int = param(
            64,
            "Layers with fewer inputs or outputs stay in floating point.",
            low=1, high=65536, step=64, unit="features",
        )  # fmt: skip

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The Linear layers in floating point, and how many hold integer weights already."""
        from engine.optimize.quantize.weight_only import describe_weight_only

        return {"kind": workload.kind, **describe_weight_only(program.module)}

    def check(self, target: Target) -> tuple[str, ...]:
        """No without Linear layers that are large enough, and for training."""
        facts = target.facts
        if facts.get("kind") == "train_step":
            return ("integer weights cannot be trained.",)
        if "layers" not in facts:
            return ()
        if not facts["layers"]:
            already = facts.get("weight_only_layers", 0) + facts.get("int8_layers", 0)
            return (
                f"all {already} Linear layers hold integers already." if already else
                "the model has no Linear layers in floating point.",
            )  # fmt: skip
        if not _chosen(target):
            largest = max(min(sizes) for sizes in facts["layers"].values())
            return (
                f"no layer is left: the largest has {largest} features at its narrow side and"
                f" min_features is {target.config.min_features}.",
            )
        return ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Products of few rows by the int8 kernel's pace, all others with unpacking on top."""
        layers, config = _chosen(target), target.config
        size = target.facts.get("element_bytes", 4)
        ratio = bits_held(config.bits, config.group_size) / (8 * size)
        has_kernel = config.bits == 8 and not config.group_size
        rows = []
        for each in costs.operators:
            if not is_product(each, layers):
                rows.append(each)
                continue
            inputs, outputs = layers[each.module]
            tokens = each.flops / max(1.0, each.calls) / (2 * inputs * outputs)
            is_few = has_kernel and tokens <= _KERNEL_ROWS
            measured = target.measured_ratio(self, each)
            rows.append(
                at_pace(each, measured, weight_ratio=ratio, dtype=each.dtype) if measured else
                _rounded_row(each, *(_FEW_ROWS if is_few else _UNPACKED), ratio)
            )  # fmt: skip
        tied = set(target.facts.get("tied", []))
        saved = sum(
            inputs * outputs * size * ((name not in tied) - ratio)
            for name, (inputs, outputs) in layers.items()
        )
        held = costs.weight_bytes - saved
        risk = "low" if config.bits == 8 else "medium" if config.bits == 4 else "high"
        order = ("none", "low", "medium", "high")
        return dataclasses.replace(
            costs,
            operators=tuple(rows),
            weight_bytes=held,
            peak_low_bytes=max(held, costs.peak_low_bytes - saved),
            peak_high_bytes=max(held, costs.peak_high_bytes - saved),
            quality_risk=max(risk, costs.quality_risk, key=order.index),
            basis=(
                *costs.basis,
                f"weight_only_int: {len(layers)} layers at {100 * ratio:.0f} % of their bytes",
            ),
        )

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """The layer run eagerly on made-up weights; None for what stays in floating point."""
        if product.kind != "linear" or min(product.inputs, product.outputs) < config.min_features:
            return None
        import torch

        from engine.optimize.quantize.weight_only import rounded_layer

        dtype = getattr(torch, product.dtype)
        # Rounding by data would cost more than the product that is timed, and change no time.
        nearest = SimpleNamespace(**{**dataclasses.asdict(config), "method": "nearest"})
        dense = torch.nn.Linear(
            product.inputs, product.outputs, bias=False, device=product.device, dtype=dtype
        )
        layer, _ = rounded_layer(dense, nearest)
        x = torch.randn(product.rows, product.inputs, device=product.device, dtype=dtype)

        def run() -> Any:
            with torch.inference_mode():
                return layer(x)

        return run

    def suggest(self, target: Target) -> Suggestion | None:
        """Where reading weights for few rows at a time takes a good part of the time."""
        profile, layers = target.profile, _chosen(target)
        if profile is None or not layers or target.facts.get("kind") != "generate":
            return None
        timed = [each for each in profile.operators if each.self_time_ms and each.calls]
        total = sum(each.self_time_ms or 0.0 for each in timed)
        rows = [
            each for each in timed
            if each.module in layers
            and each.flops / each.calls
            <= 2 * _KERNEL_ROWS * layers[each.module][0] * layers[each.module][1]
        ]  # fmt: skip
        share = sum(each.self_time_ms or 0.0 for each in rows) / total if total else 0.0
        if share < 0.3:
            return None
        names = tuple(sorted({each.module for each in rows}))
        return Suggestion(
            rule="memory-bound decode",
            title="Hold weights in 8 bits",
            summary=(
                f"{share:.0%} of the operators' time is in products of {len(names)} Linear layers"
                " with few rows, which wait for their weights; 8 bits are a quarter of them."
            ),
            steps=(Step(self.name),),
            evidence=(
                Evidence(
                    "share of the operators' time in products of few rows", 100 * share, "%",
                    names[:50],
                ),
            ),
            risk="low",
            next_step="Run it by aot_inductor, which reads the packed weights in one pass.",
            theory=self.theory,
        )  # fmt: skip

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Replaces the chosen layers, the same layer in two places once."""
        from engine.optimize.quantize.weight_only import round_layers_

        program.notes += round_layers_(program, context)
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Integer bytes are held; real where an integer kernel ran, partial where they unpack."""
        held, earlier = (
            each.dtype_bytes.get("int8", 0) + each.dtype_bytes.get("uint8", 0)
            for each in (after, before)
        )
        if held <= earlier:
            return Realness("NO-OP", "no weights are held in integers", 0.0)
        share = held / max(1, after.bytes_held)
        detail = f"{held / 1e6:.2f} MB of weights held in integers"
        if after.bytes_held > before.bytes_held:
            return Realness("PARTIAL", f"{detail}; more bytes are held than before", share)
        kernels = sum(n for name, n in after.operators.items() if "_weight_int8pack_mm" in name)
        if kernels:
            return Realness("REAL", f"{detail}, {kernels} int8 products in a short run", share)
        return Realness(
            "PARTIAL",
            f"{detail}; run eagerly they are unpacked at each call: smaller, not faster",
            share,
        )


def bits_held(bits: int, group_size: int) -> float:
    """Bits held for each weight, scales and offsets of its group included (16 bits each)."""
    numbers = 1 if bits == 8 else 2
    return bits + (16 * numbers / group_size if group_size else 0)


def _chosen(target: Target) -> dict[str, tuple[int, int]]:
    return wide_layers(target.facts.get("layers", {}), target.config)


def _rounded_row(row: OperatorCost, low: float, high: float, ratio: float) -> OperatorCost:
    work_low = max(0.0, row.time_low_ms - row.overhead_ms)
    work_high = max(0.0, row.time_high_ms - row.overhead_ms)
    return dataclasses.replace(
        row.scaled_weights(ratio),
        time_low_ms=row.overhead_ms + work_low * low,
        # Casts and scales are operators of their own: two more calls.
        time_high_ms=3 * row.overhead_ms + work_high * high,
        moved_bytes=row.moved_bytes - row.weight_bytes * row.calls * (1 - ratio),
    )
