"""The best of our recipes over the best of torch.compile, torchao, ONNX Runtime and OpenVINO.

Every entrant is built once in a process of its own, which tells its error and its time; the
fastest of both sides at each error limit then play interleaved rounds in one run.

BENCH_SHAPES picks shapes (`decoder 1x128, encoder 1x1`), BENCH_ENTRANTS entrants by parts of their
names (`openvino, OpenVINO`), BENCH_SECONDS what one run may take, and BENCH_FOLDER keeps what is
measured, so that a bench that was stopped goes on with the next shape.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.measure.conductor import Conductor
from engine.measure.environment import child_environment
from engine.measure.plan import Measured, ratio_of
from engine.measure.starting import load
from engine.measure.variant_process import Entrant, VariantFailed, VariantProcess
from tests.benchmarks.peer_models import NAMES, SHAPES, THREADS

RECIPES = (
    "torch_compile",
    "aot_inductor",
    "reduced_precision,aot_inductor",
    "dynamic_int8",
    "dynamic_int8,onnxruntime",
    "onnxruntime",
    "onnxruntime:precision=int8_dynamic",
    "onnxruntime:precision=int8_blocks",
    "openvino:precision=float32",
    "openvino",
    "openvino:precision=int8_weights",
    "openvino:precision=int8",
)
# From tests/benchmarks/peers.py, which needs torch: a test holds them together.
PEERS = (
    "torch.compile", "torch.compile bfloat16", "torchao int8 dynamic, compile",
    "torchao int8 weights bfloat16, compile", "ONNX Runtime", "ONNX Runtime int8 dynamic",
    "OpenVINO", "OpenVINO float32", "OpenVINO int8 weights", "OpenVINO int8",
)  # fmt: skip
LIMITS = (0.001, 0.02)
_FINALISTS = 2
_ROUNDS = 30
_BUILDER = "tests.benchmarks.peers:build"
_SECONDS = float(os.environ.get("BENCH_SECONDS", "120"))


def run() -> dict[str, Any]:
    """One row for each shape and error limit: both sides' best, and the ratio with its interval."""
    every = [f"{name} {shape}" for name in NAMES for shape in SHAPES]
    asked = _listed("BENCH_SHAPES")
    unknown = set(asked) - set(every)
    if unknown:
        raise ValueError(f"BENCH_SHAPES must be of {', '.join(every)}; got {sorted(unknown)[0]!r}.")
    rows: list[dict[str, Any]] = []
    for shape in asked or every:
        rows += _kept(shape)
    lows = [row["low"] for row in rows]
    is_whole = not asked and not _listed("BENCH_ENTRANTS")
    found: dict[str, Any] = {
        "claim": "At each shape and error limit our best is at least 0.98 times as fast as the"
        " best of the peers (lower bound).",
        "rows": rows,
    }
    if is_whole:  # a choice of shapes or entrants judges nothing
        found["holds"] = all(low is not None and low >= 0.98 for low in lows)
    return found


