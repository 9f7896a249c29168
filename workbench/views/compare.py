"""The page Compare: variants against the baseline, speed beside what it cost."""

from __future__ import annotations

import itertools

import streamlit as st

from engine.measure.pareto import pareto_front
from engine.records import Comparison, Quality, StepOutcome, VariantResult
from workbench import charts, layout, session
from workbench.layout import Figure
from workbench.quantities import (
    MISSING,
    ago_text,
    bytes_text,
    digits,
    interval_text,
    ms_text,
    range_text,
    seconds_text,
)

_LONGEST_NAME = 26
VERDICTS = {
    "FASTER": ("green", ":material/bolt:"),
    "SLOWER": ("red", ":material/slow_motion_video:"),
    "EQUIVALENT": ("gray", ":material/drag_handle:"),
    "INCONCLUSIVE": ("orange", ":material/help:"),
    "BASELINE": ("gray", ":material/flag:"),
    "FAILED": ("red", ":material/error:"),
}
REALNESS = {
    "REAL": ("green", ":material/verified:"),
    "PARTIAL": ("orange", ":material/incomplete_circle:"),
    "SIMULATED": ("orange", ":material/science:"),
    "NO-OP": ("red", ":material/do_not_disturb_on:"),
}


def choose(found: list[Comparison]) -> Comparison:
    """The comparison that is looked at."""
    names = {each.id: _name(each) for each in found}
    now = session.comparison() or found[0]
    if len(found) > 1:
        chosen = st.selectbox(
            "Comparison", list(names), index=list(names).index(now.id),
            format_func=names.__getitem__, key=f"comparison_of_{now.study.id}",
        )  # fmt: skip
        if chosen and chosen != now.id:
            session.current().comparison = chosen
            st.rerun()
    return now


def chosen_variants(comparison: Comparison) -> list[VariantResult]:
    """The variants that the charts show; the baseline always."""
    others = [each.name for each in comparison.variants[1:]]
    picked = others
    if len(others) > 1:
        picked = st.pills(
            "Variants", others, selection_mode="multi", default=others,
            key=f"variants_{comparison.id}", label_visibility="collapsed",
        )  # fmt: skip
    return [comparison.variants[0], *(v for v in comparison.variants[1:] if v.name in picked)]


def focus(comparison: Comparison, shown: list[VariantResult]) -> VariantResult:
    """The fastest variant that was measured; the baseline where none was."""
    timed = [each for each in shown[1:] if each.speedup is not None and each.error is None]
    return max(
        timed, key=lambda each: each.speedup.median if each.speedup else 0.0,
        default=comparison.variants[0],
    )  # fmt: skip


def figures(comparison: Comparison, shown: list[VariantResult]) -> None:
    """Four figures of the best variant, each with its change."""
    best = focus(comparison, shown)
    base = comparison.variants[0]
    latency = best.latency_ms.median if best.latency_ms else None
    before = base.latency_ms.median if base.latency_ms else None
    is_claimed = best.verdict in ("FASTER", "SLOWER")
    row = [
        # Green or red only where the verdict claims a difference.
        Figure("Latency (median)", ms_text(latency), _percent(latency, before),
               words="to the baseline" if is_claimed else "inside the noise",
               good=best.verdict == "FASTER" if is_claimed else None),
        Figure("Speed-up", interval_text(best.speedup),
               words=f"{best.verdict} · " + (f"predicted {range_text(best.prediction.speedup)}"
                                             if best.prediction else "no prediction"),
               change=_throughput(best),
               help="Median of per-round log ratios with its 95 % block-bootstrap interval."),
        _quality_figure(best),
        Figure("Peak tensor memory", bytes_text(best.peak_tensor_bytes),
               _percent(best.peak_tensor_bytes, base.peak_tensor_bytes), words="to the baseline",
               good=_is_lower(best.peak_tensor_bytes, base.peak_tensor_bytes)),
    ]  # fmt: skip
    which = "the fastest" if best.verdict == "FASTER" else "of the highest measured ratio"
    st.caption(f"Figures of **{best.name}**, {which} among the variants shown.")
    layout.figures(row)


