"""The page Open: samples, own models, recent studies, this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from engine import api
from engine.errors import UntrustedCode
from engine.models.catalog import SampleCard
from engine.records import Machine, ModelReference, StudyRequest
from workbench import data_form, jobs, layout, navigation, session, trust, workload_form
from workbench.quantities import ago_text, bytes_text, count_text
from workbench.views.runtime import importing

_KINDS = {
    "Hugging Face": ":material/folder: Hugging Face folder or id",
    "Python": ":material/code: Python file",
    "Weights": ":material/database: Weights",
}


def samples() -> None:
    """A card for each sample, with one click that opens it and one that starts the tour."""
    cards = api.models()
    if not cards:
        layout.empty(
            ":material/inventory_2:", "No samples here",
            "This installation brings no sample models. Open one of your own below.",
        )  # fmt: skip
        return
    is_busy = bool(session.current().jobs)
    # The trained language model leads: it shows the most of what this app is for.
    ordered = sorted(
        cards, key=lambda each: (each.metric != "perplexity", each.metric == "fidelity")
    )
    for column, card in zip(st.columns(len(cards)), ordered, strict=True):
        with column.container(
            border=True, height="stretch", key=f"sample_{card.name}",
            vertical_alignment="distribute",
        ):  # fmt: skip
            _sample(card, is_busy)


def own_model() -> None:
    """The forms for a model of one's own."""
    kind = st.segmented_control(
        "Where the model is", list(_KINDS), format_func=_KINDS.__getitem__,
        default="Hugging Face", required=True, key="own_kind", label_visibility="collapsed",
    )  # fmt: skip
    # No form: the quality data's first rows and columns follow what is typed.
    with st.container(border=True, key="own_model"):
        reference = _FORMS[kind or "Hugging Face"]()
        st.markdown("###### Workload")
        workload = workload_form.workload(session.machine())
        st.markdown("###### Quality data")
        quality = data_form.quality(data_form.tokenizer_of(reference.location))
        runtime = st.toggle(
            "Run it as well: trace, latency, memory", True,
            help="Off: counts only, on the meta device; for models larger than this machine.",
        )  # fmt: skip
        sent = st.button("Open", key="own_open", type="primary", icon=":material/folder_open:")
    if sent:
        _submit(reference, StudyRequest(reference, workload, quality), runtime)


def trouble() -> None:
    """How the last opening failed; for untrusted code, the dialog that asks for trust."""
    refusal = jobs.ended_error(("open", "profile", "trace"))
    if refusal is not None and refusal.kind == UntrustedCode.__name__:
        trust.ask(refusal)
    else:
        jobs.show_ended(("open", "profile", "trace"))


def trace() -> None:
    """A trace without a model: opened by path or upload, and those that were opened before."""
    importing.form(key="open")
    if any(each.study is None for each in session.traces()):
        st.markdown("###### Opened before")
        importing.listing(key="open", most=4)


def recent() -> None:
    """The newest studies, each one click away."""
    found = session.studies()[:6]
    if not found:
        st.caption("Nothing yet: what you open stands here, also after a restart.")
    for study in found:
        with st.container(horizontal=True, vertical_alignment="center", wrap=False):
            st.markdown(
                f"**{study.model.name}** :gray[{ago_text(study.created)}]  \n"
                f":small[{layout.workload_words(study)}]", width="stretch",
            )  # fmt: skip
            if st.button("Open", key=f"recent_{study.id}"):
                session.choose_study(study.id)
                navigation.go("runtime")


def machine_card(machine: Machine) -> None:
    """What this machine can do."""
    st.markdown(f"**{machine.cpu}**")
    st.caption(
        f"{machine.cores} cores · {bytes_text(machine.memory_bytes)} memory · {machine.system}"
    )
    with st.container(horizontal=True, gap="xsmall"):
        for feature in machine.features:
            st.badge(feature, color="violet")
        for gpu in machine.gpus:
            st.badge(
                f"{gpu.name} · {bytes_text(gpu.memory_bytes)}",
                icon=":material/developer_board:", color="green",
            )  # fmt: skip
        if not machine.gpus:
            st.badge("no GPU", color="gray", help="Everything runs on the CPU.")
    versions = ("torch", "transformers", "onnxruntime", "python")
    named = [f"{name} {machine.versions[name]}" for name in versions if name in machine.versions]
    st.caption(" · ".join(named))


