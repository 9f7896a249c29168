"""Which layer hurts: each layer changed alone, by each scheme, measured on calibration data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engine import __version__
from engine.errors import InputError, NumericalFailure, StepRefused, WorkbenchError
from engine.measure.candidates import Candidate, candidates, described, left_out, live_layers
from engine.measure.damage import Damages
from engine.measure.outliers import input_outliers
from engine.measure.single_layer import bits_of, with_changed_layers
from engine.models.opened import OpenedModel
from engine.optimize.train.teaching import example_digest
from engine.program import held_bytes
from engine.records import (
    Machine,
    Sensitivity,
    SensitivityCell,
    SensitivityScheme,
    content_id,
    replace,
    to_plain,
)

EXAMPLES = 16
_OUTLIER_EXAMPLES = 4
Progress = Callable[[float, str], None]


def _silent(fraction: float, words: str) -> None:
    """Nobody is told."""


@dataclass
class Kept:
    """Cells that were measured before, and where new ones go, by their content id."""

    get: Callable[[str], SensitivityCell | None] = lambda id: None
    put: Callable[[str, SensitivityCell], None] = field(default=lambda id, cell: None)


def measure_sensitivity(
    opened: OpenedModel,
    columns: tuple[SensitivityScheme, ...],
    *,
    machine: Machine,
    study: str = "",
    examples: int = EXAMPLES,
    seconds: float | None = None,
    kept: Kept | None = None,
    cache: Path | None = None,
    progress: Progress = _silent,
) -> Sensitivity:
    """The damage and the saved bytes of each cell; what is kept is not measured again.

    Args:
        opened: the model; it is as it was afterwards, bit for bit.
        columns: the schemes.
        machine: where it runs.
        study: the id that it belongs to.
        examples: calibration examples at most.
        seconds: no cell is begun after so long; 0 measures none and gives the forecast alone.
        kept: cells of earlier runs; each new one is put there as soon as it is measured.
        cache: a folder for deterministic results.
        progress: called with a fraction 0 to 1 and a few words.

    Raises:
        InputError: no layer that a scheme changes, or a model that cannot be copied.
        NumericalFailure: the model's own answers are NaN, Inf or constant.
    """
    layers = live_layers(opened.program.module)
    progress(0.0, f"Looking at {len(layers)} layers")
    rows = described(opened.program.module, layers)
    planned = candidates(opened, layers, columns)
    told = kept or Kept()
    with Damages(opened, examples=examples) as damages:
        shown = [*damages.quality.evaluation, *opened.quality.calibration]
        data = [example_digest(each) for each in shown]
        ids = [_cell_id(opened, data, each) if each.step else "" for each in planned]
        known = {id: cell for id in ids if id and (cell := told.get(id)) is not None}
        wanted = len([id for id in ids if id])
        clock = _Clock(wanted - len(known), damages.run_seconds, seconds)
        before = _Before(opened, machine, cache, damages)
        for each, id in zip(planned, ids, strict=True):
            if not id or id in known:
                continue
            if clock.is_over:
                break
            progress(clock.fraction, f"{each.layer}, {each.scheme}: {clock.words}")
            known[id] = before.cell(each)
            told.put(id, known[id])
            clock.spend(known[id].seconds)
        progress(1.0, "Looking at activations")
        seen = input_outliers(
            opened.program, layers,
            damages.quality.evaluation[:_OUTLIER_EXAMPLES],
        )  # fmt: skip
    cells = [
        known[id] if id else SensitivityCell(each.layer, each.scheme, None, reason=each.reason)
        for each, id in zip(planned, ids, strict=True)
        if not id or id in known
    ]
    return Sensitivity(
        study=study,
        model=opened.summary.name,
        schemes=columns,
        layers=tuple(replace(each, inputs=seen.get(each.name)) for each in rows),
        cells=tuple(cells),
        damage_kind=damages.kind,
        examples=damages.examples,
        created=time.time(),
        metric=opened.quality.metric if damages.baseline is not None else "",
        baseline=damages.baseline,
        higher_is_better=opened.quality.higher_is_better,
        missing=wanted - len(known),
        forecast_seconds=clock.left_seconds,
        seconds=sum(each.seconds for each in known.values()),
        run_seconds=damages.run_seconds,
        warnings=_warnings(opened, layers, damages, cells),
    )


class _Before:
    """The opened program, against which each cell is held."""

    def __init__(
        self, opened: OpenedModel, machine: Machine, cache: Path | None, damages: Damages
    ) -> None:
        self.opened, self.machine, self.cache, self.damages = opened, machine, cache, damages
        self.bits = bits_of(opened.program.module)
        self.size = sum(held_bytes(opened.program.module).values())

    def cell(self, wanted: Candidate) -> SensitivityCell:
        """One layer changed alone."""
        began = time.perf_counter()
        found = self._measured(wanted)
        if bits_of(self.opened.program.module) != self.bits:
            raise WorkbenchError(
                f"Trying {wanted.scheme} on {wanted.layer} changed the model's own weights.",
                hint="Open the model again; the cells before this one stand.",
            )
        return replace(found, seconds=time.perf_counter() - began)

    def _measured(self, wanted: Candidate) -> SensitivityCell:
        blank = SensitivityCell(wanted.layer, wanted.scheme, wanted.step, wanted.layers)
        if wanted.step is None:
            return blank
        try:
            program = with_changed_layers(
                self.opened, wanted.step, wanted.layers, machine=self.machine, cache=self.cache
            )
        except (StepRefused, InputError) as error:
            if "cannot be copied" in error.message:
                raise
            return replace(blank, reason=_plain(error, wanted.step.technique))
        saved = self.size - sum(held_bytes(program.module).values())
        try:
            damage = self.damages.of(program)
        except NumericalFailure as error:
            return replace(
                blank,
                saved_bytes=saved,
                is_broken=True,
                reason=f"breaks the model: {error.message}",
            )
        if not saved and not damage.relative_error:
            return replace(blank, reason="changes nothing here")
        return replace(
            blank, damage=damage.value, relative_error=damage.relative_error,
            metric_change=damage.metric_change, saved_bytes=saved,
        )  # fmt: skip


class _Clock:
    """How long the missing cells will take: like a run each at first, then like those before."""

    def __init__(self, cells: int, run_seconds: float, limit: float | None) -> None:
        self.cells, self.done = cells, 0
        self._run, self._spent, self._limit = run_seconds, 0.0, limit

    def spend(self, seconds: float) -> None:
        self.done += 1
        self._spent += seconds

    @property
    def is_over(self) -> bool:
        return self._limit is not None and self._spent >= self._limit

    @property
    def fraction(self) -> float:
        return self.done / max(1, self.cells)

    @property
    def left_seconds(self) -> float:
        each = self._spent / self.done if self.done else self._run
        return each * (self.cells - self.done)

    @property
    def words(self) -> str:
        return f"{self.done} of {self.cells} cells, about {self.left_seconds:.0f} s left"


def _cell_id(opened: OpenedModel, data: list[str], wanted: Candidate) -> str:
    return content_id(
        "cell", opened.summary.content_hash, to_plain(opened.reference),
        to_plain(opened.workload), opened.quality.metric, data, wanted.layer, wanted.scheme,
        to_plain(wanted.step), list(wanted.layers), __version__, str(torch.__version__),
    )  # fmt: skip


def _plain(error: WorkbenchError, technique: str) -> str:
    return error.message.removeprefix(f"{technique}: ").rstrip(".")


def _warnings(
    opened: OpenedModel,
    layers: Mapping[str, Any],
    damages: Damages,
    cells: list[SensitivityCell],
) -> tuple[str, ...]:
    found = list(left_out(opened.program.module, layers))
    if not damages.examples:
        found.append(
            "There is no calibration data: the workload's own inputs stand for it, which are made"
            " up and may tell little."
        )
    elif damages.examples < EXAMPLES and len(opened.quality.calibration) < EXAMPLES:
        found.append(f"There are {damages.examples} calibration examples in all.")
    broken = [each for each in cells if each.is_broken]
    if broken:
        listed = ", ".join(f"{each.layer} ({each.scheme})" for each in broken[:5])
        found.append(f"Broken by what was tried alone, {len(broken)} in all: {listed}.")
    return tuple(found)
