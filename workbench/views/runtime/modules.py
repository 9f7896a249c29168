"""Modules as a tree: the picture, and the table with every column."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from engine.records import TraceModule
from workbench import charts, session, tables, tree
from workbench.quantities import ms_text, percent_text
from workbench.views.runtime import recording, rows
from workbench.views.runtime.subject import Subject

_INDENT = "\u2003"
_MANY = 250
_Value = Callable[[TraceModule], float | None]


def show(subject: Subject) -> None:
    """The view Modules."""
    modules = subject.rank.modules
    if not modules:
        st.info(
            "This trace names no modules. Record it with `with_stack=True`: then their classes"
            " stand here. A model that is opened and profiled here has every module by its path.",
            icon=":material/account_tree:",
        )
        recording.how()
        return
    on_device = any(each.device_total_ms for each in modules)
    _picture(subject, on_device=on_device)
    _table(subject, on_device=on_device)


def _picture(subject: Subject, *, on_device: bool) -> None:
    where = "device" if on_device else "host"
    nodes, left_out = tree.module_tree(
        subject.rank.modules,
        _weight(on_device),
        lambda each: each.device_self_ms if on_device else each.self_ms,
    )
    unit = f"ms on the {where}"
    chart = tree.icicle(
        nodes, root=subject.name, unit=f"{unit} with everything below", colour_unit="ms self"
    )
    chart.update_layout(height=340)
    slowest = max(
        subject.rank.modules, key=lambda each: each.device_self_ms if on_device else each.self_ms
    )
    time = slowest.device_self_ms if on_device else slowest.self_ms
    shade = "bright" if charts.is_dark() else "dark"
    words = (
        f"Wide is long, {shade} is time spent in the module itself."
        f" `{subject.module_name(slowest)}` itself takes {ms_text(time / subject.divisor)}"
        f" on the {where}, more than any other."
        " Click a module to enter it, its parent to leave."
    )
    if left_out:
        words += f" {left_out} short modules are left out of the picture, not of the table."
    charts.show(chart, words, key="runtime_flame")


def _table(subject: Subject, *, on_device: bool) -> None:
    ordered = tree.in_order(subject.rank.modules, _weight(on_device))
    deepest = max(depth for depth, _ in ordered)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        levels = [*range(1, min(deepest, 6) + 1), 0] if deepest else [0]
        level = st.segmented_control(
            "Levels", levels, default=3 if len(ordered) > _MANY and deepest > 3 else 0,
            required=True, key="module_levels",
            format_func=lambda each: str(each) if each else "All",
            help="How deep the tree is shown. Each level stands with the slowest first.",
        )  # fmt: skip
        only = _only_with_operator(subject)
    kept = [
        (depth, each)
        for depth, each in ordered
        if (not level or depth <= level) and (only is None or each.name in only)
    ]
    frame = frame_of(subject, kept, on_device=on_device)
    tables.show(
        frame, key="runtime_modules", search="Search, or self>1", height=520,
        file=subject.file_name("modules"),
        columns={
            "Tree": st.column_config.TextColumn(pinned=True, width="medium"),
            "Share": tables.share("Share", "Everything below the module included."),
            "Total": tables.milliseconds("Host total", "Everything below it included."),
            "Self": tables.milliseconds("Host self", "Modules that it calls are left out."),
            "Device total": tables.milliseconds("Device total"),
            "Device self": tables.milliseconds("Device self"),
            "Calls": st.column_config.NumberColumn(format="%.6g"),
            "Operators": st.column_config.NumberColumn(help="Operator calls below it."),
            "GFLOP": st.column_config.NumberColumn(format="%.4g"),
            "GFLOP/s": st.column_config.NumberColumn(format="%.4g"),
            "Moved": tables.megabytes("Moved", "Inputs, outputs and weights, once each."),
            "Allocated": tables.megabytes("Allocated", "By its operators, per the trace."),
            "Parameters": st.column_config.NumberColumn(format="localized"),
        },
    )  # fmt: skip
    _words(subject, frame)


def frame_of(
    subject: Subject, ordered: list[tuple[int, TraceModule]], *, on_device: bool
) -> pd.DataFrame:
    """The rows of the table in the order of the tree; columns that the trace lacks are left out."""
    rank, divisor = subject.rank, subject.divisor
    weight = _weight(on_device)
    longest = max((weight(each) for each in rank.modules), default=0.0)
    whole = (longest if on_device else max(rank.span_ms, longest)) or 1.0
    outside = rank.outside_modules_ms
    extra = [] if outside is None else [None]
    found = [each for _, each in ordered]

    def column(value: _Value, of_outside: float | None = None) -> list[float | None]:
        return [*(value(each) for each in found), *(of_outside for _ in extra)]

    frame = pd.DataFrame(
        {
            "Tree": [
                *(f"{_INDENT * depth}{_leaf(each, subject)}" for depth, each in ordered),
                *(rows.OUTSIDE for _ in extra),
            ],
            "Type": [*(each.type for each in found), *("–" for _ in extra)],
            "Share": column(lambda each: weight(each) / whole,
                            None if on_device or outside is None else outside / whole),
            "Total": column(lambda each: each.total_ms / divisor, (outside or 0.0) / divisor),
            "Self": column(lambda each: each.self_ms / divisor, (outside or 0.0) / divisor),
            "Device total": column(lambda each: each.device_total_ms / divisor),
            "Device self": column(lambda each: each.device_self_ms / divisor),
            "Calls": column(lambda each: each.calls / divisor),
            "Operators": column(lambda each: each.operators / divisor),
            "GFLOP": column(lambda each: None if each.flops is None else each.flops / 1e9),
            "GFLOP/s": column(lambda each: _speed(each, weight)),
            "Moved": column(
                lambda each: None if each.moved_bytes is None else each.moved_bytes / 2**20
            ),
            "Allocated": column(
                lambda each: None if each.allocated_bytes is None else each.allocated_bytes / 2**20
            ),
            "Parameters": column(lambda each: each.parameters),
            "dtype": [*(each.dtype for each in found), *("" for _ in extra)],
            "Module": [
                *map(subject.module_name, found),
                *(rows.OUTSIDE for _ in extra),
            ],
        }
    )  # fmt: skip
    numbers = list(frame.columns[2:14])
    frame[numbers] = frame[numbers].astype(float)
    lacking = [each for each in numbers[3:] if frame[each].isna().all()]
    if not frame["Operators"].any():
        lacking.append("Operators")
    if not on_device:
        lacking += ["Device total", "Device self"]
    if not frame["dtype"].astype(bool).any():
        lacking.append("dtype")
    return frame.drop(columns=list(dict.fromkeys(lacking)))


def _weight(on_device: bool) -> Callable[[TraceModule], float]:
    if on_device:
        return lambda each: each.device_total_ms
    return lambda each: each.total_ms


def _leaf(each: TraceModule, subject: Subject) -> str:
    if tree.is_root(each):
        return subject.name
    return each.name.rpartition(".")[2] or each.name


def _speed(each: TraceModule, weight: Callable[[TraceModule], float]) -> float | None:
    time_ms = weight(each)
    return each.flops / 1e6 / time_ms if each.flops and time_ms else None


def _only_with_operator(subject: Subject) -> set[str] | None:
    chosen = session.current().operator
    if chosen is None:
        return None
    own = {each.module for each in subject.rank.operators if each.name == chosen}
    above = {
        prefix
        for name in own
        for prefix in (name.rsplit(".", cut)[0] for cut in range(name.count(".") + 1))
    }
    only = st.toggle(
        f"Only those that call {chosen}", value=False, key="modules_only", disabled=not any(own),
        help=None if any(own) else "No module of this trace is known to call it.",
    )  # fmt: skip
    return above | {""} if only else None


def _words(subject: Subject, frame: pd.DataFrame) -> None:
    outside = subject.rank.outside_modules_ms
    words = [f"Times are of {subject.per}."]
    if outside is not None:
        part = outside / (subject.rank.span_ms or 1.0)
        words.append(
            f"{ms_text(outside / subject.divisor)} ({percent_text(part)}) belong to no module:"
            " what the loop around the model does, such as choosing the next token."
        )
    lacking = [each for each in ("GFLOP", "Moved", "Allocated") if each not in frame]
    if lacking and subject.profile is None:
        words.append(
            f"{', '.join(lacking)}: not in this trace. Opening the model itself counts them."
        )
    st.caption(" ".join(words))