def _sample(card: SampleCard, is_busy: bool) -> None:
    with st.container():
        st.markdown(f"##### {card.title}")
        facts = [card.task.replace("-", " "),
                 f"{count_text(card.parameters)} parameters" if card.parameters else "",
                 bytes_text(card.size_bytes) if card.size_bytes else ""]  # fmt: skip
        st.caption(" · ".join(each for each in facts if each))
        st.markdown(card.description)
        if card.metric:
            st.badge(_metric(card), icon=":material/target:", color="green")
        options = _sample_options(card)
    reason = "A job is under way: it stands in the sidebar." if is_busy else None
    with st.container(horizontal=True):
        if st.button(
            "Open", key=f"open_{card.name}", type="primary", icon=":material/play_arrow:",
            disabled=is_busy, help=reason,
        ):  # fmt: skip
            _open_sample(card, options)
        if st.button(
            "Take the tour", key=f"tour_{card.name}", icon=":material/route:", disabled=is_busy,
            help=reason or "From here to an export in six steps, each explained.",
        ):  # fmt: skip
            session.current().tour = True
            _open_sample(card, options)


def _metric(card: SampleCard) -> str:
    value = card.values.get("metric_value", card.values.get("value"))
    metric = str(card.metric).replace("_", " ")
    if card.metric == "fidelity":
        return "fidelity to itself"
    return f"{metric} {value:.4g}" if isinstance(value, int | float) else metric


def _sample_options(card: SampleCard) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, told in card.options.items():
        choices = told.get("choices") if isinstance(told, dict) else None
        if choices:
            chosen[name] = st.segmented_control(
                name.replace("_", " ").capitalize(), choices,
                default=told.get("default", choices[0]), required=True,
                key=f"option_{card.name}_{name}", help=told.get("help"), format_func=_short,
            )  # fmt: skip
    return chosen


def _short(choice: Any) -> str:
    return count_text(choice) if isinstance(choice, int) else str(choice)


def _open_sample(card: SampleCard, options: dict[str, Any]) -> None:
    defaults = {name: told.get("default") for name, told in card.options.items()
                if isinstance(told, dict)}  # fmt: skip
    changed = {name: value for name, value in options.items() if value != defaults.get(name)}
    request = StudyRequest(ModelReference(card.name, changed))
    jobs.open_and_profile(request, name=card.name)


def _submit(reference: ModelReference, asked: StudyRequest, runtime: bool) -> None:
    if not reference.location:
        st.error(
            "The model's place is empty. Type a folder, an id or `file.py:build`.",
            icon=":material/error:",
        )
        return
    name = reference.location.rstrip("/").rpartition("/")[2]
    jobs.open_and_profile(asked, name=name, runtime=runtime)


def _hugging_face() -> ModelReference:
    place = st.text_input(
        "Folder or hub id", key="hf_location", placeholder="/models/my-model or org/name",
        help="safetensors or a weights-only checkpoint; remote code is never run."
        " An id is looked up on the hub only if it is not a folder and a network allows it.",
    )  # fmt: skip
    return ModelReference((place or "").strip())


def _python() -> ModelReference:
    place = st.text_input(
        "File and function", key="py_location", placeholder="path/to/file.py:build",
        help="`build()` returns the module; `example_inputs()` its inputs. Also"
        " `package.module:build`. You are asked before any code runs.",
    )  # fmt: skip
    return ModelReference((place or "").strip())


def _weights() -> ModelReference:
    left, right = st.columns(2)
    weights = left.text_input(
        "Weights", key="weights_path", placeholder="path/to/model.safetensors or .pt",
        help="Loaded without running code.",
    )  # fmt: skip
    place = right.text_input(
        "Python file that builds the module", key="weights_location",
        placeholder="path/to/file.py:build",
    )  # fmt: skip
    return ModelReference((place or "").strip(), weights=(weights or "").strip() or None)


_FORMS: dict[str, Callable[[], ModelReference]] = {
    "Hugging Face": _hugging_face,
    "Python": _python,
    "Weights": _weights,
}
