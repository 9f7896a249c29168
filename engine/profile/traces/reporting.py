"""The report of a trace, or of the traces of several ranks of one job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.errors import InputError
from engine.profile.traces.columns import Columns
from engine.profile.traces.counted import Counted
from engine.profile.traces.decoding import read_columns
from engine.profile.traces.devices import device_reports, devices_of
from engine.profile.traces.drawn import drawn_events
from engine.profile.traces.findings import findings_of
from engine.profile.traces.kernels import collective_rows, copy_rows, kernel_rows
from engine.profile.traces.modules import module_rows
from engine.profile.traces.operators import operator_rows, operator_times
from engine.profile.traces.ranks import Collectives, collectives_of, stragglers
from engine.profile.traces.runs import median_run, phases_ms, run_ms, weights_of
from engine.profile.traces.series import series_of
from engine.profile.traces.steps import mean_shares, parts_of, step_records, steps_of
from engine.profile.traces.timeline import write_timeline
from engine.profile.traces.tree import Tree, build_tree
from engine.records.costs import ModuleProfile, OperatorProfile
from engine.records.encoding import content_id
from engine.records.traces import RankReport, TraceReport

Progress = Callable[[float, str], None]
_SUFFIXES = (".json", ".json.gz")
_MOST_RANKS = 64
_EARLIEST = 1.4e9  # seconds since the epoch, years before the first trace of this format
_MOST_ROWS = 5_000
_PACKED = 12  # gzip makes about that much of a trace


@dataclass(frozen=True)
class _Read:
    rank: RankReport
    collectives: Collectives


def report(
    path: Path,
    *,
    name: str = "",
    study: str | None = None,
    timeline_folder: Path | None = None,
    weights: Mapping[str, float] | None = None,
    modules: Sequence[ModuleProfile] = (),
    operators: Sequence[OperatorProfile] = (),
    progress: Progress = lambda fraction, words: None,
) -> TraceReport:
    """Reads a trace, or every trace in a folder as the ranks of one job.

    Args:
        path: a `.json` or `.json.gz` file, or a folder of them.
        name: what to call it; the file's name by default.
        study: whose run it is, for one of our own.
        timeline_folder: where the files that the timeline draws from are written.
        weights: how many times each phase counts, where the trace holds only a part of it.
        modules: counts of the same modules, from the study's profile.
        operators: counts of the same operators.
        progress: called with a fraction 0 to 1 and a few words.

    Raises:
        InputError: a file that is missing, empty, cut short or no trace, or a folder without any,
            in one line.
    """
    began = time.monotonic()
    counted = Counted(modules, operators)
    files = trace_files(path)
    identity = study or content_id(str(path.absolute()), [_stamp(each) for each in files])
    found: list[_Read] = []
    warnings: list[str] = []
    for at, file in enumerate(files):
        low, size = at / len(files), 1 / len(files)

        def part(fraction: float, words: str, low: float = low, size: float = size) -> None:
            progress(low + size * fraction, words)

        timeline = timeline_folder / f"{identity}-{at}.timeline" if timeline_folder else None
        try:
            found.append(_read(file, weights or {}, counted, timeline, part))
        except InputError as error:
            if len(files) == 1:
                raise
            warnings.append(error.message)
    if not found:
        raise InputError(f"{path.name} holds no trace that can be read: {warnings[0]}")
    found.sort(key=lambda each: (each.rank.rank is None, each.rank.rank or 0))
    ranks = tuple(each.rank for each in found)
    late = stragglers(ranks, [each.collectives for each in found])
    return TraceReport(
        id=identity,
        name=name or path.name,
        ranks=ranks,
        findings=findings_of(ranks, late),
        created=time.time(),
        seconds=time.monotonic() - began,
        stragglers=late,
        study=study,
        warnings=tuple(warnings),
    )


def trace_files(path: Path) -> list[Path]:
    """The file itself, or the traces in a folder.

    Raises:
        InputError: nothing there, or too many.
    """
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.iterdir() if each.name.endswith(_SUFFIXES))
    if not found:
        raise InputError(f"{path.name} holds no .json or .json.gz file.")
    if len(found) > _MOST_RANKS:
        raise InputError(
            f"{path.name} holds {len(found)} traces, more than {_MOST_RANKS}.",
            hint="Put the ranks that matter into a folder of their own.",
        )
    return found


def _read(
    file: Path,
    weights: Mapping[str, float],
    counted: Counted,
    timeline: Path | None,
    progress: Progress,
) -> _Read:
    size = max(1, file.stat().st_size if file.exists() else 1)
    size *= _PACKED if file.name.endswith(".gz") else 1
    columns = read_columns(
        file, progress=lambda read: progress(min(0.6, 0.6 * read / size), f"Reading {file.name}")
    )
    progress(0.6, f"Adding up {file.name}")
    tree = build_tree(median_run(columns))
    rank, collectives = _rank(file, tree, weights, counted)
    if timeline is not None:
        progress(0.9, f"Drawing {file.name}")
        timeline.parent.mkdir(parents=True, exist_ok=True)
        write_timeline(timeline, drawn_events(tree))
        rank = replace(rank, timeline=str(timeline))
    return _Read(rank, collectives)


def _rank(
    file: Path, tree: Tree, weights: Mapping[str, float], counted: Counted
) -> tuple[RankReport, Collectives]:
    columns = tree.columns
    steps, parts = steps_of(tree), parts_of(tree)
    weight = weights_of(tree, weights)
    devices = devices_of(tree)
    stacks: dict[int, int] = {}
    operators, left_out = operator_rows(
        tree, operator_times(tree), weight, stacks, most=_MOST_ROWS if not counted.modules else None
    )
    operators = counted.in_operators(operators)
    rows = counted.in_modules(module_rows(tree, weight))
    length = run_ms(tree, steps, weight)
    own = sum(each.self_ms for each in rows)
    facts = columns.facts
    rank = RankReport(
        rank=facts.rank,
        worker=facts.host or _worker(file),
        file=str(file),
        events=columns.read,
        span_ms=length,
        shares=mean_shares(steps, parts, length if weights else None),
        steps=step_records(steps, parts),
        phases_ms=phases_ms(tree, weight),
        outside_modules_ms=max(0.0, length - own) if rows and not steps.are_marked else None,
        world_size=facts.world_size,
        devices=device_reports(tree, steps, devices),
        operators=operators,
        kernels=kernel_rows(tree),
        modules=rows,
        stacks=tuple(columns.texts[each] for each in stacks),
        copies=copy_rows(tree),
        collectives=collective_rows(tree),
        series=series_of(tree, devices),
        lacks=_lacks(columns, has_modules=bool(rows)),
        left_out=left_out,
        warnings=_warnings(columns),
        started=_started(columns),
    )
    return rank, collectives_of(tree, steps)


def _lacks(columns: Columns, *, has_modules: bool) -> tuple[str, ...]:
    """What the trace was recorded without, and what would record it."""
    found = []
    if not columns.shapes.any():
        found.append("Input shapes: record with record_shapes=True.")
    if not columns.stack.any() and not columns.of("python_function").any():
        found.append("Call stacks: record with with_stack=True.")
    if not has_modules:
        found.append("Modules: record with with_stack=True and with_modules=True.")
    if not len(columns.memory.time):
        found.append("Memory: record with profile_memory=True.")
    if not columns.of("kernel", "communication").any():
        found.append(
            "Kernels: record with ProfilerActivity.CUDA (or XPU) where the model runs on a device."
        )
    return tuple(found)


def _started(columns: Columns) -> float | None:
    """When time 0 was, since the epoch; stamps of other clocks tell nothing."""
    moment = columns.base_ns / 1e9 + columns.origin_us / 1e6
    return moment if moment > _EARLIEST else None


def _warnings(columns: Columns) -> tuple[str, ...]:
    if not columns.dropped:
        return ()
    return (f"{columns.dropped:,} events without a usable time were left out.",)


def _worker(file: Path) -> str:
    name = file.name
    for suffix in (".gz", ".json", ".trace", ".pt"):
        name = name.removesuffix(suffix)
    return name


def _stamp(file: Path) -> list[object]:
    try:
        found = file.stat()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{file.name} cannot be read: {reason}.") from error
    return [file.name, found.st_size, found.st_mtime_ns]
