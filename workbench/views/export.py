"""The Export page: a format, a folder, the proof, and the same as a command and a script."""

from __future__ import annotations

import shlex
from pathlib import Path

import streamlit as st

from engine import api
from engine.optimize.recipe import recipe_text
from engine.records import Artifact, Certificate, Study, to_plain
from workbench import jobs, layout, session
from workbench.quantities import ago_text, bytes_text, digits, ms_text

_LIMITS = {
    "safetensors": "Needs torch and safetensors. Holds int8 weights as int8. The code is readable.",
    "huggingface": "Hugging Face models only; kv_cache and dynamic_int8 have no place in it.",
    "torch_export": "Needs torch only. No packed int8 weights. Two files for a cached decoder.",
    "aot_inductor": "Fastest to call. Tied to this kind of processor and this version of torch.",
    "onnx": "Needs ONNX Runtime. int8 is done again by its own quantizer; no bfloat16.",
}


def show(study: Study) -> None:
    """The page for a study that is open."""
    jobs.show_ended(("export", "verify"))
    recipes = _recipes(study)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        recipe, name, out = _form(study, recipes)
    with right:
        _same_elsewhere(study, recipe, name, out)
    found = session.artifacts(study.id)
    if not found:
        st.caption(
            "Nothing is exported yet. An export is written, loaded again in a clean process where"
            " this project cannot be imported, compared with the variant, timed, and gets a"
            " certificate."
        )
        return
    st.markdown("#### Exported")
    for index, artifact in enumerate(found):
        _artifact(artifact, expanded=index == 0)


def _recipes(study: Study) -> list[str]:
    drafted = recipe_text(session.recipe())
    found = [drafted] if session.recipe().steps else []
    for comparison in session.comparisons(study.id):
        found += [each.recipe for each in comparison.variants if each.error is None]
    return list(dict.fromkeys([*found, "baseline"]))


def _form(study: Study, recipes: list[str]) -> tuple[str, str, str]:
    with layout.card("What to export"):
        recipe = st.selectbox(
            "Recipe",
            recipes,
            format_func=_recipe_words,
            help="The recipe on the Optimize page comes first, then every variant compared.",
            key="export_recipe",
        )
        name = st.selectbox(
            "Format",
            list(api.FORMATS),
            format_func=lambda each: f"{each}: {api.FORMATS[each]}",
            key="export_format",
        )
        st.caption(_LIMITS[name])
        suggested = Path.home() / "model-workbench-exports" / f"{study.model.name}-{name}"
        out = st.text_input(
            "Folder",
            value=str(suggested),
            key=f"export_out_{study.id}_{name}",
            help="A new or empty folder on this machine, or an earlier export, which is replaced.",
        )
        if jobs.show_active(("export", "verify")):
            return recipe, name, out
        if st.button(
            "Export and prove it",
            type="primary",
            icon=":material/verified:",
            disabled=not out.strip(),
            help=None if out.strip() else "Give a folder first.",
        ):
            title = f"Export {study.model.name} as {name}"
            asked = api.request_of(study)
            if jobs.start(
                "export", title, request=asked, recipe=recipe, format=name, out=out.strip()
            ):
                st.rerun()
    return recipe, name, out


def _recipe_words(text: str) -> str:
    return "baseline (no step)" if text == "baseline" else text.replace(",", " → ")


def _same_elsewhere(study: Study, recipe: str, name: str, out: str) -> None:
    model = study.reference.location
    sizes = {
        flag: value
        for flag, value in to_plain(study.workload).items()
        if value is not None and flag not in ("seed",)
    }
    flags = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in sizes.items())
    command = (
        f"workbench export {shlex.quote(model)} {flags} \\\n  --recipe {shlex.quote(recipe)}"
        f" \\\n  --format {name} --out {shlex.quote(out)}"
    )
    arguments = "".join(f",\n    {key}={value!r}" for key, value in sizes.items())
    script = (
        f"from engine import api\n\nrequest = api.request(\n    {model!r}{arguments},\n)\n"
        f"artifact = api.export(\n    request,\n    {recipe!r},\n    format={name!r},\n"
        f"    out={out!r},\n)\nprint(artifact.verdict, artifact.path)\n"
    )
    with layout.card("The same elsewhere"):
        shell, python, check = st.tabs(["Command line", "Python", "CI check"])
        shell.code(command, language="bash", wrap_lines=True)
        python.code(script, language="python")
        check.code(
            f"# exits with 1 where the artifact no longer proves itself\n"
            f"workbench verify {shlex.quote(out)} --json",
            language="bash",
            wrap_lines=True,
        )


def _artifact(artifact: Artifact, *, expanded: bool) -> None:
    certificate = artifact.certificate
    passed = artifact.verdict == "PASSED"
    icon = ":material/verified:" if passed else ":material/gpp_bad:"
    colour = "green" if passed else "red"
    made = ago_text(certificate.created)
    title = f"{icon} :{colour}[**{artifact.verdict}**] · {artifact.format} · {made}"
    with st.expander(title, expanded=expanded):
        st.code(artifact.path, language=None, wrap_lines=True)
        _figures(artifact)
        _checks(certificate)
        for note in certificate.notes:
            st.markdown(f"- {note}")
        _actions(artifact)


def _figures(artifact: Artifact) -> None:
    certificate = artifact.certificate
    columns = st.columns(4)
    columns[0].metric("Size on disk", bytes_text(artifact.size_bytes), border=True)
    columns[1].metric("Largest relative error", _error_text(artifact), border=True)
    for column, (name, latency) in zip(columns[2:], certificate.latency_ms.items(), strict=False):
        column.metric(f"Latency, {name}", ms_text(latency), border=True)
    st.caption(
        f"Recipe: {_recipe_words(certificate.recipe)}. The two latencies come from two processes"
        " one after the other: for a difference that counts, compare."
    )


def _error_text(artifact: Artifact) -> str:
    error = artifact.max_relative_error
    return "did not run" if error > 1e300 else digits(error)


def _checks(certificate: Certificate) -> None:
    st.dataframe(
        [
            {"": "✓" if each.passed else "✗", "Check": each.name, "Found": each.detail}
            for each in certificate.checks
        ],
        hide_index=True,
        column_config={"": st.column_config.TextColumn(width=40)},
    )


def _actions(artifact: Artifact) -> None:
    path = Path(artifact.path)
    folder = path if path.is_dir() else path.parent
    page = folder / "certificate.html"
    with st.container(horizontal=True):
        again = st.button(
            "Verify again", icon=":material/refresh:", key=f"verify_{artifact.certificate.created}"
        )
        if again and jobs.start("verify", f"Verify {folder.name}", path=str(folder)):
            st.rerun()
        if page.is_file():
            st.download_button(
                "Certificate (HTML)",
                page.read_bytes(),
                file_name=f"{folder.name}-certificate.html",
                mime="text/html",
                icon=":material/download:",
                key=f"page_{artifact.path}_{artifact.certificate.created}",
            )
        else:
            st.caption("The folder is no longer there.")
