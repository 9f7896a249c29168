"""The view Graph: one call of the model as boxes that open, linked to the table below."""

from __future__ import annotations

from typing import Any

import streamlit as st

from engine import api
from engine.records import ModelGraph, Profile
from workbench import jobs, layout, session
from workbench.components import model_graph
from workbench.components.graph_data import graph_data
from workbench.quantities import seconds_text
from workbench.views.structure import modules, selection

_CALLS = {
    "forward": "one forward pass",
    "prefill": "the call on the prompt (prefill)",
}


def show(profile: Profile) -> None:
    """The view Graph."""
    graph = session.store().get("graph", profile.study.id, ModelGraph)
    if graph is None:
        _empty(profile)
        return
    views = st.session_state.get("graph_views", False)
    model_graph.show(
        _data(graph, profile, views=bool(views)),
        key=f"model_graph_{graph.study}",
        on_choose=selection.choose,
        height=600,
        selected=selection.chosen(),
    )
    told, choice = st.columns((5, 1), vertical_alignment="center")
    told.caption(_words(graph))
    choice.toggle(
        "Views", key="graph_views",
        help="Also draw operators that only name memory anew: transpose, slice, reshape.",
    )  # fmt: skip
    modules.show_below(profile)


def _words(graph: ModelGraph) -> str:
    drawn = sum(1 for each in graph.nodes if each.kind == "operator")
    words = (
        f"{_CALLS.get(graph.phase, graph.phase).capitalize()}: {drawn:,} operators, read from"
        f" {'the exported program' if graph.source == 'torch.export' else 'a recorded run'} in"
        f" {seconds_text(graph.seconds)}; parameters are left out. FLOPs, bytes and times in the"
        " graph are of this call, those in the table of the whole run."
    )
    if graph.reason:
        words += f" torch.export cannot read this model: {graph.reason.rstrip('.')}."
    if graph.folded:
        words += f" {graph.folded:,} operators of the deepest modules are folded into single boxes."
    return words


def _empty(profile: Profile) -> None:
    study = profile.study
    if jobs.show_active(("graph", "profile"), study.id):
        return

    def draw() -> None:
        if st.button("Draw the graph", type="primary", icon=":material/account_tree:"):
            jobs.start(
                "graph", f"Draw the graph of {study.model.name}", request=api.request_of(study)
            )
            st.rerun()

    layout.empty(
        ":material/account_tree:",
        "There is no graph yet",
        "It is read from the exported program, or from a recorded run where torch.export cannot"
        " read the model. That takes some seconds and does not change the model.",
        draw,
    )


@st.cache_data(max_entries=8, show_spinner=False, hash_funcs={
    ModelGraph: lambda graph: (graph.study, graph.created),
    Profile: lambda profile: (profile.study.id, profile.totals.time_ms, profile.trace_file),
})  # fmt: skip
def _data(graph: ModelGraph, profile: Profile, *, views: bool) -> dict[str, Any]:
    return graph_data(graph, profile, views=views)
