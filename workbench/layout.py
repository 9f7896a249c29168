"""What every page has: header, figures, cards, notes under charts, empty states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from engine.records import Profile, Study
from workbench import navigation, session

_STYLE = """<style>
.stMainBlockContainer {padding: 2.6rem 2.4rem 4rem; max-width: 1500px;}
header[data-testid="stHeader"] {background: transparent; height: 2.2rem;}
[data-testid="stSidebarHeader"] {padding-top: 1rem; padding-bottom: .6rem;}
[data-testid="stSidebarUserContent"] {padding-bottom: 1.5rem;}
[data-testid="stMetricValue"] {font-size: 1.6rem; font-variant-numeric: tabular-nums;
  line-height: 1.3;}
[data-testid="stMetricLabel"] {opacity: .8;}
[data-testid="stMetric"] {height: 100%;}
[data-testid="stMetricValue"] div, [data-testid="stMetricLabel"] p {white-space: normal;
  overflow: visible; text-overflow: clip;}
@media (max-width: 1200px) {[data-testid="stMetricValue"] {font-size: 1.3rem;}
  .stMainBlockContainer {padding-inline: 1.6rem;}}
[data-testid="stHeaderActionElements"] {display: none;}
h1 {letter-spacing: -.015em; padding-bottom: .1rem !important;}
.st-key-page_header {padding-bottom: .6rem;}
.st-key-empty_state {padding: 3.2rem 1rem; text-align: center;}
.st-key-empty_state h3 {padding-bottom: .4rem;}
.st-key-empty_state p {max-width: 36rem; margin-inline: auto;}
[data-testid="stCaptionContainer"] p {line-height: 1.5;}
</style>"""


Colour = Literal["green", "red", "gray"]


@dataclass(frozen=True)
class Figure:
    """One number in the row at the top of a page."""

    label: str
    value: str
    change: str | None = None
    good: bool | None = None
    help: str | None = None
    words: str | None = None


def style() -> None:
    """The little that the theme file cannot say."""
    st.html(_STYLE)


def header(title: str, words: str) -> DeltaGenerator:
    """Title with one sentence below it; returns the place for actions at the right."""
    with st.container(key="page_header", horizontal=True, vertical_alignment="bottom"):
        with st.container(width="stretch", gap="small"):
            st.title(title, anchor=False)
            st.caption(words)
        return st.container(
            width="content", horizontal=True, horizontal_alignment="right", key="page_actions"
        )


def study_header(title: str, words: str) -> DeltaGenerator:
    """The header of a page about the chosen study: the study's words stand before the page's."""
    study = session.study()
    return header(title, f"{study_words(study)} — {words}" if study else words)


def figures(row: Sequence[Figure]) -> None:
    """A row of figures, each in its card; a good change is green, a bad one red."""
    colours: dict[bool | None, Colour] = {True: "green", False: "red", None: "gray"}
    for column, each in zip(st.columns(len(row)), row, strict=True):
        has_sign = each.change is not None and each.change[:1] in "+-"
        column.metric(
            each.label,
            each.value,
            each.change,
            delta_color=colours[each.good],
            delta_arrow="auto" if has_sign else "off",
            border=True,
            help=each.help,
            height="stretch",
            delta_description=each.words,
        )


def card(title: str, words: str = "", *, stretch: bool = False) -> DeltaGenerator:
    """A bordered card with a title; `stretch` makes it as high as its neighbour."""
    place = st.container(border=True, height="stretch" if stretch else "content")
    place.markdown(f"##### {title}")
    if words:
        place.caption(words)
    return place


def empty(icon: str, title: str, words: str, action: Callable[[], None] | None = None) -> None:
    """An empty state: what is missing, and the button that leads to it."""
    with st.container(border=True, key="empty_state", horizontal_alignment="center", gap="small"):
        st.markdown(f"### {icon} {title}", text_alignment="center")
        st.markdown(words, text_alignment="center")
        if action is not None:
            with st.container(horizontal=True, horizontal_alignment="center"):
                action()


def need_study() -> Study:
    """The chosen study; without one, the page ends with the way to the Open page."""
    found = session.study()
    if found is None:
        empty(
            ":material/deployed_code:",
            "No model is open",
            "Choose a sample, a Hugging Face folder or your own `build()` function."
            " Everything that is measured belongs to a model with its workload.",
            lambda: button("Open a model", "open", primary=True),
        )
        st.stop()
    return found


def need_weights() -> Study:
    """The chosen study; of a config without weights, the page ends with what can be seen of it."""
    found = need_study()
    if not found.model.has_weights:
        empty(
            ":material/inventory_2:",
            f"{found.model.name} has no weights",
            "There is only a config.json, so the model is counted and not run: parameters, FLOPs,"
            " bytes and predicted memory are there. To measure, optimize or export it, put its"
            " `.safetensors` files into the folder and open it again.",
            lambda: button("See its structure", "structure", primary=True),
        )
        st.stop()
    return found


def need_profile(*, runtime: bool = False) -> Profile:
    """The profile of the chosen study; without one, the page ends with a button that makes it."""
    from workbench import jobs

    study = need_weights() if runtime else need_study()
    found = session.profile()
    if found is not None and (found.latency_ms is not None or not runtime):
        return found
    if jobs.show_active(("profile",), study.id):
        st.stop()
    what = "It has been counted but not run yet" if found is not None else "It is not profiled yet"
    empty(
        ":material/monitoring:",
        f"{study.model.name}: no runtime profile" if runtime else f"{study.model.name}: no profile",
        f"{what}. A profile counts FLOPs and bytes of each module, runs the workload once under"
        " the profiler, and measures latency and memory in runs of their own. The model's"
        " answers do not change.",
        lambda: jobs.profile_button(study),
    )
    st.stop()


def study_words(study: Study) -> str:
    """The study in one line, for a page's header."""
    return f"{study.model.name} · {workload_words(study)} · {study.workload.device}"


def workload_words(study: Study) -> str:
    """The workload in a few words: `generate 8 + 100 tokens, batch 1`."""
    workload = study.workload
    sizes = {
        "generate": f"generate {workload.prompt_tokens} + {workload.new_tokens} tokens",
        "train_step": "training step",
        "forward": "forward",
    }[workload.kind]
    if workload.kind != "generate" and workload.sequence_length:
        sizes += f", {workload.sequence_length} tokens"
    if workload.image_size:
        sizes += f", {workload.image_size} px"
    threads = ""
    if workload.threads:
        threads = f", {workload.threads} thread{'s' if workload.threads > 1 else ''}"
    return f"{sizes}, batch {workload.batch}{threads}"


def next_step(words: str, label: str, page: str) -> None:
    """The way on, at the end of a page."""
    with st.container(horizontal=True, vertical_alignment="center", border=True):
        st.markdown(words, width="stretch")
        button(label, page, primary=True)


def button(label: str, page: str, *, primary: bool = False) -> None:
    """A button that goes to a page."""
    if st.button(label, type="primary" if primary else "secondary", key=f"go_{page}_{label}"):
        navigation.go(page)
