"""The module that is chosen on the Structure page, whichever view it was chosen in."""

from __future__ import annotations

from engine.records import ModuleProfile, Profile
from workbench import session, tree


def chosen() -> str | None:
    """The dotted path of the chosen module of this study."""
    return session.current().module


def choose(path: str | None) -> None:
    """Chooses a module on every view; with None or an empty path, none."""
    session.choose_module(path)


def find(profile: Profile, path: str | None) -> ModuleProfile | None:
    """The profile's row of a module."""
    if path is None:
        return None
    is_model = path in ("", tree.ROOT)
    for each in profile.modules:
        if each.name == path or (is_model and tree.is_root(each)):
            return each
    return None
