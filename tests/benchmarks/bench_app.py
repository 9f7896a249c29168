"""The app answers at once: first page, page switch, click to a job's first event, memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from engine import client
from engine.store import Store
from tests.browser.conftest import ARGUMENTS, Served, chromium, serve
from tests.workbench import fixture_store

FIRST_PAGE_SECONDS, SWITCH_SECONDS, EVENT_SECONDS, MEMORY_MB = 2.5, 1.0, 0.5, 250
VISITS = 5
SWITCHES = ("Structure", "Runtime", "Suggestions", "Optimize", "Compare", "Export", "History")
PATIENCE_SECONDS = 60.0


def run() -> dict[str, Any]:
    """Visits the app as a person does, in a headless browser."""
    path = chromium()
    if path is None:
        return {"claim": "The app answers at once.", "skipped": "no chromium", "rows": []}
    with tempfile.TemporaryDirectory() as home:
        fixture_store.fill(Store(home))
        serving = serve(Path(home), spare=True)
        served = next(serving)
        try:
            rows = _rows(served, path)
        finally:
            serving.close()
    return {
        "claim": f"First page within {FIRST_PAGE_SECONDS} s, page switch within {SWITCH_SECONDS} s,"
        f" click to the first event from inside a job within {EVENT_SECONDS} s with a spare worker,"
        f" UI process below {MEMORY_MB} MB.",
        "holds": all(row["median"] <= row["limit"] for row in rows),
        "rows": rows,
    }


def _rows(served: Served, browser_path: str) -> list[dict[str, Any]]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(ARGUMENTS))
        first = [_first_page(browser, served.link) for _ in range(VISITS)]
        switches = _switches(browser, served)
        events = [_first_event_seconds(browser, served) for _ in range(VISITS)]
        browser.close()
    resident = psutil.Process(served.pid).memory_info().rss / 1e6
    return [
        _row("first page, s", first, FIRST_PAGE_SECONDS),
        _row("page switch, s", switches, SWITCH_SECONDS),
        _row("click to first event, s", events, EVENT_SECONDS),
        _row("UI process, MB", [resident], MEMORY_MB),
    ]


def _row(name: str, samples: list[float], limit: float) -> dict[str, Any]:
    return {
        "figure": name,
        "median": round(statistics.median(samples), 3),
        "worst": round(max(samples), 3),
        "limit": limit,
    }


def _first_page(browser: Any, link: str) -> float:
    context = browser.new_context()
    tab = context.new_page()
    started = time.perf_counter()
    tab.goto(link)
    tab.wait_for_selector("[data-testid=stMain] h1")
    spent = time.perf_counter() - started
    context.close()
    return spent


def _switches(browser: Any, served: Served) -> list[float]:
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(f"{served.link}&study={fixture_store.study().id}")
    tab.wait_for_selector("[data-testid=stMain] h1")
    spent = []
    for title in SWITCHES:
        started = time.perf_counter()
        tab.get_by_test_id("stSidebarNavLink").filter(has_text=title).click()
        tab.wait_for_selector(f"[data-testid=stMain] h1:has-text('{title}')")
        spent.append(time.perf_counter() - started)
        tab.wait_for_selector("[data-testid=stStatusWidget]", state="detached")
    context.close()
    return spent


def _first_event_seconds(browser: Any, served: Served) -> float:
    """From a click on Open to the first event from inside the job, with a spare at hand."""
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(served.link)
    tab.get_by_role("textbox", name="Folder or hub id").fill("/nowhere/at/all")
    _until(lambda: any(served.store.spares_folder.glob("*/ready")))
    known = {each.id for each in client.statuses(served.store)}
    clicked = time.time()
    tab.locator(".st-key-own_open button").click()
    _until(lambda: len(client.statuses(served.store)) > len(known))
    (job,) = {each.id for each in client.statuses(served.store)} - known
    client.wait(served.store, job)
    told = [each for each in client.events(served.store, job) if each.kind != "state"]
    context.close()
    return float(told[0].time - clicked)


def _until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while not holds() and time.monotonic() < ends:
        time.sleep(0.02)
