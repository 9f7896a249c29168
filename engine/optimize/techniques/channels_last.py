"""Convolutions on images that lie with their channels last."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.technique import BuildContext, Stage, Target, Technique
from engine.records import Evidence, Fingerprint, Product, Range, Realness, Step, Suggestion

if TYPE_CHECKING:
    from engine.program import Inputs, Program
    from engine.records import Workload

_CONVOLUTION = "conv"
# Share of a convolution's time that is left, from a small network of 3x3 windows at batch 32 (most
# gained) to one with mostly 1x1 windows (least).
_LEFT = Range(0.6, 1.05)
_WORTH = 0.2


class ChannelsLast(Technique):
    """Keep images with their channels last in memory.

    The weights of convolutions over images and volumes are stored so that the channels of a pixel
    lie side by side; convolutions then hand on activations in the same order, and the layers
    between keep it. Shapes, names and results stay as they are. Kernels for CPUs and tensor cores
    work in that order; otherwise they reorder at each layer.
    """

    name: ClassVar[str] = "channels_last"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("fuse_conv_bn",)
    sources: ClassVar[tuple[str, ...]] = (
        "PyTorch tutorials, Channels Last Memory Format in PyTorch",
        "oneDNN documentation, Understanding Memory Formats",
    )
    theory: ClassVar[str] = (
        "A convolution multiplies all channels of a pixel by all channels of the window: side by"
        " side they fill vector registers without gathering. Stored plane by plane, as by default,"
        " a kernel reorders its input before and its output after each layer."
    )
    sample: ClassVar[str] = "digits_vision"

    def inspect(self, program: Program, inputs: Inputs, workload: Workload) -> dict[str, Any]:
        """The convolutions, and which of them lie so already."""
        from engine.optimize.graph.memory_format import describe_convolutions

        return describe_convolutions(program.module)

    def check(self, target: Target) -> tuple[str, ...]:
        """No without convolutions over images or volumes, and where they all lie so already."""
        facts = target.facts
        if "convolutions" not in facts:
            return ()
        if not facts["convolutions"]:
            return ("the model has no convolutions over images or volumes.",)
        left = set(facts["convolutions"]) - set(facts["already"]) - set(facts["either"])
        if left:
            return ()
        if facts["already"]:
            return ("the convolutions' channels are last already.",)
        return ("with one channel or windows of 1x1 both orders are the same.",)

    def estimate(self, costs: CostTable, target: Target) -> CostTable:
        """Convolutions without the reordering around them."""
        names = set(target.facts.get("convolutions", ()))
        if not names:
            return costs
        rows = tuple(
            _reordered(row) if row.module in names and _CONVOLUTION in row.name else row
            for row in costs.operators
        )
        return dataclasses.replace(
            costs,
            operators=rows,
            basis=(
                *costs.basis,
                f"channels_last: {_LEFT.low:.0%} to {_LEFT.high:.0%} of the time of"
                f" {len(names)} convolutions",
            ),
        )

    def probe(self, product: Product, config: Any) -> Callable[[], Any] | None:
        """The convolution with input and weight in that order."""
        if product.kind != "conv2d":
            return None
        import torch

        dtype = getattr(torch, product.dtype)
        options = {"dtype": dtype, "device": product.device}
        x = torch.randn(product.rows, product.inputs, *product.spatial, **options)
        shape = (product.outputs, product.inputs // product.groups, *product.window)
        weight = torch.randn(shape, **options).contiguous(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
        stride, padding = product.stride or (1, 1), product.padding or (0, 0)
        groups = product.groups
        return lambda: torch.conv2d(x, weight, None, stride, padding, (1, 1), groups)

    def suggest(self, target: Target) -> Suggestion | None:
        """Where convolutions take a good part of the time."""
        if target.profile is None or not target.facts.get("convolutions") or self.check(target):
            return None
        names = tuple(target.facts["convolutions"])
        rows = [row for row in target.profile.operators if row.self_time_ms]
        total = sum(row.self_time_ms or 0.0 for row in rows)
        spent = sum(
            row.self_time_ms or 0.0
            for row in rows
            if row.module in names and _CONVOLUTION in row.name
        )
        if not total or spent / total < _WORTH:
            return None
        return Suggestion(
            rule="convolutions plane by plane",
            title="Store images with their channels last",
            summary=(
                f"{spent / total:.0%} of the operators' time is in {len(names)} convolutions that"
                " get their channels plane by plane."
            ),
            steps=(Step(self.name),),
            evidence=(Evidence("time in convolutions", 100 * spent / total, "%", names[:50]),),
            risk="none: the same numbers in another order in memory",
            next_step="Add channels_last after fuse_conv_bn.",
            theory=self.theory,
        )

    def apply(self, program: Program, context: BuildContext) -> Program:
        """Stores the weights so, and compares the outputs."""
        from engine.optimize.graph.memory_format import channels_last_

        count, error = channels_last_(program, context.inputs)
        program.notes.append(
            f"channels_last: {count} convolutions; the outputs move by {error:.1e}."
        )
        return program

    def verify(self, before: Fingerprint, after: Fingerprint) -> Realness:
        """Convolutions gave activations in that order in the run."""
        gained = after.channels_last_calls - before.channels_last_calls
        if gained <= 0:
            return Realness("NO-OP", "no convolution's outputs lie with the channels last", 0.0)
        return Realness("REAL", f"{gained} convolutions gave outputs with the channels last")


def _reordered(row: OperatorCost) -> OperatorCost:
    work_low = max(0.0, row.time_low_ms - row.overhead_ms)
    work_high = max(0.0, row.time_high_ms - row.overhead_ms)
    return dataclasses.replace(
        row,
        time_low_ms=row.overhead_ms + work_low * _LEFT.low,
        time_high_ms=row.overhead_ms + work_high * _LEFT.high,
    )
