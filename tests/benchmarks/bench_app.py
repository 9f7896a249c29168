"""The app answers at once: first page, page switch, click to a job's first event, memory."""

from __future__ import annotations

import statistics
import tempfile
import time
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
SPARE_SECONDS = 60.0


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
        browser.close()
    resident = psutil.Process(served.pid).memory_info().rss / 1e6
    events = [_first_event_seconds(served.store) for _ in range(3)]
    return [
        _row("first page, s", first, FIRST_PAGE_SECONDS),
        _row("page switch, s", switches, SWITCH_SECONDS),
        _row("submit to first event, s", events, EVENT_SECONDS),
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


def _first_event_seconds(store: Store) -> float:
    """From the submission to the first event that the job itself writes, with a spare at hand."""
    ends = time.monotonic() + SPARE_SECONDS
    while not any(store.spares_folder.glob("*/ready*")) and time.monotonic() < ends:
        time.sleep(0.1)
    started = time.time()
    request = {"reference": {"location": "/nowhere/at/all"}}
    job = client.submit(store, "open", {"request": request}, title="bench")
    client.wait(store, job)
    told = [each for each in client.events(store, job) if each.kind != "state"]
    return (told or list(client.events(store, job)))[0].time - started
