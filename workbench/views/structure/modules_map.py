"""The view Map: the modules as nested bars, linked to the table below."""

from __future__ import annotations

import streamlit as st

from engine.records import ModuleProfile, Profile
from workbench import tree
from workbench.components.module_map import map_data
from workbench.components.module_map import show as draw_map
from workbench.quantities import percent_text
from workbench.views.structure import measures, modules, selection


def show(profile: Profile) -> None:
    """The view Map."""
    known = measures.measures(profile)
    with st.container(horizontal=True, gap="medium"):
        width = st.segmented_control(
            "Size", list(known), default="FLOPs", required=True, key="map_size"
        )
        colours = [*known, "dtype"]
        colour = st.segmented_control(
            "Colour", colours, default="Time" if "Time" in known else "Weights", required=True,
            key="map_colour",
            help=None if "Time" in known else "Time can be chosen once the model has been run.",
        )  # fmt: skip
    size = known[width or "FLOPs"]
    rows = tree.filled_containers(profile.modules)
    nodes, left_out = tree.module_tree(rows, size.amount, lambda each: 0.0)
    draw_map(
        map_data(
            profile,
            nodes,
            rows,
            size=size,
            colour=known.get(colour or ""),
            words=list(known.values()),
        ),
        key="module_map",
        on_choose=selection.choose,
        selected=selection.chosen(),
    )
    st.caption(_words(profile, size, left_out))
    modules.show_below(profile)


def _words(profile: Profile, size: measures.Measure, left_out: int) -> str:
    leaves = _leaves(profile.modules)
    largest = max(leaves, key=size.amount, default=None)
    whole = sum(size.amount(each) for each in leaves) or 1.0
    named = size.label if size.label == "FLOPs" else size.label.lower()
    words = "Click a module to choose it, twice to enter it."
    if largest is not None:
        words = (
            f"`{largest.name}` has the largest share of {named} among single modules"
            f" ({percent_text(size.amount(largest) / whole)}). {words}"
        )
    if left_out:
        words += f" {left_out} small modules are left out of the picture, not of the table."
    return words


def _leaves(modules: tuple[ModuleProfile, ...]) -> list[ModuleProfile]:
    inner = {each.name.rpartition(".")[0] for each in modules}
    return [each for each in modules if each.name not in inner and not tree.is_root(each)]
