"""Batch against sequence length: each cell is a small comparison that one clicks to measure."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from engine import api
from engine.records import Comparison, Settings, Study, VariantResult, Workload, replace
from workbench import charts, jobs, layout, session
from workbench.quantities import digits, interval_text, ms_text, seconds_text
from workbench.views.verdicts import VERDICTS

SETTINGS = Settings(
    rounds=10, budget_seconds=15.0, quality_limit=1, waterfall=False, processes=2
)  # fmt: skip
_BATCHES = (1, 2, 4, 8, 16)
_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
_SIZES = {"prompt_tokens": "prompt tokens", "sequence_length": "tokens", "image_size": "pixels"}
_SECONDS = 40.0  # of a cell, before one was measured

Key = tuple[int, int | None]


@dataclass(frozen=True)
class Cell:
    """One workload of the matrix, measured."""

    key: Key
    baseline: VariantResult
    variant: VariantResult
    seconds: float


def card(comparison: Comparison, shown: list[VariantResult]) -> None:
    """The matrix of one variant, with throughput against latency below it."""
    variants = [each for each in shown[1:] if each.recipe != "baseline" and not each.control_of]
    if not variants:
        return
    study = comparison.study
    field = size_field(study.workload)
    what = f" and {_SIZES[field]}" if field else ""
    with layout.card(
        f"At another batch{' or length' if field else ''}",
        f"Each cell is a small comparison at its batch{what}, of at most"
        f" {SETTINGS.budget_seconds:.0f} s of rounds; it is kept and found again",
    ):
        jobs.show_ended(("cell",))
        variant = _choose(comparison, variants)
        cells = measured(comparison, variant, api.cells(study, store=session.store()))
        under_way = {each.title for each in jobs.active() if each.verb == "cell"}
        rows, columns = axes(study)
        _grid(study, variant, cells, under_way, rows, columns)
        _rest(study, variant, cells, under_way, [(b, s) for b in rows for s in columns])
        if len(cells) > 1:
            _chart(list(cells.values()), variant, study)


def size_field(workload: Workload) -> str | None:
    """The size that the matrix varies beside the batch; None where there is only the batch."""
    return next((name for name in _SIZES if getattr(workload, name) is not None), None)


def axes(study: Study) -> tuple[list[int], list[int | None]]:
    """The batches and the sizes of the matrix; the study's own are among them."""
    workload = study.workload
    batches = sorted({*_BATCHES, workload.batch})
    field = size_field(workload)
    if field is None:
        return batches, [None]
    own = int(getattr(workload, field))
    most = study.model.max_length if field != "image_size" else None
    if most is not None and field == "prompt_tokens":
        most -= workload.new_tokens or 0
    sizes = {max(1, round(own * scale)) for scale in _SCALES}
    return batches, [each for each in sorted({*sizes, own}) if most is None or each <= most]


def at(study: Study, key: Key) -> Workload:
    """The study's workload with the batch and the size of a cell."""
    field = size_field(study.workload)
    sizes = {field: key[1]} if field else {}
    return replace(study.workload, batch=key[0], **sizes)


def measured(
    comparison: Comparison, variant: VariantResult, cells: tuple[Comparison, ...]
) -> dict[Key, Cell]:
    """The cells of a variant that are known, the comparison's own workload among them."""
    study = comparison.study
    field = size_field(study.workload)
    found: dict[Key, Cell] = {}
    for each in (comparison, *cells):
        workload = each.study.workload
        key = (workload.batch, getattr(workload, field) if field else None)
        same = [v for v in each.variants if v.recipe == variant.recipe and not v.control_of]
        if not same or each.study.model.content_hash != study.model.content_hash:
            continue
        if replace(workload, seed=0) != replace(at(study, key), seed=0):
            continue
        found.setdefault(key, Cell(key, each.variants[0], same[0], each.seconds))
    return found


def _choose(comparison: Comparison, variants: list[VariantResult]) -> VariantResult:
    if len(variants) == 1:
        return variants[0]
    named = {each.name: each for each in variants}
    picked = st.segmented_control(
        "Variant", list(named), default=variants[-1].name, required=True,
        key=f"matrix_of_{comparison.id}", label_visibility="collapsed",
    )  # fmt: skip
    return named.get(picked or "", variants[-1])


def _grid(
    study: Study,
    variant: VariantResult,
    cells: dict[Key, Cell],
    under_way: set[str],
    rows: list[int],
    columns: list[int | None],
) -> None:
    field = size_field(study.workload)
    widths = [0.6, *([1.0] * len(columns))]
    head = st.columns(widths, vertical_alignment="center", gap="small")
    head[0].caption("batch")
    for place, size in zip(head[1:], columns, strict=True):
        place.caption(f"{size} {_SIZES[field]}" if field and size is not None else "speed-up")
    for batch in rows:
        places = st.columns(widths, vertical_alignment="center", gap="small")
        places[0].markdown(f"**{batch}**")
        for place, size in zip(places[1:], columns, strict=True):
            key = (batch, size)
            with place:
                if key in cells:
                    _filled(cells[key])
                else:
                    _empty(study, variant, key, under_way)


