"""What each verb does inside its job; the only room that knows all the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.work.improving import cell, compare, export, optimize, pilot, verify
from engine.work.inspecting import (
    calibrate,
    code,
    frontier,
    graph,
    memory,
    open_study,
    profile,
    trace,
    weights,
)
from engine.work.layering import check_mix, layer_distances, sensitivity
from engine.work.opening import Job

# What most jobs need and what takes seconds to import: a spare worker has it before it has a job.
PRELOADED = ("transformers.modeling_utils", "torch._dynamo")
WORK: dict[str, Callable[[dict[str, Any], Job], Any]] = {
    "open": open_study,
    "profile": profile,
    "code": code,
    "pilot": pilot,
    "graph": graph,
    "optimize": optimize,
    "compare": compare,
    "cell": cell,
    "export": export,
    "verify": verify,
    "trace": trace,
    "memory": memory,
    "frontier": frontier,
    "weights": weights,
    "calibrate": calibrate,
    "sensitivity": sensitivity,
    "check_mix": check_mix,
    "layer_distances": layer_distances,
}
