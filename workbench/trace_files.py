"""Serves what is drawn from traces to the browser: files of the store's traces folder only."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

ADDRESS = "/traces"
SUFFIXES = frozenset({".timeline", ".flame"})
# The address of a file names its content by time and size: a browser need never ask again.
# Packing 18 MB takes 0.9 s, sending them to this machine's own browser 0.07 s: an encoding that is
# named keeps the server from packing.
_HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "Content-Encoding": "identity",
}


def route(folder: Path) -> Route:
    """The route below which the files of a traces folder are served.

    It answers 404 to whatever is no such file: other suffixes, folders, paths that lead out.
    """

    async def answer(request: Request) -> Response:
        found = served(folder, request.path_params["place"])
        if found is None:
            return PlainTextResponse("There is no such file.\n", status_code=404)
        return FileResponse(found, media_type="application/octet-stream", headers=_HEADERS)

    return Route(ADDRESS + "/{place:path}", answer, methods=["GET", "HEAD"])


def served(folder: Path, place: str) -> Path | None:
    """The file at a place below the folder; None where it is none that may be served."""
    try:
        found = (folder / place).resolve(strict=True)
    except (OSError, ValueError):
        return None
    is_inside = found.is_relative_to(folder.resolve())
    return found if is_inside and found.suffix in SUFFIXES and found.is_file() else None


def url_of(folder: Path, file: Path | str) -> str | None:
    """The address of a file of the traces folder; None where it is none that is served."""
    try:
        place = Path(file).resolve().relative_to(folder.resolve()).as_posix()
    except (OSError, ValueError):
        return None
    found = served(folder, place)
    if found is None:
        return None
    status = found.stat()
    return f"{ADDRESS}/{quote(place)}?v={status.st_mtime_ns:x}-{status.st_size:x}"
