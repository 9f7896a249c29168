"""Findings in the code as cards, the costliest first, with their lines marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import streamlit as st

from engine.records import CodeFinding, CodeReport, SourcePlace, Step
from workbench import layout, session, source_html
from workbench.quantities import bytes_text, count_text, digits, ms_text, percent_text

_COLOURS = {"high": "red", "medium": "orange", "low": "gray"}
_MODULES = 3
_SMALL = 0.01


def show(report: CodeReport) -> None:
    """Own findings with filters, and those in libraries folded."""
    if not report.findings:
        layout.empty(
            ":material/thumb_up:",
            "Nothing was found",
            "No rule found anything in this code that could be written better. The annotated"
            " source shows where the time goes.",
        )
        return
    own = [each for each in report.findings if each.origin == "own"]
    library = [each for each in report.findings if each.origin == "library"]
    if own:
        shown = _filtered(own)
        st.caption(f"{len(shown)} of {len(own)} findings, the costliest first.")
        large = [each for each in shown if not _is_small(each)]
        for index, each in enumerate(large):
            _card(each, f"own_{index}")
        _folded([each for each in shown if _is_small(each)])
    if library:
        label = f"In the library's code ({len(library)})"
        with st.expander(label, icon=":material/library_books:", expanded=not own):
            st.caption(
                "You did not write these lines: a technique, another attention implementation or a"
                " newer version can change them."
            )
            for index, each in enumerate(library):
                _card(each, f"library_{index}")


def lines_of(place: SourcePlace) -> None:
    """The source around a place, its lines marked."""
    texts = source_html.dedented([text for _, text, _ in place.lines])
    rows = [
        source_html.Row(number, text, is_marked=is_meant)
        for (number, _, is_meant), text in zip(place.lines, texts, strict=True)
    ]
    if any(each.text.strip() for each in rows):
        st.html(source_html.source(rows))
    else:
        st.caption(f"The source of {place.words} is not on this machine.")


def _is_small(each: CodeFinding) -> bool:
    return each.severity == "low" and each.share is not None and each.share < _SMALL


def _folded(found: Sequence[CodeFinding]) -> None:
    if found:
        with st.expander(
            f"Below 1 % of the run each ({len(found)})", icon=":material/unfold_more:"
        ):
            for index, each in enumerate(found):
                _card(each, f"small_{index}")


def _filtered(found: Sequence[CodeFinding]) -> list[CodeFinding]:
    titles = list(dict.fromkeys(each.title for each in found))
    files = list(dict.fromkeys(each.place.file for each in found))
    if len(found) < 3:
        return list(found)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        rule = st.multiselect(
            "Kind", titles, key="code_rules", placeholder="Every kind", width="stretch",
            label_visibility="collapsed",
        )  # fmt: skip
        file = st.selectbox(
            "File", [None, *files], key="code_file", width=260, label_visibility="collapsed",
            format_func=lambda each: PurePath(each).name if each else "Every file",
        )  # fmt: skip
    return [
        each
        for each in found
        if (not rule or each.title in rule) and (file is None or each.place.file == file)
    ]


def _card(each: CodeFinding, key: str) -> None:
    with st.container(border=True, key=f"finding_{key}"):
        left, right = st.columns([4, 1], gap="medium")
        with left:
            colour = _COLOURS[each.severity]
            st.markdown(f"#### {each.title} :{colour}-badge[{each.severity}]")
            where = f"`{each.place.words}`" + (f" in `{each.function}`" if each.function else "")
            st.markdown(f"{each.words} :gray[{where}{_modules(each.modules)}]")
        with right:
            st.metric(
                "Time at stake",
                percent_text(each.share) if each.share is not None else "not timed",
                ms_text(each.time_ms) + " a run" if each.time_ms is not None else None,
                delta_color="off", delta_arrow="off",
                help="What the run spends on these lines (for gradients: what the same calls save"
                " without them). At most this much can be won; findings may share lines.",
            )  # fmt: skip
        lines_of(each.place)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f":material/edit: **Instead.** {each.advice}", width="stretch")
            if each.technique:
                _technique(each, key)
        with st.expander("Why it costs, and what was seen", icon=":material/menu_book:"):
            _details(each)


def _technique(each: CodeFinding, key: str) -> None:
    name = each.technique or ""
    chosen = name in {step.technique for step in session.recipe().steps}
    if st.button(
        f"{name} is in the recipe" if chosen else f"Add {name}", key=f"technique_{key}",
        icon=":material/check:" if chosen else ":material/add:", disabled=chosen,
        help="It stands in the recipe on the Optimize page." if chosen
        else "This technique does it without a change of the code.",
    ):  # fmt: skip
        reason = session.add_steps((Step(name),))
        if reason:
            st.error(reason, icon=":material/error:")
        else:
            st.rerun()


def _details(each: CodeFinding) -> None:
    if each.theory:
        st.markdown(each.theory)
    for fact in each.evidence:
        value = _value(fact.value, fact.unit)
        st.markdown(f":gray[:material/analytics:] {fact.label}: **{value}**")
    seen = "seen in a run" if each.basis == "run" else "read in the source; it did not run here"
    calls = f", {digits(each.calls)} times in one run" if each.calls else ""
    st.caption(f"{seen.capitalize()}{calls}. {each.place.file}")
    if len(each.modules) > _MODULES:
        st.caption(f"Modules: {', '.join(each.modules)}")


def _value(value: float, unit: str) -> str:
    if unit == "bytes":
        return bytes_text(value)
    if unit == "share":
        return percent_text(value)
    return count_text(value, unit) if value < 1000 else f"{count_text(value).strip()} {unit}"


def _modules(names: Sequence[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(f"`{name}`" for name in names[:_MODULES])
    more = len(names) - _MODULES
    return f" · run by {shown}" + (f" and {more} more" if more > 0 else "")