def _kept(shape: str) -> list[dict[str, Any]]:
    """The rows of a shape, measured now or in a bench before that was stopped."""
    folder = os.environ.get("BENCH_FOLDER")
    kept = Path(folder) / f"peers-{shape.replace(' ', '-')}.json" if folder else None
    if kept is not None and kept.exists():
        found: list[dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    rows = _measured(shape)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return rows


def _measured(shape: str) -> list[dict[str, Any]]:
    model, size = shape.split()
    given = {"model": model, "shape": size}
    sides = {
        "ours": [_entrant(name, {**given, "recipe": name}) for name in _picked(RECIPES)],
        "peers": [_entrant(f"peer {name}", {**given, "peer": name}) for name in _picked(PEERS)],
    }
    heats = {side: _heats(entrants) for side, entrants in sides.items()}
    chosen = {(side, limit): finalists(heats[side], limit) for side in sides for limit in LIMITS}
    names = {name for each in chosen.values() for name in each}
    conductor = _final([e for entrants in sides.values() for e in entrants if e.name in names])
    return [_row(shape, limit, chosen, heats, conductor) for limit in LIMITS]


def _listed(variable: str) -> list[str]:
    return [each.strip() for each in os.environ.get(variable, "").split(",") if each.strip()]


def _picked(names: Sequence[str]) -> list[str]:
    parts = _listed("BENCH_ENTRANTS")
    return [name for name in names if not parts or any(part in name for part in parts)]


def finalists(heats: Mapping[str, tuple[float, float]], limit: float) -> list[str]:
    """The fastest within an error limit; `heats` gives the error and milliseconds of each."""
    fitting = [name for name, (error, _) in heats.items() if error <= limit]
    return sorted(fitting, key=lambda name: heats[name][1])[:_FINALISTS]


def _entrant(name: str, arguments: dict[str, Any]) -> Entrant:
    return Entrant(name, _BUILDER, arguments, child_environment(THREADS), threads=THREADS)


def _heats(entrants: Sequence[Entrant]) -> dict[str, tuple[float, float]]:
    """Error and milliseconds of each that can be built here; why another cannot is printed."""
    found = {}
    for entrant in entrants:
        with _started([entrant]) as (process,):
            facts = Measured()
            try:
                load(process, facts)
                conductor = Conductor([process])
                conductor.warm()
                conductor.play(3)
            except VariantFailed as failure:
                _tell(f"{entrant.name}: {failure.record.message}")
                continue
            error = next(
                float(note.removeprefix("error="))
                for note in facts.facts[process.name]["notes"]
                if note.startswith("error=")
            )
            found[entrant.name] = (error, conductor.run_ms[entrant.name])
            _tell(f"{entrant.name}: error {error:.2g}, {conductor.run_ms[entrant.name]:.1f} ms")
    return found


def _final(entrants: Sequence[Entrant]) -> Conductor:
    """Interleaved rounds of all, each in a process of its own."""
    with _started(entrants) as processes:
        for process in processes:
            load(process, Measured())
        conductor = Conductor(processes)
        conductor.warm()
        deadline = time.monotonic() + _SECONDS
        conductor.play(_ROUNDS, until=deadline)
    return conductor


def _row(
    shape: str,
    limit: float,
    chosen: Mapping[tuple[str, float], Sequence[str]],
    heats: Mapping[str, Mapping[str, tuple[float, float]]],
    conductor: Conductor,
) -> dict[str, Any]:
    best = {}
    for side in ("ours", "peers"):
        names = [n for n in chosen[side, limit] if n in conductor.run_ms]
        best[side] = min(names, key=lambda n: _median_ms(conductor, n), default=None)
    row: dict[str, Any] = {"shape": shape, "error limit": f"{limit:.1%}"}
    for side, name in best.items():
        row[side] = (name or "none").removeprefix("peer ")
        row[f"{side} ms"] = _median_ms(conductor, name) if name else None
        row[f"{side} error"] = heats[side][name][0] if name else None
    ours, peer = best["ours"], best["peers"]
    ratio = ratio_of(conductor.samples, peer, ours) if ours and peer else None
    row |= {
        "ratio": ratio.median if ratio else None,
        "low": ratio.low if ratio else None,
        "high": ratio.high if ratio else None,
    }
    return row


def _median_ms(conductor: Conductor, name: str) -> float:
    values = sorted(conductor.samples.rounds[name].values())
    return values[len(values) // 2]


@contextlib.contextmanager
def _started(entrants: Sequence[Entrant]) -> Iterator[list[VariantProcess]]:
    started: list[VariantProcess] = []
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as folder:
        try:
            for number, each in enumerate(entrants):
                started.append(VariantProcess(each, log=Path(folder) / f"{number}.log"))
            yield started
        finally:
            for process in started:
                process.kill()


def _tell(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
