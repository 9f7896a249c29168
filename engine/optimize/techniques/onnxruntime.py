"""The model as an ONNX graph, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.optimize.techniques.torch_compile import overhead_evidence
from engine.params import param
from engine.records import Evidence, Fingerprint, Product, Range, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

# Python and torch's dispatch are gone: one call runs the whole graph.
_OVERHEAD = Range(0.05, 0.4)
# Time of products over eager float32, and bytes of the weights. One thread of a busy machine with
# AVX-512 VNNI, 768 to 768 and to 3072: float32 0.7 to 1.2, int8_dynamic 0.39 at one row and 0.23 at
# 128; int4_blocks at 128 rows 1.35 at best.
_PRODUCTS = {
    "float32": (Range(0.7, 1.1), 1.0),
    "int8_dynamic": (Range(0.15, 0.7), 0.25),
    "int8_blocks": (Range(0.25, 1.1), 0.26),
    "int4_blocks": (Range(0.25, 2.0), 0.14),
}
_REST = Range(0.4, 1.1)


class OnnxRuntime(Technique):
    """Run the model in ONNX Runtime.

    The forward (prefill and step of a decoder with a cache) is exported to ONNX for any batch and
    length, its operators are fused by ONNX Runtime and run by its own kernels and threads. Its
    quantizers make products with constant weights smaller: int8_dynamic with one scale for each
    output channel and one for all activations of a call, int8_blocks and int4_blocks with a scale
    for each block of weights; int4_blocks is for one token at a time, many rows are slower than in
    float32. Steps before it keep their meaning: the layers that dynamic_int8
    planned run in ONNX Runtime's integer operators with a scale for each row.
    """

    name: ClassVar[str] = "onnxruntime"
    stage: ClassVar[Stage] = "runtime"
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    sources: ClassVar[tuple[str, ...]] = (
        "ONNX Runtime documentation, Graph Optimizations",
        "ONNX Runtime documentation, Quantize ONNX Models",
    )
    theory: ClassVar[str] = (
        "A graph that is known as a whole needs no Python and no dispatch between its operators,"
        " and neighbours become one kernel (attention, LayerNorm, GELU). Small models win most."
        " Large products run as fast as in torch, unless they are done in int8."
    )
    sample: ClassVar[str] = "digits_vision"
    max_relative_error: ClassVar[float] = 1e-3

    @dataclass(frozen=True)
    class Config:
        """Number format of the products."""

        precision: str = param(
            "float32",
            "What products with constant weights are computed in.",
            choices=tuple(_PRODUCTS),
        )

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The workload, where it runs and which number formats are held."""
        return runtime_facts(program, workload)

    def check(self, target: Target) -> tuple[str, ...]:
        """No without the packages, off the CPU, in 16 bits, and where two plans meet."""
        from engine.runtimes.onnxruntime import OnnxRuntime as Runtime

        reasons = [*Runtime().check(target.machine), *refusals(target, "ONNX Runtime", _REALIZED)]
        formats = target.facts.get("formats", {})
        small = [name for name in ("bfloat16", "float16") if name in formats]
        if small:
            reasons.append(
                f"ONNX Runtime's CPU provider has no {small[0]} matrix kernels: drop that step."
            )
        precision = target.config.precision
        planned = [step.technique for step in target.steps if step.technique in _REALIZED]
        if planned and precision != "float32":
            reasons.append(
                f"{planned[0]} planned int8 already, and precision {precision} plans again: keep"
                " one of the two."
            )
        if precision != "float32" and formats and not target.facts.get("matrices"):
            reasons.append(f"the model has no weights that {precision} would shrink.")
        return tuple(reasons)

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Nearly no overhead; products as their number format allows."""
        ratio, weights = _PRODUCTS[target.config.precision]
        risk = "none" if target.config.precision == "float32" else "medium"
        return engine_costs(
            costs, self.name, _OVERHEAD, ratio, _REST, weight_ratio=weights, risk=risk
        )

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """A graph of this one product, in a session with the product's threads."""
        from engine.inference.probing import onnx_product

        return onnx_product(product, config.precision)

    def suggest(self, target: Target) -> Suggestion | None:
        """Worth it where dispatch takes a good part of the time."""
        found = overhead_evidence(target)
        if found is None or self.check(target):
            return None
        return engine_suggestion(self, "ONNX Runtime", found, Step(self.name))

    def apply(self, program: Program, context: BuildContext) -> Program:
        """The program run by ONNX Runtime."""
        from engine.runtimes.onnxruntime import OnnxRuntime as Runtime

        return Runtime().prepare(program, context)

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Its kernels ran; where int8 weights are held, in int8 kernels."""
        return engine_realness(after, self.name)


_REALIZED = ("dynamic_int8",)


def runtime_facts(program: Program, workload: Workload) -> dict[str, Any]:
    """What an engine has to know of a program; plain JSON."""
    from torch import nn

    from engine.program import held_bytes

    # Whatever holds a matrix and is no table may be a product's.
    matrices = sum(
        each.dim() > 1
        for owner in program.module.modules()
        if not isinstance(owner, nn.Embedding)
        for each in (*owner.parameters(recurse=False), *owner.buffers(recurse=False))
        if each.is_floating_point()
    )
    return {
        "kind": workload.kind,
        "device": program.context.device,
        "offloads": bool(program.context.device_map),
        "formats": held_bytes(program.module),
        "matrices": matrices,
        "keeps_cache": bool(program.decoder and program.decoder.keeps_cache),
    }


def refusals(target: Target, engine: str, realized: tuple[str, ...]) -> tuple[str, ...]:
    """Why an engine on the CPU cannot take it over: training, devices, plans beyond its kernels."""
    from engine.optimize.technique import technique

    facts = target.facts
    kind = facts.get("kind") or (target.study.workload.kind if target.study else "")
    reasons = []
    if kind == "train_step":
        reasons.append(f"{engine} computes no gradients: use torch_compile.")
    device = str(facts.get("device", "cpu"))
    if device != "cpu" or facts.get("offloads"):
        where = device if device != "cpu" else "offloaded weights"
        reasons.append(f"{engine} runs on the CPU alone here, and the model is on {where}.")
    reasons += [
        f"{engine} has no kernels for what {step.technique} plans: drop that step."
        for step in target.steps
        if technique(step.technique).stage == "precision" and step.technique not in realized
    ]
    return tuple(reasons)


def engine_costs(
    costs: CostTable,
    name: str,
    overhead: Range,
    products: Range,
    rest: Range,
    *,
    weight_ratio: float,
    risk: str,
) -> CostTable:
    """The cost table where an engine leaves shares of overhead, products and the rest."""
    import dataclasses

    def changed(row: Any) -> Any:
        is_product = any(word in row.name for word in ("linear", "addmm", "::mm", "conv", "matmul"))
        share = products if is_product else rest
        low = max(0.0, row.time_low_ms - row.overhead_ms) * share.low
        high = max(0.0, row.time_high_ms - row.overhead_ms) * share.high
        kept = row.scaled_weights(weight_ratio) if is_product else row
        return dataclasses.replace(
            kept,
            overhead_ms=row.overhead_ms * overhead.low,
            time_low_ms=row.overhead_ms * overhead.low + low,
            time_high_ms=row.overhead_ms * overhead.high + high,
        )

    rows = tuple(changed(row) for row in costs.operators)
    saved = _weight_bytes(costs.operators) - _weight_bytes(rows)
    return dataclasses.replace(
        costs,
        operators=rows,
        rest_low_ms=costs.rest_low_ms * overhead.low,
        rest_high_ms=costs.rest_high_ms * 0.8,
        weight_bytes=max(0.0, costs.weight_bytes - saved),
        peak_low_bytes=max(0.0, costs.peak_low_bytes - saved) / 2,
        quality_risk=risk if costs.quality_risk == "none" else costs.quality_risk,
        basis=(
            *costs.basis,
            f"{name}: products at {products.low:.2f} to {products.high:.2f} of their time,"
            f" {overhead.low:.0%} to {overhead.high:.0%} of the overhead left",
        ),
    )


def engine_suggestion(
    owner: Technique, engine: str, found: tuple[Evidence, ...], step: Step
) -> Suggestion:
    """The suggestion to run the whole graph in an engine."""
    return Suggestion(
        rule="tiny operators",
        title=f"Run the model in {engine}",
        summary=(
            "Much of the time goes to launching operators, not to their arithmetic; an engine runs"
            " the whole graph in one call."
        ),
        steps=(step,),
        evidence=found,
        risk="none: float32 as before; writing the graph takes seconds to a minute",
        next_step=f"Compare {owner.name} with aot_inductor: both run the graph without Python.",
        theory=owner.theory,
    )


def engine_realness(after: Fingerprint, name: str) -> Realness:
    """Real where the engine's kernels ran, and int8 weights were read by kernels made for them."""
    kernels = {key: n for key, n in after.operators.items() if key.startswith(f"{name}::")}
    if after.runtime != name or not kernels:
        return Realness("NO-OP", f"The program is run by {after.runtime}.", 0.0)
    ran = f"{sum(kernels.values())} kernels of {name} ran"
    held = sum(after.dtype_bytes.get(each, 0) for each in ("int8", "uint8", "int4", "uint4"))
    if held * 10 < after.bytes_held:  # scales, masks and lookup tables are no plan
        return Realness("REAL", ran)
    share = after.low_precision_flops_share
    small = f"{held / 1e6:.1f} MB held in at most 8 bits"
    if share > 0:
        return Realness("REAL", f"{ran}; {small}; {share:.0%} of the products in integers", share)
    fitted = sum(n for key, n in kernels.items() if _reads_small_weights(key))
    if fitted:
        detail = f"{ran}; {small}, read by {fitted} products that compute in floating point"
        return Realness("REAL", detail)
    return Realness("SIMULATED", f"{ran}; {small}, but no product reads them so", 0.0)


def _reads_small_weights(kernel: str) -> bool:
    return kernel.endswith(("i8 weights", "u8 weights", "i4 weights", "u4 weights"))


def _weight_bytes(rows: tuple[Any, ...]) -> float:
    held: Mapping[str, float] = {}
    for row in rows:
        held = {**row.held, **held}
    return sum(held.values())