def _filled(cell: Cell) -> None:
    each = cell.variant
    tint, icon = VERDICTS[each.verdict]
    words = f"{digits(each.speedup.median)}×" if each.speedup else each.verdict
    base = cell.baseline.latency_ms
    ours = each.latency_ms
    told = f"{each.verdict} {interval_text(each.speedup)}"
    if base and ours:
        told += f": {ms_text(base.median)} to {ms_text(ours.median)}"
    if each.error is not None:
        told = f"{each.verdict}: {each.error.message}"
    st.badge(words, icon=icon, color=tint, help=told)  # type: ignore[arg-type]


def _empty(study: Study, variant: VariantResult, key: Key, under_way: set[str]) -> None:
    waits = title(study, variant, key) in under_way
    if st.button(
        "under way" if waits else "Measure", key=f"cell_{key[0]}_{key[1]}", disabled=waits,
        type="tertiary", icon=":material/hourglass_top:" if waits else ":material/play_arrow:",
        help="It stands in the sidebar." if waits else None,
    ) and _start(study, variant, key):  # fmt: skip
        st.rerun()


def _rest(
    study: Study,
    variant: VariantResult,
    cells: dict[Key, Cell],
    under_way: set[str],
    keys: list[Key],
) -> None:
    left = [key for key in keys if key not in cells
            and title(study, variant, key) not in under_way]  # fmt: skip
    if not left:
        return
    known = [each.seconds for key, each in cells.items() if key != _own(study)]
    seconds = len(left) * (sum(known) / len(known) if known else _SECONDS)
    if st.button(
        f"Measure the other {len(left)} cells", key="cells_rest", icon=":material/grid_on:",
        help=f"One after the other, about {seconds_text(seconds)}; each can be cancelled.",
    ):  # fmt: skip
        for key in left:
            if not _start(study, variant, key):
                return
        st.rerun()


def _own(study: Study) -> Key:
    field = size_field(study.workload)
    return study.workload.batch, getattr(study.workload, field) if field else None


def title(study: Study, variant: VariantResult, key: Key) -> str:
    """What the job of a cell is called, by which the page finds it again."""
    size = f", {key[1]}" if key[1] is not None else ""
    return f"{study.model.name} at batch {key[0]}{size}: {variant.recipe}"


def _start(study: Study, variant: VariantResult, key: Key) -> bool:
    asked = api.request_of(replace(study, workload=at(study, key)))
    return bool(
        jobs.start(
            "cell", title(study, variant, key), request=asked, recipes=[variant.recipe],
            settings=SETTINGS, of=study.id,
        )
    )  # fmt: skip


def _chart(cells: list[Cell], variant: VariantResult, study: Study) -> None:
    unit = variant.throughput_unit
    chart = charts.figure(height=300, x="median latency (ms)", y=f"throughput ({unit})")
    sizes = sorted({each.key[1] for each in cells}, key=lambda size: size or 0)
    sides = (("baseline", charts.BASELINE), (variant.name, charts.PALETTE[0]))
    dashes = ("solid", "dash", "dot", "dashdot", "longdash")
    field = size_field(study.workload)
    for number, size in enumerate(sizes):
        column = sorted((e for e in cells if e.key[1] == size), key=lambda e: e.key[0])
        for name, tint in sides:
            points = [
                (side.latency_ms.median, side.throughput_per_s, each.key[0])
                for each in column
                for side in [each.baseline if name == "baseline" else each.variant]
                if side.latency_ms is not None and side.throughput_per_s is not None
            ]
            label = f"{name}, {size} {_SIZES[field]}" if field and len(sizes) > 1 else name
            chart.add_scatter(
                x=[x for x, _, _ in points], y=[y for _, y, _ in points], name=label,
                mode="lines+markers+text", text=[f"b{batch}" for *_, batch in points],
                textposition="top center", textfont={"size": 11, "color": charts.muted()},
                line={"color": tint, "dash": dashes[number % len(dashes)]}, marker={"size": 8},
                hovertemplate=f"%{{x:.4g}} ms, %{{y:.4g}} {unit}<extra>{label}</extra>",
            )  # fmt: skip
    chart.update_xaxes(showgrid=True, gridcolor=charts.faint(), rangemode="tozero")
    chart.update_yaxes(rangemode="tozero")
    best = max(cells, key=lambda each: each.variant.throughput_per_s or 0.0)
    also = f" and {best.key[1]} {_SIZES[field]}" if field else ""
    charts.show(
        chart,
        f"Up is more in a second, left is sooner; b4 is a batch of 4. {variant.name} gives most,"
        f" {digits(best.variant.throughput_per_s or 0.0)} {unit}, at batch {best.key[0]}{also}.",
        key="compare_matrix",
    )
