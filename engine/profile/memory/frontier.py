"""Batch against size: the peak of any run, derived exactly from a few runs on the meta device.

The sequence of allocations and frees of a run does not depend on its sizes, and each of them is a
polynomial: linear in the batch, of low degree in the length. So the allocations of a few runs give
those of all, event by event, and their highest running sum is the peak. Runs with other sizes
check it. A batch of one stands apart: with a dimension of one, fewer layouts need a copy.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine.models.opened import OpenedModel
from engine.models.source import Sizes
from engine.models.workloads import sizes_of
from engine.profile.counting import count, lives_on_meta
from engine.profile.memory.fits import peak_bytes, spread, terms
from engine.profile.memory.kinds import resident_bytes
from engine.profile.memory.lives import Label
from engine.profile.meta import on_meta
from engine.program import Program
from engine.records import Frontier, FrontierCurve, PeakPiece, Study, Workload

Floats = NDArray[np.float64]
_BATCHES, _CHECKED_BATCH = (2, 3), 5
_EXACT = 0.002  # sums of sizes that are rounded to elements
_MAX_STEPS = 12
_SCALED = 0.02
_WHAT_IF = {"float32": torch.bfloat16, "bfloat16": torch.float32, "float16": torch.float32}
_GRID = tuple(2**power for power in range(1, 13))


@dataclasses.dataclass(frozen=True)
class _Axis:
    """What varies beside the batch."""

    name: str
    unit: str
    step: int
    smallest: int
    largest: int | None
    degree: int
    fitted: tuple[int, ...]
    checked: int


def find_frontier(
    opened: OpenedModel, study: Study, *, progress: Callable[[float, str], None]
) -> Frontier:
    """Which batches and sizes fit, whatever the budget.

    Args:
        opened: the model; it is not run, and its weights are not read.
        study: whose workload is varied.
        progress: called with a fraction 0 to 1 and a few words.
    """
    began = time.monotonic()
    axis = _axis(opened, study)
    batches = "batch" in _axes(opened)
    program = on_meta(opened.program)
    own = study.model.dtype
    curves: list[FrontierCurve] = []
    warnings: list[str] = []
    other = _WHAT_IF.get(own)
    for part, (dtype, cast) in enumerate([(own, None), (str(other), other)]):
        if part and other is None:
            break
        name = dtype.removeprefix("torch.")
        chosen = program if cast is None else _cast(program, cast)
        counted = _Counted(opened, study.workload, chosen, axis)
        progress(0.05 + 0.45 * part, f"Counting peaks in {name}")
        try:
            found = _scaled(curves[0], counted, name) if curves and counted.is_long else None
            curves.append(found or _curve(counted, name, varies_batch=batches))
        except Exception as error:  # a model's own code may refuse a format or a size
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            if not curves:
                raise
            warnings.append(f"{name} could not be counted: {reason}")
    if study.workload.kind != "train_step":
        curves.append(_with_int8_weights(curves[0], program.module))
    return Frontier(
        id=study.id,
        study=study.id,
        axis=axis.name,
        unit=axis.unit,
        step=axis.step,
        smallest=axis.smallest,
        largest=axis.largest,
        curves=tuple(curves),
        created=time.time(),
        seconds=time.monotonic() - began,
        batches=(1, *_GRID) if batches else (study.workload.batch,),
        warnings=tuple(warnings),
    )


class _Counted:
    """Runs of one program with other sizes."""

    def __init__(
        self, opened: OpenedModel, workload: Workload, program: Program, axis: _Axis
    ) -> None:
        self.opened, self.workload, self.program, self.axis = opened, workload, program, axis
        held = resident_bytes(program, ())
        self.weights = held["weights"] + held["buffers"]
        generates = workload.kind == "generate"
        self.is_long = generates and (workload.new_tokens or 1) > _MAX_STEPS

    def events(self, batch: int, size: int) -> Floats:
        """Bytes of every allocation and free of a run, its inputs first; of a long one its peak."""
        workload = self._sized(batch, size)
        inputs = self.opened.extra["make_inputs"](_sizes(workload))
        if self.is_long:
            peak = count(self.program, workload, inputs).memory.peak_tensor_bytes
            return np.array([float(peak - self.weights)])
        lives = lives_on_meta(self.program, workload, inputs)
        blocked = [code for code, each in enumerate(lives.labels) if _grows_by_blocks(each)]
        lives.sizes[np.isin(lives.label, blocked)] = 0
        return np.concatenate(([float(lives.before.get("inputs", 0))], lives.changes()))

    def peak(self, batch: int, size: int) -> int:
        """Peak bytes of a run, counted."""
        return self.weights + int(np.cumsum(self.events(batch, size)).max())

    def _sized(self, batch: int, size: int) -> Workload:
        workload = dataclasses.replace(self.workload, batch=batch)
        if self.axis.name == "image size":
            return dataclasses.replace(workload, image_size=size)
        if self.axis.name != "context":
            return workload
        if workload.kind == "generate":
            return dataclasses.replace(workload, prompt_tokens=size - (workload.new_tokens or 1))
        return dataclasses.replace(workload, sequence_length=size)


def _curve(counted: _Counted, dtype: str, *, varies_batch: bool) -> FrontierCurve:
    axis = counted.axis
    found = FrontierCurve(dtype, counted.weights)
    if not varies_batch:
        batch = counted.workload.batch
        pieces = _pieces(counted, [(batch, size) for size in axis.fitted], linear=False)
        found = dataclasses.replace(found, pieces=pieces or (), first=pieces or ())
        points = [(batch, axis.checked)]
    else:
        first = _pieces(counted, [(1, size) for size in axis.fitted], linear=False)
        several = [(batch, size) for batch in _BATCHES for size in axis.fitted]
        pieces = _pieces(counted, several, linear=True)
        found = dataclasses.replace(found, pieces=pieces or (), first=first or ())
        points = [(1, axis.checked), (_CHECKED_BATCH, axis.checked)]
    checked = []
    for batch, size in points:
        told = peak_bytes(found, batch, size) or 0
        checked.append((batch, size, counted.peak(batch, size), told))
    whole = bool(found.pieces) and bool(found.first)
    if whole and all(abs(told / real - 1) < _EXACT for _, _, real, told in checked):
        return dataclasses.replace(found, checked=tuple(checked))
    return _counted_grid(counted, dtype, varies_batch=varies_batch)


def _scaled(own: FrontierCurve, counted: _Counted, dtype: str) -> FrontierCurve | None:
    """The curve in another format where counting is slow: all but the weights by the item's size.

    One run is counted to check it; None where it is off by more than 2 %.
    """
    ratio = counted.weights / own.weights_bytes
    batch, size = own.checked[-1][:2] if own.checked else (0, 0)

    def of(pieces: tuple[PeakPiece, ...]) -> tuple[PeakPiece, ...]:
        return tuple(
            PeakPiece(each.degree, tuple(ratio * value for value in each.terms)) for each in pieces
        )

    found = FrontierCurve(dtype, counted.weights, of(own.pieces), of(own.first))
    if not batch or not found.pieces:
        return None
    told, real = peak_bytes(found, batch, size) or 0, counted.peak(batch, size)
    if abs(told / real - 1) > _SCALED:
        return None
    return dataclasses.replace(
        found,
        checked=((batch, size, real, told),),
        note=f"Derived from {own.dtype} by the size of a number; one run was counted to check it.",
    )


def _pieces(
    counted: _Counted, points: Sequence[tuple[int, int]], *, linear: bool
) -> tuple[PeakPiece, ...] | None:
    """The moments that can be the peak; None where runs differ in more than sizes."""
    axis = counted.axis
    runs = [counted.events(batch, size) for batch, size in points]
    if len({len(each) for each in runs}) > 1:
        return None
    basis = np.array([terms(b, s, axis.degree, linear=linear) for b, s in points])
    # Scaled by columns: powers of a length of thousands lie far apart.
    scale = np.abs(basis).max(axis=0)
    solved = np.linalg.lstsq(basis / scale, np.stack(runs), rcond=None)[0] / scale[:, None]
    sums = np.cumsum(solved, axis=1)
    sizes = spread(axis.smallest, axis.largest or max(axis.smallest, 1 << 20), 40, axis.step)
    batches = _GRID if linear else (points[0][0],)
    grid = np.array([terms(b, s, axis.degree, linear=linear) for b in batches for s in sizes])
    chosen: list[int] = []
    for rows in np.array_split(grid, max(1, len(grid) * sums.shape[1] // 4_000_000)):
        chosen += np.unique((rows @ sums).argmax(axis=1)).tolist()
    found = []
    for moment in sorted(set(chosen)):
        coefficients = sums[:, moment].tolist()
        coefficients[0] += counted.weights
        found.append(PeakPiece(axis.degree, tuple(float(each) for each in coefficients)))
    return tuple(dict.fromkeys(found))


def _counted_grid(counted: _Counted, dtype: str, *, varies_batch: bool) -> FrontierCurve:
    """Peaks of a few batches and sizes, where no polynomial tells them."""
    axis = counted.axis
    high = axis.largest or max(4 * axis.checked, 4096)
    sizes = spread(axis.smallest, min(high, 8192), 6, axis.step)
    batches = (1, 4, 16, 64) if varies_batch else (counted.workload.batch,)
    found = [(batch, size, counted.peak(batch, size)) for batch in batches for size in sizes]
    note = (
        "Peaks of this model are no polynomial of batch and size: these were counted one by one,"
        " and what lies between takes the next larger one."
    )
    return FrontierCurve(dtype, counted.weights, counted=tuple(found), note=note)


def _axis(opened: OpenedModel, study: Study) -> _Axis:
    workload, axes = study.workload, _axes(opened)
    if workload.kind == "generate" and "sequence_length" in axes:
        return _tokens((workload.new_tokens or 1) + 1, study.model.max_length)
    if workload.kind != "generate" and "sequence_length" in axes:
        return _tokens(2, study.model.max_length)
    if "image_size" in axes and workload.image_size:
        step = int(opened.extra.get("image_divisor") or 32)
        fitted = tuple(step * each for each in (2, 3, 4, 5, 6))
        return _Axis("image size", "px", step, step, None, 4, fitted, 8 * step)
    return _Axis("", "", 1, 1, 1, 0, (1,), 1)


def _tokens(smallest: int, largest: int | None) -> _Axis:
    room = min(largest or 240, smallest + 200) - smallest
    if largest is not None and largest <= smallest + 3:
        return _Axis("", "tokens", 1, smallest, smallest, 0, (smallest,), smallest)
    low = smallest + min(11, room // 4)
    fitted = (low, low + max(1, room // 5), low + max(2, room // 2))
    checked = smallest + room
    return _Axis("context", "tokens", 1, smallest, largest, 2, fitted, checked)


def _grows_by_blocks(label: Label) -> bool:
    """Attention's own buffer, at most 0.6 MiB a thread, is no polynomial: it is left out."""
    return label.category == "workspace" and "flash_attention" in label.operator


