"""The tour: six steps from a sample card to an export, each done when the store shows it."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from workbench import navigation, session

STEPS: tuple[tuple[str, str, str], ...] = (
    ("open", "Open", "Choose a sample; it is opened, counted and run once."),
    ("runtime", "See", "Find out where the time goes, then look at Memory and Structure."),
    ("suggestions", "Decide", "Add the first suggestion to the recipe; read why it is proposed."),
    ("optimize", "Build", "Toggle steps, watch the prediction change, then build and measure."),
    ("compare", "Compare", "Is it really faster, and what did it cost in quality?"),
    ("export", "Export", "Leave with a model that has proved itself in a clean process."),
)


def show(page: str) -> None:
    """The tour's bar above the page, while the tour is on."""
    if not session.current().tour:
        return
    names = [name for name, _, _ in STEPS]
    here = names.index(page) if page in names else None
    with st.container(
        border=True, horizontal=True, vertical_alignment="center", key="tour", gap="medium"
    ):
        for index, (name, label, _) in enumerate(STEPS):
            icon = (
                ":material/check_circle:" if _is_done(name) else f":material/counter_{index + 1}:"
            )
            navigation.link(name, f"**{label}**" if index == here else label, icon=icon)
        st.caption(STEPS[here][2] if here is not None else "", width="stretch")
        if st.button("End tour", type="tertiary", icon=":material/close:", key="tour_end"):
            session.current().tour = False
            st.rerun()


def _is_done(name: str) -> bool:
    checks: dict[str, Callable[[], bool]] = {
        "open": lambda: session.study() is not None,
        "runtime": lambda: session.profile() is not None,
        "suggestions": lambda: bool(session.recipe().steps),
        "optimize": lambda: session.comparison() is not None,
        "compare": lambda: session.comparison() is not None,
        "export": lambda: bool(session.artifacts(session.current().study)),
    }
    return session.current().study is not None and checks[name]()
