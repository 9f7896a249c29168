"""The pages: their files, titles, icons and groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

FOLDER = Path(__file__).resolve().parent.parent / "pages"


@dataclass(frozen=True)
class PageInfo:
    """One page of the app."""

    name: str
    title: str
    icon: str
    group: str


PAGES: tuple[PageInfo, ...] = (
    PageInfo("open", "Open", ":material/folder_open:", "Start"),
    PageInfo("structure", "Structure", ":material/account_tree:", "Inspect"),
    PageInfo("runtime", "Runtime", ":material/timer:", "Inspect"),
    PageInfo("memory", "Memory", ":material/memory:", "Inspect"),
    PageInfo("code", "Code", ":material/code:", "Inspect"),
    PageInfo("suggestions", "Suggestions", ":material/lightbulb:", "Improve"),
    PageInfo("sensitivity", "Sensitivity", ":material/thermostat:", "Improve"),
    PageInfo("optimize", "Optimize", ":material/tune:", "Improve"),
    PageInfo("compare", "Compare", ":material/compare_arrows:", "Improve"),
    PageInfo("export", "Export", ":material/package_2:", "Deliver"),
    PageInfo("history", "History", ":material/history:", "Deliver"),
)
_BY_NAME = {each.name: each for each in PAGES}


def grouped_pages() -> dict[str, list[StreamlitPage]]:
    """The pages as `st.navigation` takes them."""
    groups: dict[str, list[StreamlitPage]] = {}
    for each in PAGES:
        groups.setdefault(each.group, []).append(page(each.name))
    return groups


def page(name: str) -> StreamlitPage:
    """The page of that name."""
    known = _BY_NAME[name]
    return st.Page(
        FOLDER / f"{name}.py",
        title=known.title,
        icon=known.icon,
        url_path=name,
        default=name == PAGES[0].name,
    )


def name_of(shown: StreamlitPage) -> str:
    """The name of a page; the default page's address is empty."""
    return shown.url_path or PAGES[0].name


def go(name: str) -> None:
    """Switches to a page; the study and the comparison stay."""
    from workbench.session import address

    st.switch_page(page(name), query_params=address())


def leave_open(shown: StreamlitPage) -> None:
    """Goes on from the Open page to what a model that has just been opened has to show."""
    from workbench.session import current

    following, current().leave_open_for = current().leave_open_for, None
    if following is not None and name_of(shown) == PAGES[0].name:
        go(following)


def link(name: str, label: str, *, icon: str | None = None) -> None:
    """A link to a page that keeps the study and the comparison."""
    from workbench.session import address

    st.page_link(page(name), label=label, icon=icon or _BY_NAME[name].icon, query_params=address())
