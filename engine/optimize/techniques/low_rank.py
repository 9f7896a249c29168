"""Linear layers as two thinner ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.layers import NAMES, is_product, wide_layers
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.params import param
from engine.records import Evidence, Fingerprint, Product, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

# What `factorize.factorizing.describe` notes the ranks for.
_ENERGIES = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_WORTH_SAVING = 0.1
_PROPOSED_ENERGY, _PROPOSED_SHARE = 0.995, 0.15


class LowRank(Technique):
    """Split Linear layers into two of low rank.

    The weight becomes a product of two thin ones, two Linear layers in place of one. Which
    directions stay is decided by what they carry on calibration data (activation-aware SVD), not by
    the weight alone; a bias takes up the mean of what goes. The rank of each layer follows from the
    `energy` that its outputs keep, or from a budget of parameters that all layers share (`keep`),
    spent where a parameter holds most. A rank that would save less than a tenth of a layer's
    weights is not used: that layer stays dense, and so do layers that share their weight.
    """

    name: ClassVar[str] = "low_rank"
    stage: ClassVar[Stage] = "reduce"
    sources: ClassVar[tuple[str, ...]] = (
        "Denton et al. 2014, Exploiting Linear Structure Within Convolutional Networks for"
        " Efficient Evaluation, section 3",
        "Chen et al. 2021, DRONE: Data-aware Low-rank Compression for Large NLP Models, section 3",
        "Wang et al. 2024, SVD-LLM: Truncation-aware Singular Value Decomposition, section 3.1",
    )
    theory: ClassVar[str] = (
        "A product with a [rows, columns] weight costs rows * columns multiply-adds a token, two"
        " factors of rank r cost r * (rows + columns): less only below rows * columns / (rows +"
        " columns), which for a square layer is half of its width. What the directions above the"
        " rank carry is lost. Weights of trained language models are close to full rank, so that"
        " much is lost unless training follows; layers wider than their task needs lose little."
    )
    sample: ClassVar[str] = "digits_vision"
    max_relative_error: ClassVar[float] = 0.6

    @dataclass(frozen=True)
    class Config:
        """How ranks are chosen."""

        by: str = param(
            "energy", "What sets the ranks: the energy that each layer's outputs keep, one budget"
            " of parameters for all layers, or the same share of each layer's parameters.",
            choices=("energy", "budget", "layer"),
        )  # fmt: skip
        energy: float = param(
            0.99, "Share of the energy (mean square) of its outputs that a layer keeps on the"
            " calibration data, with by=energy.", low=0.5, high=0.9999, step=0.005,
        )  # fmt: skip
        keep: float = param(
            0.7, "Share of the layers' parameters that stays, with by=budget or by=layer.",
            low=0.05, high=0.9, step=0.05,
        )  # fmt: skip
        round_to: int = param(
            8, "Ranks are a multiple of this, which kernels like.",
            low=1, high=256, step=8, unit="ranks",
        )  # fmt: skip
        min_features: int = param(
            64, "Layers with fewer inputs or outputs stay dense: a second call costs more than it"
            " saves.", low=1, high=65536, step=64, unit="features",
        )  # fmt: skip
        exclude: str = param("", f"Layers to leave dense: {NAMES}")

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The Linear layers, and which ranks hold most of their outputs."""
        from engine.optimize.factorize.factorizing import describe

        return {"kind": workload.kind, **describe(program, inputs)}

    def check(self, target: Target) -> tuple[str, ...]:
        """No without Linear layers of their own that are large enough, or without weights."""
        facts, config = target.facts, target.config
        if "layers" not in facts:
            return ()
        if not facts["layers"]:
            return ("the model has no Linear layers that could be factored.",)
        if facts.get("on_meta"):
            return ("the weights are not in memory, and factors are made from them.",)
        free = {n: s for n, s in facts["layers"].items() if n not in facts["tied"]}
        if not free:
            return ("every Linear layer shares its weight with another module.",)
        if not _chosen(facts, config):
            largest = max(min(sizes) for sizes in free.values())
            return (
                f"no layer is left: the largest has {largest} features at its narrow side and"
                f" min_features is {config.min_features}.",
            )
        return ()

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Two products instead of one in each layer that gets smaller."""
        ratios = _ratios(target.facts, target.config)
        rows = [_factored(row, ratios) for row in costs.operators]
        gone: dict[str, float] = {}
        for row in costs.operators:
            if is_product(row, ratios):
                gone |= {n: size * (1 - ratios[row.module]) for n, size in row.held.items()}
        saved = sum(gone.values())
        held = costs.weight_bytes - saved
        is_mild = target.config.by == "energy" and target.config.energy >= _PROPOSED_ENERGY
        risk = "medium" if is_mild else "high"
        return dataclasses.replace(
            costs,
            operators=tuple(rows),
            weight_bytes=held,
            peak_low_bytes=max(held, costs.peak_low_bytes - saved),
            peak_high_bytes=max(held, costs.peak_high_bytes - saved),
            quality_risk="high" if costs.quality_risk == "high" else risk,
            basis=(*costs.basis, f"low_rank: {len(ratios)} layers as two products each"),
        )

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """Both thin products; None where the rank is not known from the sizes alone."""
        inputs, outputs = product.inputs, product.outputs
        is_chosen = min(inputs, outputs) >= config.min_features
        if product.kind != "linear" or config.by == "energy" or not is_chosen:
            return None
        import torch
        import torch.nn.functional as F  # noqa: N812

        rank = max(1, int(config.keep * inputs * outputs / (inputs + outputs)))
        dtype = getattr(torch, product.dtype)
        options = {"device": product.device, "dtype": dtype}
        x = torch.randn(product.rows, inputs, **options)
        inner = torch.randn(rank, inputs, **options)
        outer = torch.randn(outputs, rank, **options)
        return lambda: F.linear(F.linear(x, inner), outer)

    def suggest(self, target: Target) -> Suggestion | None:
        """Where layers hold nearly all that they say in far fewer directions."""
        config = self.configure({"energy": _PROPOSED_ENERGY})
        facts, profile = target.facts, target.profile
        ratios = _ratios({**facts, "layers": _measured(facts)}, config)
        if not ratios or profile is None or facts.get("on_meta"):
            return None
        times: dict[str, float] = {}
        for row in profile.operators:
            times[row.module] = times.get(row.module, 0.0) + (row.self_time_ms or 0.0)
        total = sum(times.values())
        spared = {n: (1 - r) * times.get(n, 0.0) / total for n, r in ratios.items() if total}
        if sum(spared.values()) < _PROPOSED_SHARE:
            return None
        names = tuple(sorted(spared, key=spared.__getitem__, reverse=True)[:50])
        return Suggestion(
            rule="layers of low rank",
            title="Split Linear layers that use few directions",
            summary=(
                f"{len(ratios)} Linear layers keep {_PROPOSED_ENERGY:.1%} of their outputs' energy"
                f" at a rank below break-even; {sum(spared.values()):.0%} of the operators' time is"
                " in the products that would go."
            ),
            steps=(Step(self.name, {"energy": _PROPOSED_ENERGY}),),
            evidence=(
                Evidence("time in products that go", 100 * sum(spared.values()), "%", names),
                Evidence("layers below break-even", len(ratios), "layers", names),
            ),
            risk="medium",
            next_step="Add low_rank and watch the quality; train afterwards to recover.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Measures each layer's inputs, chooses the ranks, replaces the layers."""
        from engine.optimize.factorize.factorizing import factorize_

        program.notes += factorize_(program, context)
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Fewer parameters are held, and fewer FLOPs are run."""
        if after.parameters >= before.parameters:
            return Realness("NO-OP", "no parameters are gone", 0.0)
        share = 1 - after.parameters / before.parameters
        detail = f"{before.parameters - after.parameters:,} parameters are gone ({share:.1%})"
        if before.flops and after.flops >= before.flops:
            return Realness("PARTIAL", f"{detail}, but as many FLOPs are run", share)
        if before.flops:
            detail += f", {1 - after.flops / before.flops:.1%} of the FLOPs"
        return Realness("REAL", detail, share)


def _chosen(facts: Any, config: Any) -> dict[str, tuple[int, int]]:
    free = {n: s for n, s in facts.get("layers", {}).items() if n not in facts.get("tied", ())}
    return wide_layers(free, config)


def _measured(facts: Any) -> dict[str, Any]:
    ranks = facts.get("ranks", {})
    return {name: sizes for name, sizes in facts.get("layers", {}).items() if name in ranks}


def _ratios(facts: Any, config: Any) -> dict[str, float]:
    """Parameters after over before of each layer that gets smaller, as far as it is known."""
    found = {}
    for name, (inputs, outputs) in _chosen(facts, config).items():
        if config.by != "energy":
            ratio = float(config.keep)
        elif name in facts.get("ranks", {}):
            at = next(
                (i for i, energy in enumerate(_ENERGIES) if energy >= config.energy),
                len(_ENERGIES) - 1,
            )
            rank = -(-facts["ranks"][name][at] // config.round_to) * config.round_to
            ratio = rank * (inputs + outputs) / (inputs * outputs)
        else:
            continue
        if ratio <= 1 - _WORTH_SAVING:
            found[name] = ratio
    return found


def _factored(row: OperatorCost, ratios: dict[str, float]) -> OperatorCost:
    if not is_product(row, ratios):
        return row
    ratio = ratios[row.module]
    work_low = max(0.0, row.time_low_ms - row.overhead_ms)
    work_high = max(0.0, row.time_high_ms - row.overhead_ms)
    return dataclasses.replace(
        row.scaled_weights(ratio),
        calls=2 * row.calls,
        flops=row.flops * ratio,
        moved_bytes=row.moved_bytes - row.weight_bytes * row.calls * (1 - ratio),
        overhead_ms=2 * row.overhead_ms,
        # Thin products do not get faster in proportion.
        time_low_ms=2 * row.overhead_ms + work_low * ratio,
        time_high_ms=2 * row.overhead_ms + work_high * (ratio + 1) / 2,
    )
