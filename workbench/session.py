"""What this browser tab looks at: one typed record of ids; the truth lies in the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import streamlit as st

from engine import api
from engine.errors import WorkbenchError
from engine.optimize.recipe import ordered
from engine.profile.machine import this_machine
from engine.records import (
    Artifact,
    CodeReport,
    Comparison,
    Frontier,
    Machine,
    MemoryReport,
    Profile,
    Recipe,
    Step,
    Study,
    StudyRequest,
    Suggestion,
    TraceReport,
    Tried,
)
from engine.store import Store

R = TypeVar("R")
_KEY = "workbench"


@dataclass
class Session:
    """The ids that a tab looks at.

    Attributes:
        study: the chosen study.
        comparison: the comparison on the Compare page; None for the newest.
        jobs: the jobs that this tab follows until they end.
        ended: the job that this tab saw end last, for the pages to tell of.
        tour: whether the tour's steps are shown.
        asked: the request that waits for the person's trust.
        leave_open_for: the page that follows the Open page once a model has been opened.
        trace: the imported trace that Runtime looks at; None for the study's own run.
        rank: which of the trace's files, by its place in the report.
        operator: the operator that is selected on every view.
        module: the module that is selected on every view of the Structure page, by its path.
        view: the view of the Runtime page.
        memory: the imported file that Memory looks at; None for the study's own run.
    """

    study: str | None = None
    comparison: str | None = None
    jobs: list[str] = field(default_factory=list)
    ended: str | None = None
    tour: bool = False
    asked: StudyRequest | None = None
    leave_open_for: str | None = None
    trace: str | None = None
    rank: int = 0
    operator: str | None = None
    module: str | None = None
    view: str | None = None
    memory: str | None = None


@dataclass(frozen=True)
class TraceName:
    """What lists of traces show of a report, without reading its rows."""

    id: str
    name: str
    created: float
    study: str | None = None


@st.cache_resource
def store() -> Store:
    """The store of this app."""
    return Store()


@st.cache_resource
def machine() -> Machine:
    """The machine that the app runs on."""
    return this_machine()


def current() -> Session:
    """This tab's session; on the first run it is seeded from the address."""
    if _KEY not in st.session_state:
        asked = st.query_params
        rank = asked.get("rank", "")
        st.session_state[_KEY] = Session(
            study=asked.get("study"), comparison=asked.get("comparison"), tour="tour" in asked,
            trace=asked.get("trace"), operator=asked.get("operator"), view=asked.get("view"),
            module=asked.get("module"),
            rank=int(rank) if rank.isdecimal() else 0, memory=asked.get("memory"),
        )  # fmt: skip
    found: Session = st.session_state[_KEY]
    return found


def address() -> dict[str, str]:
    """The ids as query parameters, so that a link or a refresh shows the same."""
    here = current()
    named = {
        "study": here.study, "comparison": here.comparison, "tour": "1" if here.tour else None,
        "trace": here.trace, "rank": str(here.rank) if here.rank else None,
        "operator": here.operator, "module": here.module, "view": here.view, "memory": here.memory,
    }  # fmt: skip
    return {name: value for name, value in named.items() if value}


def keep_address() -> None:
    """Writes the ids into the address of this tab."""
    wanted = address()
    if st.query_params.to_dict() != wanted:
        st.query_params.from_dict(wanted)


def choose_study(study: str | None) -> None:
    """Looks at another study."""
    here = current()
    if here.study != study:
        here.study, here.comparison, here.rank, here.operator = study, None, 0, None
        here.module = None
    choose_trace(None)


def choose_trace(trace: str | None) -> None:
    """Looks at an imported trace; with None, at the study's own run again."""
    here = current()
    if here.trace != trace:
        here.trace, here.rank, here.operator = trace, 0, None


def choose_operator(name: str | None) -> None:
    """Selects an operator on every view; with None, none."""
    current().operator = name


