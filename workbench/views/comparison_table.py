"""The table of a comparison's variants, and what each did to the answers."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.quality_text import claim_text, flips_text
from engine.records import Comparison, VariantResult
from workbench import jobs, layout, tables
from workbench.quantities import MISSING, bytes_text, count_text, digits, ms_text, range_text
from workbench.views import verdicts

_SPARK_POINTS = 40
_SIGNS = {
    "FASTER": "▲ FASTER", "SLOWER": "▼ SLOWER", "EQUIVALENT": "= EQUIVALENT",
    "INCONCLUSIVE": "? INCONCLUSIVE", "BASELINE": "● BASELINE", "FAILED": "✕ FAILED",
}  # fmt: skip


def table(comparison: Comparison, shown: list[VariantResult]) -> None:
    """Every variant in one sortable table, the download included."""
    top = max((each.speedup.high for each in shown if each.speedup), default=1.0)
    frame = pd.DataFrame([_row(each) for each in shown])
    with layout.card("All variants"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(
                "Predicted stands beside measured. Sort by a click on a column.", width="stretch"
            )
            st.download_button(
                "CSV", _csv(comparison, shown), file_name=f"comparison-{comparison.id}.csv",
                mime="text/csv", icon=":material/download:", on_click="ignore", key="compare_csv",
            )  # fmt: skip
        st.dataframe(
            frame, hide_index=True, key=f"table_{comparison.id}", height="content",
            column_config={
                "Variant": st.column_config.TextColumn(pinned=True, width=120),
                "Steps": st.column_config.ListColumn(width=170),
                "Verdict": st.column_config.TextColumn(width=115),
                "Median": st.column_config.NumberColumn("Median (ms)", format="%.3g", width=92),
                "Speed-up": st.column_config.ProgressColumn(
                    format="%.2f×", min_value=0.0, max_value=max(1.0, top), color="primary",
                    width=130,
                ),
                "95 %": st.column_config.TextColumn(width=82),
                "Predicted": st.column_config.TextColumn(width=82),
                "Runs": st.column_config.LineChartColumn(
                    width=70, help="Raw samples, in the order in which they were taken.",
                ),
                "Quality": st.column_config.NumberColumn(_metric(shown), format="%.4g", width=78),
                "Change": st.column_config.NumberColumn(
                    format="%+.3f", width=68, help="Of the quality, against the baseline."
                ),
                "Proved": st.column_config.TextColumn(
                    width=112, help="What the quality data prove, by the margin that was set."
                ),
                "To dense": st.column_config.NumberColumn(
                    format="%+.3f", width=78,
                    help="Of the quality, against the whole model trained as long.",
                ),
                "Peak": tables.megabytes("Peak", "Peak tensor memory", 1, 84),
                "Size": tables.megabytes("Size", "Bytes of the weights held", 2, 80),
            },
        )  # fmt: skip


def details(shown: list[VariantResult]) -> None:
    """For each variant: whether its steps are real, its times apart, what happened to answers."""
    for each in shown[1:]:
        icon = verdicts.VERDICTS[each.verdict][1]
        with st.expander(f"**{each.name}** · `{each.recipe}`", icon=icon):
            if each.error is not None:
                jobs.show_error(each.error)
            left, right = st.columns(2, gap="medium")
            with left:
                st.markdown("###### Did each step do what it says?")
                verdicts.verdict_line(each)
                verdicts.control_line(each)
                verdicts.outcomes(each)
                if not each.steps:
                    st.caption("No step was built.")
            with right:
                st.markdown("###### Times and damage")
                _facts(each)


def texts(shown: list[VariantResult]) -> None:
    """Continuations of the same held-out prompts, side by side."""
    with_texts = [each for each in shown if each.texts]
    if not with_texts:
        return
    count = min(len(each.texts) for each in with_texts)
    with layout.card("Texts side by side", "The same held-out prompts, greedy continuations"):
        number = 0
        if count > 1:
            number = st.segmented_control(
                "Prompt", range(count), default=0, required=True, key="text_prompt",
                format_func=lambda index: f"Prompt {index + 1}", label_visibility="collapsed",
            ) or 0  # fmt: skip
        base = with_texts[0].texts[number]
        for column, each in zip(st.columns(len(with_texts)), with_texts, strict=True):
            with column:
                same = each.texts[number] == base
                st.markdown(f"**{each.name}**")
                if each is not with_texts[0]:
                    st.badge(
                        "identical" if same else "differs",
                        icon=":material/check:" if same else ":material/difference:",
                        color="green" if same else "orange",
                    )
                st.code(each.texts[number], language=None, wrap_lines=True)


def _row(each: VariantResult) -> dict[str, object]:
    quality = each.quality
    fidelity = each.fidelity.relative_error if each.fidelity else None
    samples = each.latency_ms.samples if each.latency_ms else ()
    stride = max(1, len(samples) // _SPARK_POINTS)
    return {
        "Variant": f"{each.name} (control)" if each.control_of else each.name,
        "Steps": [step for step in each.recipe.split(",") if step != "baseline"],
        "Verdict": _SIGNS[each.verdict],
        "Median": each.latency_ms.median if each.latency_ms else None,
        "Speed-up": 1.0 if each.verdict == "BASELINE" else (
            each.speedup.median if each.speedup else None
        ),
        "95 %": f"{digits(each.speedup.low)} – {digits(each.speedup.high)}"
        if each.speedup and each.verdict != "BASELINE" else MISSING,
        "Predicted": range_text(each.prediction.speedup) if each.prediction else MISSING,
        "Runs": list(samples[::stride]),
        "Quality": quality.value if quality else fidelity,
        "Change": quality.difference if quality else None,
        "Proved": (quality.verdict if quality else None) or MISSING,
        **_to_dense(each),
        "Peak": each.peak_tensor_bytes / 2**20 if each.peak_tensor_bytes else None,
        "Size": each.size_bytes / 2**20 if each.size_bytes else None,
    }  # fmt: skip


def _to_dense(each: VariantResult) -> dict[str, float | None]:
    found = each.against_control
    return {"To dense": found.difference} if found else {}


def _facts(each: VariantResult) -> None:
    found = each.fidelity
    rows: list[tuple[str, str]] = [
        ("Prediction", range_text(each.prediction.speedup) if each.prediction else MISSING),
        ("FLOPs a run", count_text(each.flops, "FLOP")),
        ("First token (TTFT)", ms_text(each.ttft_ms)),
        ("Time per output token", ms_text(each.time_per_token_ms)),
        ("Build, compile, load", " · ".join(
            ms_text(1e3 * value) if value is not None else MISSING
            for value in (each.build_seconds, each.compile_seconds, each.load_seconds)
        )),
        ("Peak process memory", bytes_text(each.peak_process_bytes)),
    ]  # fmt: skip
    if found is not None:
        rows += [
            ("Relative output error", digits(found.relative_error)),
            ("Top-1 agreement", _percent(found.top1_agreement)),
            ("KL divergence", MISSING if found.kl_divergence is None
             else digits(found.kl_divergence)),
            ("Flips", _flips(each)),
            ("Quality", claim_text(each.quality) if each.quality else MISSING),
            ("Identical continuations", MISSING if found.prompts is None
             else f"{found.identical_prompts} of {found.prompts} prompts"),
            ("First divergence", MISSING if found.first_divergence is None
             else f"token {digits(found.first_divergence)} on average"),
        ]  # fmt: skip
    shown = [(label, value) for label, value in rows if value.strip(f"{MISSING} ·")]
    st.markdown("\n".join(["| | |", "|---|---|", *(f"| {a} | **{b}** |" for a, b in shown)]))


def _flips(each: VariantResult) -> str:
    found = each.fidelity
    if found is None or found.flips is None:
        return MISSING
    both = flips_text(found)
    return f"{found.flips:,} of {found.samples:,}" + (f": {both}" if both else "")


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{digits(100 * share)} %"


def _metric(shown: list[VariantResult]) -> str:
    named = [each.quality.metric for each in shown if each.quality]
    return named[0].replace("_", " ").capitalize() if named else "Output error"


def _csv(comparison: Comparison, shown: list[VariantResult]) -> bytes:
    rows = []
    for each in shown:
        row = _row(each)
        row["Steps"] = each.recipe
        row["Runs"] = (
            " ".join(f"{x:.6g}" for x in each.latency_ms.samples) if each.latency_ms else ""
        )
        rows.append({"comparison": comparison.id, **row, "FLOPs": each.flops})
    return pd.DataFrame(rows).to_csv(index=False).encode()
