"""Files that tell of memory and were made elsewhere: opened, listed, forgotten."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import streamlit as st

from workbench import jobs, session
from workbench.quantities import ago_text

_LARGEST_UPLOAD_MB = 512
_RECORD = """# a trace with allocation events
with torch.profiler.profile(profile_memory=True, record_shapes=True, with_stack=True) as profiler:
    step()
profiler.export_chrome_trace("trace.json.gz")

# or what CUDA's allocator remembers
torch.cuda.memory._record_memory_history(max_entries=100_000)
step()
torch.cuda.memory._dump_snapshot("snapshot.pickle")"""


def form(*, key: str) -> None:
    """The controls that open a file by its path, or by upload."""
    with st.form(f"{key}_memory", border=False):
        typed = st.text_input(
            "Trace, or allocator snapshot", key=f"{key}_path",
            placeholder="/runs/job/snapshot.pickle",
            help="A trace of torch.profiler that was recorded with profile_memory=True, or the"
            " pickle of torch.cuda.memory._dump_snapshot. The pickle is read as plain values: one"
            " that could run code is refused.",
        )  # fmt: skip
        upload = st.file_uploader(
            "Or upload", type=["json", "gz", "pickle", "pkl"], key=f"{key}_file",
            max_upload_size=_LARGEST_UPLOAD_MB,
        )  # fmt: skip
        sent = st.form_submit_button("Open the file", type="primary", icon=":material/memory:")
    if sent:
        place = (typed or "").strip()
        if bool(place) == bool(upload):
            st.error("Type a path, or choose a file: one of the two.", icon=":material/error:")
            return
        path = _uploaded(upload) if upload else Path(place).expanduser().absolute()
        if not path.is_file():
            st.error(f"There is no file {path}.", icon=":material/error:")
            return
        if jobs.start("memory", f"Read {path.name}", path=str(path), name=path.name):
            st.rerun()
    with st.expander("How to record one", icon=":material/code:"):
        st.code(_RECORD, language="python")


def listing(*, key: str) -> None:
    """The imported files, each one click away."""
    found = session.imported_memory()
    if not found:
        st.caption("Nothing yet: files that you open stand here, also after a restart.")
    for each in found[:12]:
        with st.container(horizontal=True, vertical_alignment="center", wrap=False):
            st.markdown(f"**{each.name}** :gray[{ago_text(each.created)}]", width="stretch")
            st.button("Open", key=f"{key}_open_{each.id}", on_click=choose, args=(each.id,))
            st.button(
                ":material/delete:", key=f"{key}_delete_{each.id}", type="tertiary",
                on_click=forget, args=(each.id,),
                help="Forgets what was read. The file itself stays where it is; an upload's copy"
                " is removed.",
            )  # fmt: skip


def choose(id: str | None) -> None:
    """Looks at an imported file, or at the study's own run."""
    session.current().memory = id


def forget(id: str) -> None:
    """Removes what was read of a file from the store."""
    report = session.memory(id)
    session.store().remove("memory", id)
    if session.current().memory == id:
        choose(None)
    if report is not None and report.file is not None:
        folder = Path(report.file).resolve().parent
        if folder.parent == session.store().traces_folder.resolve() and folder.name.startswith(
            "upload-"
        ):
            shutil.rmtree(folder, ignore_errors=True)


def _uploaded(upload: Any) -> Path:
    folder = session.store().traces_folder / f"upload-{uuid.uuid4().hex[:12]}"
    folder.mkdir(parents=True)
    path = folder / Path(upload.name).name
    with path.open("wb") as kept:
        shutil.copyfileobj(upload, kept)
    return path
