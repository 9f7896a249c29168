"""The module that is chosen on the Structure page, whichever view it was chosen in."""

from __future__ import annotations

import streamlit as st

from engine.records import ModuleProfile, Profile
from workbench import session, tree

_KEY = "structure_module"


def chosen() -> str | None:
    """The dotted path of the chosen module of this study."""
    study, name = st.session_state.get(_KEY, (None, None))
    return name if study == session.current().study else None


def choose(name: str | None) -> None:
    """Chooses a module on every view; with None or an empty name, none."""
    st.session_state[_KEY] = (session.current().study, name or None)


def find(profile: Profile, name: str | None) -> ModuleProfile | None:
    """The profile's row of a module."""
    if name is None:
        return None
    is_model = name in ("", tree.ROOT)
    for each in profile.modules:
        if each.name == name or (is_model and tree.is_root(each)):
            return each
    return None
