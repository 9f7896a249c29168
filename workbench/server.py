"""The app's server: on this machine only, behind a launch token, without telemetry."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator
from pathlib import Path

import streamlit as st
import uvicorn
from starlette.middleware import Middleware

from engine import client
from engine.errors import InputError
from engine.store import Store
from workbench import perfetto, tensorboard, trace_files
from workbench.gate import Gate

ADDRESS = "127.0.0.1"
DEFAULT_PORT = 8501
_TRIES = 20
# The spare worker imports torch: it waits until the first page is on the screen.
_SPARE_AFTER_SECONDS = 4.0
_SCRIPT = Path(__file__).resolve().parent / "app.py"


def run(port: int | None = None, browser: bool = True) -> None:
    """Serves the app until it is stopped, and prints the link that opens it.

    Args:
        port: where to listen; None takes 8501, or the next free one after it.
        browser: also open the link in the default browser.

    Raises:
        InputError: the port is taken, or is no port.
    """
    listening = bound_socket(port)
    number = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)
    link = f"http://localhost:{number}/?token={token}"
    server = uvicorn.Server(
        uvicorn.Config(
            application(token, port=number), log_level="warning", access_log=False,
            ws_max_size=200 << 20, lifespan="on", timeout_graceful_shutdown=2,
        )
    )  # fmt: skip
    print(f"\n  Model Workbench is running. Open this link:\n\n    {link}\n", flush=True)
    print("  Stop it with Ctrl+C; jobs that run go on.\n", file=sys.stderr, flush=True)
    if browser:
        threading.Timer(0.7, webbrowser.open, (link,)).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def application(token: str, *, port: int) -> st.App:
    """The ASGI application with its gate."""
    _import_early()
    return st.App(
        _SCRIPT,
        lifespan=_lifespan,
        routes=[trace_files.route(Store().traces_folder), *perfetto.routes()],
        middleware=[Middleware(Gate, token=token, cookie=f"workbench_{port}")],
    )


def bound_socket(port: int | None) -> socket.socket:
    """A socket on 127.0.0.1 at the port, or at the first free one from 8501 on.

    Raises:
        InputError: the port is taken, or is no port.
    """
    if port is not None and not 0 <= port <= 65535:
        raise InputError(f"A port is a number from 0 to 65535, got {port}.")
    candidates = range(DEFAULT_PORT, DEFAULT_PORT + _TRIES) if port is None else [port]
    for candidate in candidates:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((ADDRESS, candidate))
        except OSError:
            listening.close()
            continue
        listening.listen()  # an early visitor waits for the answer, and is not turned away
        return listening
    taken = f"Port {port} is taken" if port else f"The {_TRIES} ports from {DEFAULT_PORT} are taken"
    raise InputError(f"{taken}.", hint="Choose another one: workbench app --port 9000.")


@contextlib.asynccontextmanager
async def _lifespan(app: object) -> AsyncIterator[dict[str, object]]:
    warming = asyncio.create_task(_start_spare())
    yield {}
    warming.cancel()
    await asyncio.to_thread(tensorboard.stop)


async def _start_spare() -> None:
    await asyncio.sleep(_SPARE_AFTER_SECONDS)
    await asyncio.to_thread(lambda: client.start_spare(Store()))


def _import_early() -> None:
    """Imports before the first visit what the first page would otherwise wait for."""
    import pandas  # noqa: F401
    import plotly.graph_objects  # noqa: F401

    import engine.api  # noqa: F401
