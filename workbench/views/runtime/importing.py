"""Traces that were made elsewhere: opened by path or upload, listed, deleted."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import streamlit as st

from workbench import jobs, navigation, session
from workbench.quantities import ago_text, verbatim

_UPLOAD = "upload-"
_LARGEST_UPLOAD_MB = 500


def form(*, key: str) -> None:
    """The controls that open a trace by its path, or by upload."""
    with st.form(f"{key}_trace", border=False):
        path = st.text_input(
            "Trace file, or a folder with the traces of several ranks", key=f"{key}_path",
            placeholder="/runs/job/trace.json.gz",
            help="What torch.profiler wrote, `.json` or `.json.gz`, on any machine: CPU, CUDA,"
            " ROCm. It is read where it lies, of any size.",
        )  # fmt: skip
        files = st.file_uploader(
            "Or upload", type=["json", "gz"], accept_multiple_files=True, key=f"{key}_files",
            max_upload_size=_LARGEST_UPLOAD_MB,
            help="Several files are ranks of one job. Larger ones are opened by their path.",
        )  # fmt: skip
        name = st.text_input("Name", key=f"{key}_name", placeholder="after the file")
        sent = st.form_submit_button("Open the trace", icon=":material/timeline:")
    if sent:
        _submit((path or "").strip(), list(files or []), (name or "").strip())


def listing(*, key: str, most: int = 12) -> None:
    """The imported traces, each one click away, with its delete."""
    found = [each for each in session.traces() if each.study is None]
    if not found:
        st.caption("Nothing yet: traces that you open stand here, also after a restart.")
    for each in found[:most]:
        with st.container(horizontal=True, vertical_alignment="center", wrap=False):
            st.markdown(
                f"**{verbatim(each.name)}** :gray[{ago_text(each.created)}]", width="stretch"
            )
            if st.button("Open", key=f"{key}_open_{each.id}"):
                session.choose_trace(each.id)
                navigation.go("runtime")
            st.button(
                ":material/delete:", key=f"{key}_delete_{each.id}", type="tertiary",
                on_click=forget, args=(each.id,),
                help="Forgets what was read. The trace file itself stays where it is; an upload's"
                " copy is removed.",
            )  # fmt: skip
    if len(found) > most:
        st.caption(f"The newest {most} of {len(found)}.")


def forget(id: str) -> None:
    """Removes a trace from the store, with the files that were made of it."""
    report = session.trace(id)
    store = session.store()
    store.remove("trace", id)
    if session.current().trace == id:
        session.choose_trace(None)
    kept = store.traces_folder.resolve()
    for rank in report.ranks if report is not None else ():
        if rank.timeline is not None:
            for made in (Path(rank.timeline), Path(rank.timeline).with_suffix(".flame")):
                if made.resolve().is_relative_to(kept):
                    made.unlink(missing_ok=True)
        folder = Path(rank.file).resolve().parent
        if folder.parent == kept and folder.name.startswith(_UPLOAD):
            shutil.rmtree(folder, ignore_errors=True)


def _submit(typed: str, files: list[Any], name: str) -> None:
    if not typed and not files:
        st.error("Type the path of a trace, or choose a file.", icon=":material/error:")
        return
    if typed and files:
        st.error("A path and an upload are two traces: leave one empty.", icon=":material/error:")
        return
    place = _uploaded(files) if files else Path(typed).expanduser().absolute()
    if not place.exists():
        st.error(f"There is no file or folder {place}.", icon=":material/error:")
        return
    first = files[0].name if files else place.name
    called = name or first.removesuffix(".gz").removesuffix(".json").removesuffix(".pt.trace")
    if jobs.start("trace", f"Read {called}", path=str(place), name=called):
        st.rerun()


def _uploaded(files: list[Any]) -> Path:
    """Keeps uploads in the store; the file, or the folder of several."""
    folder = session.store().traces_folder / f"{_UPLOAD}{uuid.uuid4().hex[:12]}"
    folder.mkdir(parents=True)
    for each in files:
        with (folder / Path(each.name).name).open("wb") as kept:
            shutil.copyfileobj(each, kept)
    return folder if len(files) > 1 else folder / Path(files[0].name).name
