"""The timeline and the flame graph: every event of the trace, on a canvas."""

from __future__ import annotations

import streamlit as st

from workbench import session
from workbench.components import flame, timeline
from workbench.views.runtime import choosing
from workbench.views.runtime.subject import Subject

_HEIGHT = 560


def show_timeline(subject: Subject) -> None:
    """The view Timeline."""
    _take(subject, timeline.show(
        subject.rank, key=_key("timeline", subject), height=_HEIGHT,
        selected=session.current().operator,
    ))  # fmt: skip


def show_flame(subject: Subject) -> None:
    """The view Flame graph."""
    _take(subject, flame.show(
        subject.rank, key=_key("flame", subject), height=_HEIGHT,
        selected=session.current().operator,
    ))  # fmt: skip


def operator_of(subject: Subject, name: str) -> str | None:
    """The operator that a clicked event stands for: itself, or what launched the kernel."""
    if any(each.name == name for each in subject.rank.operators):
        return name
    for kernel in subject.rank.kernels:
        if kernel.name == name and kernel.operators:
            return kernel.operators[0]
    return None


def _take(subject: Subject, clicked: str | None) -> None:
    st.caption(
        ":material/touch_app: Click an operator, or a kernel, to select it on every view:"
        " Operators then tells its call stacks, kernels, modules and shapes."
    )
    if clicked is None:
        return
    if not clicked:
        choosing.pick_operator(None)
        return
    operator = operator_of(subject, clicked)
    if operator is not None:
        choosing.pick_operator(operator)


def _key(what: str, subject: Subject) -> str:
    return f"{what}_{subject.report.id}_{session.current().rank}"
