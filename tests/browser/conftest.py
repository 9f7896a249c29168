"""The app on a port of its own, shared for the session, and a browser that looks at it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.store import Store
from tests.workbench import fixture_store

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)
ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0


@dataclass(frozen=True)
class Served:
    """A running app.

    Attributes:
        link: what the terminal shows, token included.
        address: without the token.
        store: its store.
        pid: its process.
    """

    link: str
    address: str
    store: Store
    pid: int


def chromium() -> str | None:
    """The browser that tests drive, where there is one."""
    found = os.environ.get("CHROMIUM") or "/usr/bin/chromium"
    return found if Path(found).exists() else shutil.which("chromium")


def require_browser() -> str:
    """The browser; without one, a failure in CI and a skip elsewhere."""
    found = chromium()
    if found is None:
        message = "no chromium: install it (apt-get install chromium) or set CHROMIUM to its path"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def serve(home: Path, *, spare: bool = False) -> Generator[Served, None, None]:
    """Starts the app on a free port over a store, and ends it afterwards."""
    environment = {**os.environ, "WORKBENCH_HOME": str(home), "WORKBENCH_SPARE": str(int(spare))}
    process = subprocess.Popen(
        [sys.executable, "-c", "from workbench.server import run; run(0, browser=False)"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        link = _printed_link(process)
        yield Served(link, link.split("/?")[0], Store(home), process.pid)
    finally:
        process.terminate()
        process.wait(15)
        if process.stdout is not None:
            process.stdout.close()


def _printed_link(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        line = process.stdout.readline()
        if found := re.search(r"http://\S+token=\S+", line):
            return found.group()
        if not line and process.poll() is not None:
            break
    raise RuntimeError(f"The app printed no link; it ended with {process.poll()}.")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app over a store with a study, a comparison and an artifact."""
    require_browser()
    home = tmp_path_factory.mktemp("store")
    fixture_store.fill(Store(home))
    yield from serve(home)


@pytest.fixture(scope="session")
def browser():  # type: ignore[no-untyped-def]
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    path = require_browser()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def page(browser, served: Served):  # type: ignore[no-untyped-def]
    """A tab that has come in by the link."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    tab = context.new_page()
    tab.set_default_timeout(30_000)
    tab.goto(served.link)
    tab.wait_for_selector("h1")
    yield tab
    context.close()
