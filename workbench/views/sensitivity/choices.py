"""What may be changed and what is to be saved: layers that stay, cells left out, the objective."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from engine.records import Sensitivity


@dataclass(frozen=True)
class Choices:
    """What the person wants of a mix; `left` are single cells as (layer, scheme)."""

    objective: str
    excluded: tuple[str, ...]
    left: tuple[tuple[str, str], ...]


def shown(found: Sensitivity) -> Choices:
    """The controls, which clicks into the map change too."""
    layers = [each.name for each in found.layers]
    cells = [cell_name(e.layer, e.scheme) for e in found.cells if e.damage is not None]
    _forget_what_is_gone(found.study, layers, cells)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        objective = "bytes"
        if any(each.saved_ms is not None for each in found.cells):
            objective = st.segmented_control(
                "Save", ["bytes", "ms"], default="bytes", required=True,
                key=f"sensitivity_objective_{found.study}",
                format_func=lambda name: "Size" if name == "bytes" else "Time of a run",
                help="Size is measured. Time is estimated from the operators of the profile.",
            ) or "bytes"  # fmt: skip
        excluded = st.multiselect(
            "Layers that stay as they are", layers, key=_stay(found.study), placeholder="none",
        )  # fmt: skip
        left = st.multiselect(
            "Cells left out", cells, key=_left(found.study), placeholder="none: click one below",
        )  # fmt: skip
    return Choices(objective, tuple(excluded), tuple(_parts(each) for each in left))


def toggle(study: str, layer: str, scheme: str) -> None:
    """Leaves a cell out, or takes it in again; on the next run of the page."""
    name = cell_name(layer, scheme)
    asked: list[str] = st.session_state.setdefault("sensitivity_toggled", [])
    asked.append(name)
    st.session_state["sensitivity_toggled_of"] = study


def cell_name(layer: str, scheme: str) -> str:
    """A cell as the controls name it: `h.0.fc · int8`."""
    return f"{layer} · {scheme}"


def _forget_what_is_gone(study: str, layers: list[str], cells: list[str]) -> None:
    """A click is taken up before the control is drawn, and a name that is gone would be refused."""
    left = list(st.session_state.get(_left(study), []))
    if st.session_state.get("sensitivity_toggled_of") == study:
        for name in st.session_state.pop("sensitivity_toggled", []):
            left = [each for each in left if each != name] if name in left else [*left, name]
    stay = st.session_state.get(_stay(study), [])
    st.session_state[_left(study)] = [each for each in left if each in cells]
    st.session_state[_stay(study)] = [each for each in stay if each in layers]


def _parts(name: str) -> tuple[str, str]:
    layer, _, scheme = name.rpartition(" · ")
    return layer, scheme


def _stay(study: str) -> str:
    return f"sensitivity_stay_{study}"


def _left(study: str) -> str:
    return f"sensitivity_left_{study}"
