"""The page Compare."""

import streamlit as st

from workbench import jobs, layout, session
from workbench.views import (
    compare,
    compare_charts,
    compare_form,
    compare_layers,
    comparison_table,
    damage,
    parallel,
    quality_verdicts,
    report,
    sweet_spot,
    waterfall,
    workload_matrix,
)

with layout.study_header("Compare", "is it really faster, and what did it cost?"):
    compare_form.button()
    looked_at = session.comparison()
    if looked_at is not None:
        compare.link(looked_at)
jobs.show_ended(("optimize", "compare"))
study = layout.need_weights()
jobs.show_active(("optimize", "compare"), study.id)
found = session.comparisons(study.id)
if not found:
    layout.empty(
        ":material/compare_arrows:",
        "Nothing is measured yet",
        "Put a recipe together, then build and measure it: its variant stands here beside the"
        " model as it is.",
        lambda: layout.button("Optimize", "optimize", primary=True),
    )
    st.stop()
with st.container(horizontal=True, vertical_alignment="bottom"):
    comparison = compare.choose(found)
    report.take_away(comparison)
shown = compare.chosen_variants(comparison)
compare.figures(comparison, shown)
left, right = st.columns(2, gap="medium")
with left:
    compare_charts.latency(comparison, shown)
with right:
    sweet_spot.card(comparison, shown)
quality_verdicts.card(comparison, shown)
comparison_table.table(comparison, shown)
parallel.card(comparison, shown)
compare_charts.memory_and_size(comparison, shown)
if not damage.show(comparison, shown):
    comparison_table.texts(shown)
if comparison.waterfall:
    with layout.card("What each step bought"):
        waterfall.show(comparison)
compare_layers.show(comparison, shown)
comparison_table.details(shown)
workload_matrix.card(comparison, shown)
compare.method(comparison)
layout.next_step("Leave with a model that has proved itself.", "Export", "export")
