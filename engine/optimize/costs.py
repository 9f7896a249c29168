"""The cost table: what a program costs for one run, and what a step makes of it; no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engine.records import Range


@dataclass(frozen=True)
class OperatorCost:
    """One row of a cost table: calls of one operator in one module and phase, for one run.

    `time_low_ms` and `time_high_ms` bound the self time; `overhead_ms` is the part of it that does
    not depend on the amount of arithmetic (dispatch, Python), contained in both. `weights` are
    those that the row reads, by name with their bytes: one that several rows read is held once.
    """

    name: str
    module: str
    phase: str
    shapes: str
    dtype: str
    calls: float
    flops: float
    moved_bytes: float
    weight_bytes: float
    time_low_ms: float
    time_high_ms: float
    overhead_ms: float
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def held(self) -> Mapping[str, float]:
        """The row's weights; where they have no names, as one for its operator and module."""
        if self.weights or not self.weight_bytes:
            return self.weights
        return {f"{self.module} {self.name}": self.weight_bytes}

    def scaled_weights(self, ratio: float) -> OperatorCost:
        """The row with so much of its weights' bytes."""
        return dataclasses.replace(
            self,
            weight_bytes=self.weight_bytes * ratio,
            weights={name: size * ratio for name, size in self.weights.items()},
        )


@dataclass(frozen=True)
class CostTable:
    """What a program costs for one run of the workload, as far as it is known or predicted.

    Attributes:
        operators: the rows.
        rest_low_ms, rest_high_ms: time outside operators (Python between them, the loop of
        generate).
        weight_bytes: bytes of parameters and buffers held.
        peak_low_bytes, peak_high_bytes: peak tensor bytes.
        stored_ratio: bytes of the weights over those that an export writes; None for the same.
        quality_risk: the worst so far: "none", "low", "medium" or "high".
        basis: what the figures rest on, in a few words for each step.
    """

    operators: tuple[OperatorCost, ...]
    rest_low_ms: float
    rest_high_ms: float
    weight_bytes: float
    peak_low_bytes: float
    peak_high_bytes: float
    quality_risk: str = "none"
    basis: tuple[str, ...] = ()
    stored_ratio: Range | None = None

    @property
    def time_ms(self) -> Range:
        """The whole run, lowest and highest."""
        low = self.rest_low_ms + sum(each.time_low_ms for each in self.operators)
        high = self.rest_high_ms + sum(each.time_high_ms for each in self.operators)
        return Range(low, high)

    def change(
        self,
        matches: Callable[[OperatorCost], bool],
        *,
        low: float,
        high: float,
        weight_ratio: float = 1.0,
        dtype: str | None = None,
    ) -> CostTable:
        """The table with the matching rows' times multiplied by `low` at best, `high` at worst.

        A weight is held once however many rows read it. One that rows outside read too stays as it
        is, and what the matching rows make of it comes on top.
        """
        rows = []
        inside: dict[str, float] = {}
        outside: set[str] = set()
        for each in self.operators:
            if not matches(each):
                outside |= each.held.keys()
                rows.append(each)
                continue
            inside |= each.held
            rows.append(
                dataclasses.replace(
                    each.scaled_weights(weight_ratio),
                    time_low_ms=each.time_low_ms * low,
                    time_high_ms=each.time_high_ms * high,
                    dtype=dtype or each.dtype,
                )
            )
        saved = 0.0
        if weight_ratio != 1:
            saved = sum(size * ((name not in outside) - weight_ratio)
                        for name, size in inside.items())  # fmt: skip
        held = self.weight_bytes - saved
        return dataclasses.replace(
            self,
            operators=tuple(rows),
            weight_bytes=held,
            peak_low_bytes=max(held, self.peak_low_bytes - saved),
            peak_high_bytes=max(held, self.peak_high_bytes - saved),
        )