def latency(comparison: Comparison, shown: list[VariantResult]) -> None:
    """Median and p95 of each variant, with the interval of its ratio."""
    with layout.card(
        "Latency", "Median with the 95 % interval of its ratio to the baseline; p95", stretch=True
    ):
        chart = charts.figure(height=340, y="latency (ms)", barmode="group")
        base = comparison.variants[0].latency_ms
        tallest = max((each.latency_ms.p95 for each in shown if each.latency_ms), default=1.0)
        for each in shown:
            if each.latency_ms is None:
                continue
            median = each.latency_ms.median
            up = down = 0.0
            if base is not None and each.speedup is not None:
                up = max(0.0, base.median / max(each.speedup.low, 1e-9) - median)
                down = max(0.0, median - base.median / max(each.speedup.high, 1e-9))
            chart.add_bar(
                x=["median", "p95"], y=[median, each.latency_ms.p95],
                name=f"{short(each.name)} · {digits(median)} ms",
                marker_color=colour(comparison, each),
                insidetextanchor="start",
                text=[digits(v) if v > 0.15 * tallest else ""
                      for v in (median, each.latency_ms.p95)],
                # At the foot of tall bars only: elsewhere the error bar runs through the figure.
                textposition="inside", textangle=0,
                error_y={"type": "data", "symmetric": False, "array": [up, 0],
                         "arrayminus": [down, 0], "color": charts.ink(), "thickness": 1.6,
                         "width": 5},
                hovertemplate="%{x}: %{y:.4g} ms<extra>" + each.name + "</extra>",
            )  # fmt: skip
        charts.show(chart, latency_words(shown), key="compare_latency")


def latency_words(shown: list[VariantResult]) -> str:
    """One sentence on the fastest variant and on what is inside the noise."""
    timed = [each for each in shown[1:] if each.speedup is not None]
    if not timed:
        return "Only the baseline was measured."
    best = max(timed, key=lambda each: each.speedup.median if each.speedup else 0.0)
    words = f"{best.name} measures {interval_text(best.speedup)} of the baseline's speed:"
    words += f" {best.verdict}."
    unclear = [each.name for each in timed if each.verdict in ("EQUIVALENT", "INCONCLUSIVE")]
    if unclear:
        words += f" No difference can be claimed for {', '.join(unclear)}."
    return words


def accuracy(comparison: Comparison, shown: list[VariantResult]) -> None:
    """Quality against latency with the Pareto front and the tolerance."""
    points = [(each, *_quality_of(each)) for each in shown if each.latency_ms]
    points = [each for each in points if each[1] is not None]
    with layout.card(
        "Quality against latency", "Left is faster, up is better; size is bytes held", stretch=True
    ):
        if not points:
            st.caption("No quality was measured.")
            return
        label = points[0][3]
        higher = points[0][2]
        tolerance = st.slider(
            "Tolerance (% of the baseline's value)", 0.0, 10.0, 1.0, 0.5, key="tolerance",
            label_visibility="collapsed", format="tolerance %.1f %%",
        )  # fmt: skip
        _pareto_chart(comparison, points, label, higher, tolerance)


