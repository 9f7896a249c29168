"""Runs of our own in a trace: which one is read, and how often each of its phases counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.profile.traces.columns import Columns
from engine.profile.traces.intervals import Numbers
from engine.profile.traces.steps import Steps
from engine.profile.traces.tree import PHASE, RUN, Tree

_NS_PER_MS = 1e6


def median_run(columns: Columns) -> Columns:
    """The run of median length where there are several: one that was disturbed is left aside."""
    runs = np.flatnonzero(columns.named(RUN) & (columns.end > columns.start))
    if len(runs) < 2:
        return columns
    long = columns.end[runs] - columns.start[runs]
    chosen = runs[np.argsort(long, kind="stable")[(len(runs) - 1) // 2]]
    return columns.within(int(columns.start[chosen]), int(columns.end[chosen]))


def weights_of(tree: Tree, weights: Mapping[str, float]) -> Numbers:
    """How often each row counts: as often as its phase."""
    return np.array([weights.get(each, 1.0) for each in tree.phases])[tree.phase]


def phases_ms(tree: Tree, weight: Numbers) -> dict[str, float]:
    """Milliseconds in each phase that the trace marks."""
    found: dict[str, float] = {}
    for row in np.flatnonzero(tree.kind == PHASE).tolist():
        name = tree.columns.names[tree.columns.name[row]].removeprefix(PHASE)
        found[name] = found.get(name, 0.0) + float(tree.long[row] * weight[row]) / _NS_PER_MS
    return found


def run_ms(tree: Tree, steps: Steps, weight: Numbers) -> float:
    """From the first step to the last, each phase as often as it counts."""
    marks = tree.kind == PHASE
    extra = float(((weight[marks] - 1.0) * tree.long[marks]).sum())
    return (steps.high - steps.low + extra) / _NS_PER_MS
