"""Linear layers on the same input joined into one product."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import StepRefused
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.layers import NAMES, is_excluded
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.params import param
from engine.records import Evidence, Fingerprint, Range, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

_PRODUCTS = ("linear", "addmm", "aten::mm", "matmul")
# Time of the arithmetic that is left: one wide product for several narrow ones, whose outputs are
# then read with a stride. Measured for widths of 64 to 768 on 1 to 256 rows.
_WORK = Range(0.85, 1.03)
# What cutting the outputs apart costs beside one call of a layer.
_CUTTING = 0.3
_WORTH = 0.02


class FuseQkv(Technique):
    """Join layers that read the same input into one product.

    Queries, keys and values, and gate and up of a gated feed-forward, are Linear layers on one
    input: their weights are put below each other once, one product gives the outputs of all, and
    each layer's place takes its part of them. Siblings are found in a run, by the very tensor that
    they get, in any architecture; biases, fewer key heads and blocks that are used several times
    are kept as they are. The joint weight is a plain Linear, so quantization, a cache and compilers
    go on from there.
    """

    name: ClassVar[str] = "fuse_qkv"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("fuse_attention",)
    sources: ClassVar[tuple[str, ...]] = (
        "Shoeybi et al. 2019, Megatron-LM, section 3",
        "Vaswani et al. 2017, Attention Is All You Need, section 3.2.2",
    )
    theory: ClassVar[str] = (
        "Each product has a price for its launch and reads its whole input. Three on one input pay"
        " three times; side by side they are one with wider weights and the same FLOPs. Small"
        " layers gain most: there the launch is most of the time. Large products gain little."
    )
    sample: ClassVar[str] = "tiny_gpt"

    @dataclass(frozen=True)
    class Config:
        """Which layers."""

        exclude: str = param("", f"Layers to leave apart: {NAMES}")

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The groups of siblings."""
        from engine.optimize.graph.siblings import find_siblings

        groups, refused = find_siblings(program, inputs)
        return {"groups": [list(each) for each in groups], "refused": refused}

    def check(self, target: Target) -> tuple[str, ...]:
        """No where no two Linear layers read the same tensor."""
        facts = target.facts
        if "groups" not in facts or _chosen(facts["groups"], target.config):
            return ()
        if facts["groups"]:
            return (f"exclude={target.config.exclude} leaves no two layers to join.",)
        if facts.get("refused"):
            name, reason = next(iter(facts["refused"].items()))
            return (f"no layers can be joined: {name}, {reason}.",)
        return ("no two Linear layers read the same tensor.",)

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """One call's overhead for each group instead of one for each layer."""
        groups = _apart(_chosen(target.facts.get("groups", ()), target.config), target)
        sizes = {name: len(group) for group in groups for name in group}
        if not sizes:
            return costs
        rows = tuple(
            _joined(row, sizes[row.module])
            if row.module in sizes and any(each in row.name for each in _PRODUCTS)
            else row
            for row in costs.operators
        )
        return dataclasses.replace(
            costs,
            operators=rows,
            basis=(
                *costs.basis,
                f"fuse_qkv: {len(sizes)} calls become {len(groups)}; {_WORK.low:.2f} to"
                f" {_WORK.high:.2f} of their arithmetic's time",
            ),
        )

    def suggest(self, target: Target) -> Suggestion | None:
        """Where the calls that go away are a good part of the time."""
        groups = _apart(_chosen(target.facts.get("groups", ()), target.config), target)
        if not groups or target.profile is None:
            return None
        sizes = {name: len(group) for group in groups for name in group}
        rows = [row for row in target.profile.operators if row.self_time_ms]
        total = sum(row.self_time_ms or 0.0 for row in rows)
        from engine.advise.costs import call_overhead_ms

        launch = call_overhead_ms(target.profile)
        saved = sum(
            launch * row.calls * (1 - 1 / sizes[row.module])
            for row in rows
            if row.module in sizes and any(each in row.name for each in _PRODUCTS)
        )
        if not total or saved / total < _WORTH:
            return None
        names = tuple(sizes)
        return Suggestion(
            rule="linear layers on the same input",
            title="Join Linear layers that read the same input",
            summary=f"{len(sizes)} Linear layers in {len(groups)} groups read the same tensors.",
            steps=(Step(self.name),),
            evidence=(
                Evidence("layers that become one with others", float(len(sizes)), "layers", names),
                Evidence("launches that go away", 100 * saved / total, "% of the time", names),
            ),
            risk="none: the same sums, compared when it is built",
            next_step="Add fuse_qkv; it goes well before kv_cache, quantization and a compiler.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Joins every group that was seen, and compares the outputs."""
        from engine.optimize.graph.siblings import find_siblings, join_

        found, refused = find_siblings(program, context.inputs)
        groups = _chosen([list(each) for each in found], context.config)
        if not groups:
            raise StepRefused("fuse_qkv: no two Linear layers read the same tensor.")
        error = join_(program, context.inputs, [tuple(each) for each in groups])
        count = sum(len(each) for each in groups)
        program.notes.append(
            f"fuse_qkv: {count} Linear layers are {len(groups)} products; the outputs move by"
            f" {error:.1e}."
        )
        program.notes += [
            f"fuse_qkv: {name} was left: {reason}." for name, reason in refused.items()
        ]
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Fewer products run for the same FLOPs."""
        ran, left = _products(before), _products(after)
        if left >= ran:
            return Realness("NO-OP", "as many products run as before", 0.0)
        return Realness("REAL", f"{left} products run instead of {ran}")


def _products(fingerprint: Fingerprint) -> int:
    return fingerprint.operators.get("aten::linear", 0)


def _chosen(groups: Any, config: Any) -> list[list[str]]:
    kept = [[name for name in group if not is_excluded(name, config.exclude)] for group in groups]
    return [group for group in kept if len(group) > 1]


def _apart(groups: list[list[str]], target: Target) -> list[list[str]]:
    """The groups that fuse_attention, where it is in the recipe or fits better, does not join."""
    facts = target.profile.facts.get("fuse_attention", {}) if target.profile else {}
    owners = tuple(f"{each}." for each in facts.get("handmade", ()) if each)
    return [group for group in groups if not all(name.startswith(owners) for name in group)]


def _joined(row: OperatorCost, siblings: int) -> OperatorCost:
    kept = min(1.0, (1 + _CUTTING) / siblings)
    work_low = max(0.0, row.time_low_ms - row.overhead_ms)
    work_high = max(0.0, row.time_high_ms - row.overhead_ms)
    return dataclasses.replace(
        row,
        calls=row.calls / siblings,
        overhead_ms=row.overhead_ms * kept,
        time_low_ms=row.overhead_ms * kept + work_low * _WORK.low,
        time_high_ms=row.overhead_ms + work_high * _WORK.high,
    )
