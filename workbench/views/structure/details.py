"""What is known of the chosen module: its figures, and its operators with their costs."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.records import ModuleProfile, OperatorProfile, Profile
from workbench import tables, tree
from workbench.quantities import (
    bytes_text,
    count_text,
    digits,
    ms_text,
    parameters_text,
    percent_text,
)
from workbench.views.structure import selection


def show(profile: Profile) -> None:
    """The card of the chosen module; a hint where none is chosen."""
    module = selection.find(profile, selection.chosen())
    if module is None:
        st.caption(
            "A module's figures include everything below it, for one run of the workload. Choose a"
            " row, or a box above, to see its operators."
        )
        return
    with st.container(border=True, key="module_details"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"##### `{module.name or tree.ROOT}` · {module.type}", width="stretch")
            st.button(
                "Let go", icon=":material/close:", key="let_go", on_click=selection.choose,
                args=(None,),
            )  # fmt: skip
        st.markdown(_words(profile, module))
        _operators(profile, module)


def _words(profile: Profile, module: ModuleProfile) -> str:
    totals = profile.totals
    facts = [
        f"**{parameters_text(module.parameters)}** parameters"
        f" ({bytes_text(module.parameter_bytes)})",
        f"**{count_text(module.flops, 'FLOP')}**{_part(module.flops, totals.flops)}",
        f"**{bytes_text(module.moved_bytes)}** moved"
        + _part(module.moved_bytes, totals.moved_bytes),
        f"**{digits(module.arithmetic_intensity)} FLOP/B**",
        f"{module.calls:,} calls",
    ]
    if module.active_parameters is not None:
        facts.insert(1, f"**{parameters_text(module.active_parameters)}** active a token")
    if module.time_ms is not None:
        facts.append(f"**{ms_text(module.time_ms)}**{_part(module.time_ms, totals.time_ms or 0)}")
    return " · ".join(facts)


def _part(value: float, whole: float) -> str:
    return f" ({percent_text(value / whole)} of the model)" if whole else ""


def _operators(profile: Profile, module: ModuleProfile) -> None:
    is_model = tree.is_root(module)
    rows = [each for each in profile.operators if is_model or _is_inside(each, module.name)]
    if not rows:
        st.caption("No operator ran in it.")
        return
    rows.sort(key=lambda each: (-(each.self_time_ms or 0.0), -each.flops))
    frame = pd.DataFrame(
        {
            "Operator": [each.name for each in rows],
            "Module": [each.module for each in rows],
            "Phase": [each.phase for each in rows],
            "Shapes": [each.shapes for each in rows],
            "dtype": [each.dtype for each in rows],
            "Calls": [each.calls for each in rows],
            "MFLOP": [each.flops / 1e6 for each in rows],
            "Moved": [each.moved_bytes / 2**20 for each in rows],
            "Self": [each.self_time_ms for each in rows],
        }
    )
    number = st.column_config.NumberColumn
    tables.show(
        frame, key="module_operators", search="Search operators", height=300,
        file=f"{profile.study.model.name}-{module.name or 'model'}-operators.csv",
        columns={
            "MFLOP": number(format="%.3f"), "Moved": tables.megabytes("Moved"),
            "Self": number("Self (ms)", format="%.3f"),
        },
    )  # fmt: skip


def _is_inside(operator: OperatorProfile, name: str) -> bool:
    return operator.module == name or operator.module.startswith(f"{name}.")
