"""Weights set to zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.layers import NAMES, is_excluded
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.params import param
from engine.records import Evidence, Fingerprint, Product, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

_PRODUCTS = ("linear", "addmm", "::mm", "matmul")
# As `sparsify.sparsifying` decides, with the measurements that stand there.
_LEAST_SPARSITY = ((16, 0.75), (128, 0.9), (1 << 62, 0.95))
_SMALLEST = 500_000
_SPARSE_KERNELS = ("csr_linear", "semi_structured", "_cslt_sparse_mm")
# Time over dense, float32, one thread, 768 x 768 to 4096 x 1024, at 1 to 512 rows from the
# thresholds above on: 0.08 to 0.9.
_LOW, _HIGH = 0.08, 0.9
# Half of the weights and the positions of the others, 2 bits each, over 16 bits each.
_TWO_OF_FOUR_BYTES = 0.5625
# Not measured: sparse tensor cores do at most twice the multiply-adds (Mishra et al. 2021).
_TWO_OF_FOUR_LOW, _TWO_OF_FOUR_HIGH = 0.55, 1.0


class MagnitudePrune(Technique):
    """Set single weights to zero.

    The weights that contribute least become zero, by their size or by their size times that of
    their input on calibration data (`score`). That alone makes nothing faster or smaller: zeros are
    numbers like others. Time and memory are won only where a sparse kernel runs. On the CPU that is
    a product with sparse rows, which holds nonzero weights alone and pays for large layers from
    about 75 % zeros (few rows) or 90 to 95 % (many); on CUDA GPUs a 2:4 kernel in 16 bits. With
    `kernel=auto` each layer takes a sparse kernel where it pays; the others keep their shape, and
    only a compressed file of them gets smaller.
    """

    name: ClassVar[str] = "magnitude_prune"
    stage: ClassVar[Stage] = "reduce"
    sources: ClassVar[tuple[str, ...]] = (
        "Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks",
        "Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models"
        " (Wanda)",
        "Mishra et al. 2021, Accelerating Sparse Deep Neural Networks (2:4)",
    )
    theory: ClassVar[str] = (
        "A sparse product reads a value and a column for each weight that is left, and cannot use"
        " the registers as a dense one does: it wins where reading weights is the time (few rows)"
        " or where nearly all are zero. 2:4 keeps two of each four neighbours, which tensor cores"
        " multiply at up to twice the pace. Quality falls quickly above 50 % without training."
    )
    sample: ClassVar[str] = "random_llama"
    example: ClassVar[str] = "magnitude_prune:sparsity=0.9"
    max_relative_error: ClassVar[float] = 1.0

    @dataclass(frozen=True)
    class Config:
        """How many zeros, which, and what runs them."""

        sparsity: float = param(
            0.5, "Share of the weights that become zero; 2:4 is always a half.",
            low=0.05, high=0.99, step=0.05,
        )  # fmt: skip
        pattern: str = param(
            "unstructured", "Any weight, or two of each four neighbours.",
            choices=("unstructured", "2of4"),
        )  # fmt: skip
        score: str = param(
            "wanda", "What stays: weights that are large, or large weights of inputs that are large"
            " on calibration data.", choices=("wanda", "magnitude"),
        )  # fmt: skip
        scope: str = param(
            "row", "Where weights are compared: in each output's row, in each layer, or in all"
            " layers together.", choices=("row", "layer", "global"),
        )  # fmt: skip
        kernel: str = param(
            "auto", "What runs the result: sparse rows (csr), 2:4 kernels (semi_structured), dense"
            " kernels, or in each layer what pays.",
            choices=("auto", "dense", "csr", "semi_structured"),
        )  # fmt: skip
        exclude: str = param("", f"Layers to leave whole: {NAMES}")

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The layers, the rows that they multiply, and which sparse kernels are here."""
        from engine.optimize.sparsify.sparsifying import describe

        return {"kind": workload.kind, **describe(program, inputs, workload.kind)}

    def check(self, target: Target) -> tuple[str, ...]:
        """No without layers of their own, and where the asked kernel is not here."""
        facts, config = target.facts, target.config
        if "layers" not in facts:
            return ()
        if facts["on_meta"]:
            return ("the weights are not in memory.",)
        if not _chosen(facts, config):
            return (
                "no Linear or convolution layer is left whose weight is its own"
                + (f" and whose name has none of {config.exclude!r}." if config.exclude else "."),
            )
        return tuple(_kernel_reasons(facts, config))

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Less time and memory where a sparse kernel will run, none elsewhere."""
        facts, config = target.facts, target.config
        kernels = {
            name: _kernel(each, facts, config) for name, each in _chosen(facts, config).items()
        }
        rows, gone = [], dict[str, float]()
        for row in costs.operators:
            kernel = kernels.get(row.module, "dense")
            if kernel == "dense" or not any(each in row.name for each in _PRODUCTS):
                rows.append(row)
                continue
            rows.append(_sparse(row, kernel, config.sparsity))
            gone |= {
                n: s * (1 - _bytes_ratio(kernel, config.sparsity)) for n, s in row.held.items()
            }
        saved = sum(gone.values())
        held = costs.weight_bytes - saved
        sparse = sum(each != "dense" for each in kernels.values())
        is_mild = config.pattern != "2of4" and config.sparsity <= 0.3
        risk = "medium" if is_mild and costs.quality_risk != "high" else "high"
        told = (
            f"{sparse} of {len(kernels)} layers by a sparse kernel" if sparse
            else "no sparse kernel pays here, so zeros change neither time nor memory"
        )  # fmt: skip
        return dataclasses.replace(
            costs,
            operators=tuple(rows),
            weight_bytes=held,
            peak_low_bytes=max(held, costs.peak_low_bytes - saved),
            peak_high_bytes=max(held, costs.peak_high_bytes - saved),
            quality_risk=risk,
            basis=(*costs.basis, f"magnitude_prune: {told}"),
        )

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """The product by sparse rows; None where it stays dense or another kernel runs it."""
        sizes = {"sizes": [product.outputs, product.inputs], "is_linear": True,
                 "rows": product.rows}  # fmt: skip
        facts = {"device": product.device, "dtypes": [product.dtype], "two_of_four": "not probed"}
        if product.kind != "linear" or _kernel(sizes, facts, config) != "csr":
            return None
        import torch

        from engine.optimize.sparsify.csr_layer import CsrLinear

        weight = torch.randn(product.outputs, product.inputs)
        weight *= torch.rand_like(weight) >= config.sparsity
        layer = CsrLinear(product.inputs, product.outputs, 0)
        layer.set_weight(weight)
        x = torch.randn(product.rows, product.inputs)
        return lambda: layer(x)

    def suggest(self, target: Target) -> Suggestion | None:
        """Where most weights are zero already and a sparse kernel is here for them."""
        facts, profile = target.facts, target.profile
        zeros = facts.get("zeros", {})
        if profile is None or not zeros or facts.get("kind") == "train_step":
            return None
        config = self.configure({"sparsity": 0.75})
        names = [
            name for name, share in zeros.items()
            if name in _chosen(facts, config)
            and _kernel(facts["layers"][name], facts, dataclasses.replace(
                config, sparsity=min(0.99, share))) == "csr"
        ]  # fmt: skip
        if not names:
            return None
        least = max(0.05, min(zeros[name] for name in names) - 1e-3)
        step = Step(self.name, {"sparsity": round(least, 3), "score": "magnitude"})
        return Suggestion(
            rule="weights that are zero already",
            title="Hold only the weights that are not zero",
            summary=(
                f"{len(names)} layers hold at least {least:.0%} zeros, which a product with sparse"
                " rows neither reads nor multiplies."
            ),
            steps=(step,),
            evidence=(Evidence("zeros in these layers", 100 * least, "%", tuple(names[:50])),),
            risk="low",
            next_step="Add magnitude_prune and compare the latency.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Scores, sets to zero, and goes over to sparse kernels where they pay."""
        from engine.optimize.sparsify.sparsifying import sparsify_

        program.notes += sparsify_(program, context)
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Zeros are there, and a sparse kernel runs and holds less."""
        kernels = _sparse_calls(after) - _sparse_calls(before)
        if kernels > 0:
            share = 1 - after.bytes_held / max(before.bytes_held, 1)
            detail = f"sparse kernels ran {kernels} products in a short run"
            if share <= 0:
                return Realness("PARTIAL", f"{detail}, but no fewer bytes are held", 0.0)
            return Realness("REAL", f"{detail}, {share:.1%} fewer bytes are held", share)
        zeros = after.zeros - before.zeros
        if zeros <= 0:
            return Realness("NO-OP", "no more weights are zero than before", 0.0)
        share = zeros / max(after.parameters, 1)
        return Realness(
            "PARTIAL",
            f"{zeros:,} more weights are zero ({share:.1%}), held like other numbers: no sparse"
            " kernel ran, so neither time nor memory is won",
            share,
        )


def _sparse_calls(fingerprint: Fingerprint) -> int:
    return max(
        (
            count for name, count in fingerprint.operators.items()
            if any(each in name for each in _SPARSE_KERNELS)
        ),
        default=0,
    )  # fmt: skip


def _chosen(facts: Any, config: Any) -> dict[str, Any]:
    return {
        name: each
        for name, each in facts.get("layers", {}).items()
        if name not in facts["tied"]
        and not is_excluded(name, config.exclude)
        and (config.pattern != "2of4" or (each["is_linear"] and each["sizes"][1] % 4 == 0))
    }


def _kernel_reasons(facts: Any, config: Any) -> list[str]:
    reasons = []
    if config.kernel == "semi_structured":
        if config.pattern != "2of4":
            reasons.append("semi_structured kernels run the pattern 2:4: set pattern=2of4.")
        elif facts["two_of_four"]:
            reasons.append(f"{facts['two_of_four']}.")
    if config.kernel == "csr":
        if facts["device"] != "cpu" or "float32" not in facts["dtypes"]:
            reasons.append(
                f"sparse rows run in float32 on the CPU, and the weights are"
                f" {'/'.join(facts['dtypes'])} on {facts['device']}."
            )
        elif facts["kind"] == "train_step":
            reasons.append("sparse rows cannot be trained: set kernel=dense.")
        elif not any(each["is_linear"] for each in facts["layers"].values()):
            reasons.append("sparse rows run Linear layers, and the model has none.")
    return reasons


def _kernel(layer: Any, facts: Any, config: Any) -> str:
    """What will run a layer, as far as its sizes tell."""
    if config.kernel == "dense" or not layer["is_linear"] or facts.get("kind") == "train_step":
        return "dense"
    if config.pattern == "2of4" and config.kernel in ("auto", "semi_structured"):
        return "dense" if facts["two_of_four"] else "semi_structured"
    if facts["device"] != "cpu" or "float32" not in facts["dtypes"]:
        return "dense"
    outputs, inputs = layer["sizes"]
    least = next(each for limit, each in _LEAST_SPARSITY if layer["rows"] <= limit)
    sparsity = 0.5 if config.pattern == "2of4" else config.sparsity
    pays = outputs * inputs >= _SMALLEST and sparsity >= least
    return "csr" if config.kernel == "csr" or pays else "dense"


def _bytes_ratio(kernel: str, sparsity: float) -> float:
    return _TWO_OF_FOUR_BYTES if kernel == "semi_structured" else 2 * (1 - sparsity)


def _sparse(row: OperatorCost, kernel: str, sparsity: float) -> OperatorCost:
    low, high = (
        (_TWO_OF_FOUR_LOW, _TWO_OF_FOUR_HIGH) if kernel == "semi_structured" else (_LOW, _HIGH)
    )
    ratio = _bytes_ratio(kernel, sparsity)
    work_low = max(0.0, row.time_low_ms - row.overhead_ms)
    work_high = max(0.0, row.time_high_ms - row.overhead_ms)
    return dataclasses.replace(
        row.scaled_weights(ratio),
        time_low_ms=row.overhead_ms + work_low * low,
        time_high_ms=2 * row.overhead_ms + work_high * high,
        moved_bytes=row.moved_bytes - row.weight_bytes * row.calls * (1 - ratio),
    )
