"""The page Export: a format, a folder, the proof."""

from __future__ import annotations

import shlex
from pathlib import Path

import streamlit as st

from engine import api
from engine.optimize.recipe import recipe_text
from engine.records import Artifact, Certificate, Study, to_json
from workbench import jobs, layout, session
from workbench.quantities import ago_text, bytes_text, digits, ms_text

_TITLES = {
    "safetensors": "safetensors",
    "huggingface": "Hugging Face folder",
    "torch_export": "torch.export",
    "aot_inductor": "AOTInductor",
    "onnx": "ONNX",
    "openvino": "OpenVINO",
}


def form(study: Study) -> None:
    """What is exported, how and where to; the button that does it."""
    recipes = _recipes(study)
    with layout.card("What and where to"):
        recipe = st.selectbox(
            "Recipe", recipes, key=f"export_recipe_{study.id}",
            help="The draft of the Optimize page first, then what was measured.",
        )  # fmt: skip
        format_ = st.radio(
            "Format", list(api.FORMATS), format_func=lambda each: _TITLES.get(each, each),
            captions=list(api.FORMATS.values()), key="export_format",
        )  # fmt: skip
        limit = _limit(study, format_ or "safetensors")
        folder = st.text_input(
            "Folder", str(_default_folder(study, format_ or "safetensors")),
            key=f"export_out_{study.id}_{format_}",
            help="On the machine that runs the app. What fails its proof is kept apart from it.",
        )  # fmt: skip
        reason = limit or ("" if (folder or "").strip() else "The folder is empty: type one.")
        if st.button(
            "Export and prove", type="primary", icon=":material/package_2:", key="export_start",
            disabled=bool(reason), help=reason or None,
        ):  # fmt: skip
            started = jobs.start(
                "export", f"Export {study.model.name} as {_TITLES.get(format_ or '', format_)}",
                request=api.request_of(study), recipe=recipe or "baseline", format=format_,
                out=str(Path(folder).expanduser().absolute()),
            )  # fmt: skip
            if started:
                st.rerun()
        if reason:
            st.caption(f":material/block: {reason}")
    with st.expander("The same as a command and in Python", icon=":material/terminal:"):
        flags = ["--recipe", shlex.quote(recipe or "baseline"), "--format", str(format_), "--out",
                 shlex.quote(folder or "")]  # fmt: skip
        st.code(
            f"{api.command(study, 'export', *flags)}\nworkbench verify {flags[-1]}",
            language="bash", wrap_lines=True,
        )  # fmt: skip
        st.code(
            "from engine import api\n\n"
            f"request = api.request({api.request_arguments(study)})\n"
            f'artifact = api.export(request, "{recipe}", format="{format_}", out={folder!r})\n'
            'assert artifact.verdict == "PASSED"\n',
            language="python", wrap_lines=True,
        )  # fmt: skip


def artifacts(found: list[Artifact]) -> None:
    """What was exported, each with its certificate."""
    if not found:
        layout.empty(
            ":material/workspace_premium:", "Nothing exported yet",
            "An export is loaded again in a clean process where this project cannot be imported,"
            " compared with the variant, and timed. Its certificate appears here.",
        )  # fmt: skip
        return
    for index, each in enumerate(found):
        _artifact(each, is_open=index == 0)


def _artifact(each: Artifact, *, is_open: bool) -> None:
    passed = each.verdict == "PASSED"
    with st.container(border=True, key=f"artifact_{content_key(each)}"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(
                each.verdict, color="green" if passed else "red",
                icon=":material/verified:" if passed else ":material/gpp_bad:",
            )  # fmt: skip
            st.markdown(
                f"**{_TITLES.get(each.format, each.format)}** · `{each.certificate.recipe}`"
            )
            st.caption(ago_text(each.certificate.created))
        if not passed:
            st.error(
                "This artifact did **not** prove itself. It is kept apart; do not use it.",
                icon=":material/gpp_bad:",
            )
        st.code(each.path, language=None, wrap_lines=True)
        st.caption(
            f"{bytes_text(each.size_bytes)} on disk · largest relative error"
            f" {digits(each.max_relative_error)}"
        )
        with st.expander("Certificate", expanded=is_open, icon=":material/workspace_premium:"):
            _certificate(each.certificate, content_key(each))
        folder = folder_of(each)
        again = st.button(
            "Verify again", key=f"verify_{content_key(each)}", icon=":material/fact_check:",
            help="Loads it in a clean process and holds it against its certificate.",
        )  # fmt: skip
        if again and jobs.start("verify", f"Verify {folder.name}", path=str(folder)):
            st.rerun()


def _certificate(found: Certificate, key: str) -> None:
    for check in found.checks:
        sign = ":green[:material/check_circle:]" if check.passed else ":red[:material/cancel:]"
        word = "" if check.passed else "**FAILED** · "
        st.markdown(f"{sign} {word}**{check.name}** · {check.detail}")
    if found.latency_ms:
        timed = " · ".join(
            f"{name} **{ms_text(value)}**" for name, value in found.latency_ms.items()
        )
        st.markdown(f":material/timer: {timed}")
    for note in found.notes:
        st.markdown(f":material/info: {note}")
    st.caption("Versions")
    st.markdown(" ".join(f":gray-badge[{name} {v}]" for name, v in found.versions.items()))
    st.caption("Files (SHA-256)")
    lines = [f"{value[:24]}…  {name}" for name, value in found.hashes.items()]
    st.code("\n".join(lines) or "none", language=None)
    st.download_button(
        "certificate.json", to_json(found), file_name="certificate.json", mime="application/json",
        icon=":material/download:", on_click="ignore", key=f"certificate_{key}",
    )  # fmt: skip


def folder_of(each: Artifact) -> Path:
    """The folder of an artifact; its path may be the file of the model in it."""
    path = Path(each.path)
    return path.parent if path.suffix else path


def content_key(each: Artifact) -> str:
    """What tells one artifact's widgets from another's."""
    return f"{abs(hash((each.path, each.certificate.created))):x}"


def _recipes(study: Study) -> list[str]:
    found = [recipe_text(session.recipe())]
    for comparison in session.comparisons(study.id):
        found += [each.recipe for each in comparison.variants if each.error is None]
    return list(dict.fromkeys([*(each for each in found if each != "baseline"), "baseline"]))


def _limit(study: Study, format_: str) -> str:
    if format_ == "huggingface" and study.model.source not in ("huggingface", "hugging_face"):
        return "Only a model that was opened from a Hugging Face folder has this format."
    if format_ == "onnx" and not {"onnx", "onnxruntime"} <= set(session.machine().versions):
        missing = {"onnx", "onnxruntime"} - set(session.machine().versions)
        return f"It needs {' and '.join(sorted(missing))}: pip install 'model-workbench[onnx]'."
    return ""


def _default_folder(study: Study, format_: str) -> Path:
    return session.store().artifacts_folder / f"{study.model.name}-{format_}"