def _pareto_chart(
    comparison: Comparison,
    points: list[tuple[VariantResult, float | None, bool, str]],
    label: str,
    higher: bool,
    tolerance: float,
) -> None:
    sign = 1.0 if higher else -1.0
    times = [each[0].latency_ms.median if each[0].latency_ms else 0.0 for each in points]
    values = [float(each[1] or 0.0) for each in points]
    front = set(pareto_front([(t, sign * v) for t, v in zip(times, values, strict=True)]))
    base = values[0]
    worst = base - sign * abs(base) * tolerance / 100
    chart = charts.figure(height=290, x="median latency (ms)", y=label)
    spread = max(max(values) - min(values), abs(base) * 0.02, 1e-9)
    top = max(values) + 0.25 * spread if higher else min(values) - 0.25 * spread
    chart.add_hrect(y0=worst, y1=top, fillcolor="#14b8a6", opacity=0.1, line_width=0, layer="below")
    largest = max((each[0].size_bytes or 0 for each in points), default=0) or 1
    on_front = sorted((times[i], values[i]) for i in front)
    chart.add_scatter(
        x=[x for x, _ in on_front], y=[y for _, y in on_front], mode="lines", name="Pareto front",
        line={"color": charts.PALETTE[0], "dash": "dot", "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    places = _label_places(times)
    for index, (each, value, _, _) in enumerate(points):
        tint = colour(comparison, each)
        is_front = index in front
        chart.add_scatter(
            x=[times[index]], y=[value], mode="markers+text", name=each.name,
            text=[short(each.name)], cliponaxis=False,
            textposition=places[index], showlegend=False,
            marker={"size": 11 + 16 * ((each.size_bytes or 0) / largest) ** 0.5,
                    "color": tint if is_front else "rgba(0,0,0,0)",
                    "line": {"width": 2, "color": tint}},
            hovertemplate=f"%{{x:.4g}} ms, {label} %{{y:.5g}}, {bytes_text(each.size_bytes)}"
            f"<extra>{each.name}</extra>",
        )  # fmt: skip
    if not higher:
        chart.update_yaxes(autorange="reversed")
    chart.update_xaxes(rangemode="tozero", showgrid=True, gridcolor=charts.faint())
    names = [each[0].name for index, each in enumerate(points) if index in front]
    outside = [
        each[0].name
        for index, each in enumerate(points)
        if sign * values[index] < sign * worst - 1e-12
    ]
    words = f"On the front: {', '.join(names)}; hollow points are beaten in both."
    words += (
        f" Outside the tolerance of {digits(tolerance)} %: {', '.join(outside)}."
        if outside
        else f" All stay within {digits(tolerance)} % of the baseline."
    )
    charts.show(chart, words, key="compare_pareto")


def memory_and_size(comparison: Comparison, shown: list[VariantResult]) -> None:
    """Peak memory and size of each variant."""
    left, right = st.columns(2, gap="medium")
    with left, layout.card("Peak tensor memory"):
        _size_bars(comparison, shown, "peak_tensor_bytes", "compare_peak")
    with right, layout.card("Size of the weights held"):
        _size_bars(comparison, shown, "size_bytes", "compare_size")


def _label_places(times: list[float]) -> list[str]:
    """Above and below in turn where points stand close to each other."""
    order = sorted(range(len(times)), key=times.__getitem__)
    near = 0.16 * (max(times) or 1.0)
    heights = ["top"] * len(times)
    for before, after in itertools.pairwise(order):
        if times[after] - times[before] < near and heights[before] == "top":
            heights[after] = "bottom"
    # Beside the axis a label runs to the right, and on the other side to the left.
    edges = (0.3 * max(times), 0.85 * max(times))
    sides = ["right" if x < edges[0] else "left" if x > edges[1] else "center" for x in times]
    return [f"{height} {side}" for height, side in zip(heights, sides, strict=True)]


def _size_bars(comparison: Comparison, shown: list[VariantResult], field: str, key: str) -> None:
    kept = [each for each in shown if getattr(each, field) is not None]
    if not kept:
        st.caption("Not measured.")
        return
    values = [getattr(each, field) for each in kept]
    chart = charts.bars(
        [short(each.name) for each in kept], [value / 2**20 for value in values],
        [bytes_text(value) for value in values], unit="MiB",
        colours=[colour(comparison, each) for each in kept],
    )  # fmt: skip
    least = min(kept, key=lambda each: getattr(each, field))
    ratio = values[0] / max(1, getattr(least, field))
    words = (
        f"{least.name} needs {digits(ratio)} times less than {kept[0].name}."
        if ratio > 1.01
        else "No variant needs less than the baseline."
    )
    charts.show(chart, words, key=key)


def verdict_line(variant: VariantResult) -> None:
    """The verdict with measured beside predicted."""
    tint, icon = VERDICTS[variant.verdict]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(variant.verdict, icon=icon, color=tint)  # type: ignore[arg-type]
        predicted = range_text(variant.prediction.speedup) if variant.prediction else MISSING
        st.markdown(f"measured **{interval_text(variant.speedup)}** · predicted {predicted}")


def outcomes(variant: VariantResult) -> None:
    """Whether each step of a variant did what it says."""
    for each in variant.steps:
        _outcome(each)


def _outcome(each: StepOutcome) -> None:
    tint, icon = REALNESS[each.realness.verdict]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(each.realness.verdict, icon=icon, color=tint)  # type: ignore[arg-type]
        share = (
            f" · {digits(100 * each.realness.share)} % of the work"
            if each.realness.share < 1
            else ""
        )
        st.markdown(
            f"**{each.step.technique}**{share} · {each.realness.detail}"
            f" :gray[({seconds_text(each.seconds)})]", width="stretch",
        )  # fmt: skip
    for note in each.notes:
        st.caption(f":material/info: {note}")


def method(comparison: Comparison) -> None:
    """How it was measured, and how noisy the machine was."""
    floor = comparison.noise_floor
    with layout.card("How it was measured"):
        noise = (
            f"The baseline against itself: **{interval_text(floor)}**. Differences of this size are"
            " noise on this machine."
            if floor
            else "No baseline-against-itself run was made."
        )
        st.markdown(noise)
        st.caption(
            f"{comparison.method} · {comparison.rounds} rounds · {seconds_text(comparison.seconds)}"
            f" · {comparison.study.machine.cpu} · {ago_text(comparison.created)}"
        )
        for warning in comparison.warnings:
            st.warning(warning, icon=":material/warning:")


def short(name: str) -> str:
    """A variant's name as it fits beside a mark."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def colour(comparison: Comparison, variant: VariantResult) -> str:
    """The fixed colour of a variant in every chart of its comparison."""
    names = [each.name for each in comparison.variants]
    return charts.variant_colours(len(names))[names.index(variant.name)]


def _quality_of(each: VariantResult) -> tuple[float | None, bool, str]:
    if each.quality is not None:
        return each.quality.value, each.quality.higher_is_better, each.quality.metric
    if each.fidelity is not None:
        return each.fidelity.relative_error, False, "relative output error"
    return None, True, ""


def _quality_figure(best: VariantResult) -> Figure:
    found = best.quality
    if found is None:
        error = best.fidelity.relative_error if best.fidelity else None
        return Figure("Relative output error", digits(error) if error is not None else MISSING,
                      help="No quality data: fidelity to the baseline stands for it.")  # fmt: skip
    change = None
    if found.difference and abs(found.difference) > 1e-4 * abs(found.value):
        change = f"{found.difference:+.3g}"
    good = None
    if found.difference and not _is_noise(found):
        good = (found.difference > 0) == found.higher_is_better
    return Figure(
        found.metric.replace("_", " ").capitalize(), f"{found.value:.4g}", change, good=good,
        words=f"{found.samples:,} samples", help="Paired difference to the baseline.",
    )  # fmt: skip


def _is_noise(found: Quality) -> bool:
    low, high = found.difference_low, found.difference_high
    return low is not None and high is not None and low <= 0 <= high


def _percent(now: float | None, before: float | None) -> str | None:
    if now is None or not before:
        return None
    change = 100 * (now / before - 1)
    return f"{change:+.0f} %" if abs(change) >= 0.5 else None


def _is_lower(now: float | None, before: float | None) -> bool | None:
    if now is None or before is None or abs(now / max(before, 1e-12) - 1) < 0.02:
        return None
    return now < before


def _throughput(each: VariantResult) -> str | None:
    if each.throughput_per_s is None:
        return None
    return f"{digits(each.throughput_per_s)} {each.throughput_unit}"


def _name(each: Comparison) -> str:
    names = ", ".join(variant.name for variant in each.variants[1:])
    return f"{names} · {ago_text(each.created)}"