def choose_module(path: str | None) -> None:
    """Selects a module on every view; with None or an empty path, none."""
    current().module = path or None


def study() -> Study | None:
    """The chosen study; None where there is none, or where the store no longer has it."""
    chosen = current().study
    return _found("study", chosen, Study) if chosen else None


def profile() -> Profile | None:
    """The profile of the chosen study."""
    chosen = current().study
    return _found("profile", chosen, Profile) if chosen else None


def studies() -> list[Study]:
    """Every study, the newest first."""
    return sorted(store().list("study", Study), key=lambda each: -each.created)


def comparisons(study_id: str | None) -> list[Comparison]:
    """The comparisons of a study, the newest first."""
    found = store().list("comparison", Comparison, study=study_id)
    return sorted(found, key=lambda each: -each.created)


def comparison() -> Comparison | None:
    """The chosen comparison of the chosen study, or the newest one."""
    found = comparisons(current().study) if current().study else []
    chosen = [each for each in found if each.id == current().comparison]
    return (chosen or found or [None])[0]  # type: ignore[list-item]


def artifacts(study_id: str | None) -> list[Artifact]:
    """The artifacts of a study, the newest first."""
    found = store().list("artifact", Artifact, study=study_id)
    return sorted(found, key=lambda each: -each.certificate.created)


def traces() -> list[TraceName]:
    """Every trace that was read, of a study's own run or imported, the newest first."""
    return sorted(store().list("trace", TraceName), key=lambda each: -each.created)


def trace(id: str) -> TraceReport | None:
    """The report of a trace; None where the store no longer has it."""
    named = _found("trace", id, TraceName)
    return _report(id, named.created) if named else None


def memory(id: str) -> MemoryReport | None:
    """The memory report of a study's run, or of an imported file."""
    return _found("memory", id, MemoryReport)


def imported_memory() -> list[MemoryReport]:
    """The memory reports of imported files, the newest first."""
    return [each for each in store().list("memory", MemoryReport) if each.study is None]


def frontier(id: str) -> Frontier | None:
    """Which batches and sizes of a study fit."""
    return _found("frontier", id, Frontier)


def recipe() -> Recipe:
    """The recipe that is being put together for the chosen study."""
    chosen = current().study
    draft = _found("draft", chosen, Recipe) if chosen else None
    return draft or Recipe()


def keep_recipe(changed: Recipe) -> None:
    """Keeps the draft in the store."""
    chosen = current().study
    if chosen is not None:
        store().put("draft", chosen, changed, study=chosen)


def add_steps(steps: tuple[Step, ...]) -> str:
    """Adds steps to the draft; returns why that is impossible, or nothing.

    A technique that is already there takes the new parameters.
    """
    names = {step.technique for step in steps}
    kept = tuple(step for step in recipe().steps if step.technique not in names)
    try:
        keep_recipe(ordered(Recipe((*kept, *steps), recipe().name)))
    except WorkbenchError as error:
        return f"{error.message} {error.hint}".strip()
    return ""


def suggestions(profiled: Profile) -> tuple[Suggestion, ...]:
    """The suggestions for a profile."""
    code = _found("code", profiled.study.id, CodeReport)
    return api.suggest(
        profiled,
        machine=profiled.study.machine,
        code=code,
        tried=tried(profiled.study),
        store=store(),
    )


def tried(looked_at: Study) -> tuple[Tried, ...]:
    """What was tried before on the model and machine of a study, failures included."""
    return api.tried(looked_at, store=store())


def code() -> CodeReport | None:
    """What was found in the code of the chosen study's model."""
    chosen = current().study
    return _found("code", chosen, CodeReport) if chosen else None


@st.cache_resource(max_entries=6, show_spinner=False)
def _report(id: str, created: float) -> TraceReport | None:
    return _found("trace", id, TraceReport)


def _found(kind: str, name: str, type_: type[R]) -> R | None:
    try:
        return store().get(kind, name, type_)
    except (KeyError, WorkbenchError):
        return None
