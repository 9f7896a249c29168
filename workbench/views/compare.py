"""The page Compare: which comparison and variants, their figures, how they were measured."""

from __future__ import annotations

import streamlit as st

from engine.quality_text import claim_text
from engine.records import Comparison, VariantResult
from workbench import layout, session
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
    timed = [
        each for each in shown[1:]
        if each.speedup is not None and each.error is None and not each.control_of
    ]  # fmt: skip
    return max(
        timed, key=lambda each: each.speedup.median if each.speedup else 0.0,
        default=comparison.variants[0],
    )  # fmt: skip


def link(comparison: Comparison) -> None:
    """The address that opens the same comparison, to be copied."""
    with st.popover("Link", icon=":material/link:", help="Opens the same comparison."):
        st.caption("Opens this comparison on this machine, for who has opened the app before.")
        st.code(address(comparison, st.context.url), language=None, wrap_lines=True)


def address(comparison: Comparison, page: str | None) -> str:
    """Where a comparison is shown; without the token that lets a browser in."""
    place = (page or "compare").partition("?")[0]
    return f"{place}?study={comparison.study.id}&comparison={comparison.id}"


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
               help="Median of per-round log ratios, averaged over processes, with its 95 %"
               " interval."),
        _quality_figure(best),
        Figure("Peak tensor memory", bytes_text(best.peak_tensor_bytes),
               _percent(best.peak_tensor_bytes, base.peak_tensor_bytes), words="to the baseline",
               good=_is_lower(best.peak_tensor_bytes, base.peak_tensor_bytes)),
    ]  # fmt: skip
    which = "the fastest" if best.verdict == "FASTER" else "of the highest measured ratio"
    st.caption(f"Figures of **{best.name}**, {which} among the variants shown.")
    layout.figures(row)


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
    if found.verdict in ("BETTER", "WORSE"):
        good = found.verdict == "BETTER"
    return Figure(
        found.metric.replace("_", " ").capitalize(), f"{found.value:.4g}", change, good=good,
        words=f"{found.verdict} · {found.samples:,} samples" if found.verdict
        else f"{found.samples:,} samples",
        help="Paired difference to the baseline. " + claim_text(found),
    )  # fmt: skip


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
