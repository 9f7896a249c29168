"""The page Compare."""

import streamlit as st

from workbench import jobs, layout, session
from workbench.views import (
    compare,
    compare_charts,
    compare_form,
    compare_layers,
    comparison_table,
    report,
    waterfall,
)

with layout.study_header("Compare", "is it really faster, and what did it cost?"):
    compare_form.button()
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
    compare_charts.accuracy(comparison, shown)
comparison_table.table(comparison, shown)
compare_charts.memory_and_size(comparison, shown)
if comparison.waterfall:
    with layout.card("What each step bought"):
        waterfall.show(comparison)
compare_layers.show(comparison, shown)
comparison_table.details(shown)
comparison_table.texts(shown)
compare.method(comparison)
layout.next_step("Leave with a model that has proved itself.", "Export", "export")