def _axes(opened: OpenedModel) -> list[str]:
    return list(opened.extra.get("axes", ()))


def _sizes(workload: Workload) -> Sizes:
    return sizes_of(workload)


def _cast(program: Program, dtype: torch.dtype) -> Program:
    return dataclasses.replace(program, module=copy.deepcopy(program.module).to(dtype))


def _with_int8_weights(curve: FrontierCurve, module: nn.Module) -> FrontierCurve:
    """The curve with the weights of linear layers in int8 and a scale for each output."""
    saved = 0
    seen: set[int] = set()
    for each in module.modules():
        if isinstance(each, nn.Linear) and id(each.weight) not in seen:
            seen.add(id(each.weight))
            held = each.weight.numel() * each.weight.element_size()
            saved += held - each.weight.numel() - 4 * each.weight.shape[0]
    saved = max(0, saved)

    def less(pieces: tuple[PeakPiece, ...]) -> tuple[PeakPiece, ...]:
        return tuple(
            PeakPiece(each.degree, (each.terms[0] - saved, *each.terms[1:])) for each in pieces
        )

    return dataclasses.replace(
        curve,
        dtype="int8 weights",
        weights_bytes=curve.weights_bytes - saved,
        pieces=less(curve.pieces),
        first=less(curve.first),
        counted=tuple((b, s, peak - saved) for b, s, peak in curve.counted),
        checked=(),
        note="Linear layers' weights in int8 with a scale for each output; activations and cache"
        " as they are.",
    )
