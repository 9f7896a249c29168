"""The timeline of a million events: first draw, frames while it moves, search, hover."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from engine.profile.traces.timeline import write_timeline
from engine.records import RankReport, TimeShare, TraceOperator, TraceReport
from engine.store import Store
from tests.benchmarks.drawn_million import events
from tests.browser.conftest import ARGUMENTS, Served, chromium, serve

FIRST_DRAW_SECONDS, FRAME_MS = 2.0, 16.0
VISITS = 5
TRACE = "a0b1c2d3e4f50617"


def run() -> dict[str, Any]:
    """Opens the Runtime page of the app in a headless browser and moves about."""
    claim = (
        f"A million events: first draw within {FIRST_DRAW_SECONDS:g} s of the click on Timeline,"
        f" a frame of panning and zooming in under {FRAME_MS:g} ms."
    )
    path = chromium()
    if path is None:
        return {"claim": claim, "skipped": "no chromium", "rows": []}
    with tempfile.TemporaryDirectory() as home:
        count, written_s, size = keep(Store(home))
        serving = serve(Path(home))
        served = next(serving)
        try:
            rows = _rows(served, path)
        finally:
            serving.close()
    return {
        "claim": claim,
        "holds": all(row["median"] < row["limit"] for row in rows if row["limit"]),
        "rows": rows,
        "events": f"{count:,}",
        "file": f"{size / 1e6:.1f} MB, written with the flame graph's in {written_s:.2f} s",
    }


def keep(store: Store, operators: int = 200_000) -> tuple[int, float, int]:
    """Keeps a trace with its timeline in a store: its events, seconds to write, bytes."""
    drawn = events(operators)
    file = store.traces_folder / f"{TRACE}-0.timeline"
    started = time.perf_counter()
    write_timeline(file, drawn)
    written_s = time.perf_counter() - started
    span_ms = float(drawn.end_ns.max()) / 1e6
    rank = RankReport(
        rank=None, worker="bench", file=str(file), events=len(drawn.name), span_ms=span_ms,
        shares=(TimeShare("CPU operators", span_ms),), timeline=str(file),
        operators=(TraceOperator("aten::linear", operators // 10, span_ms, span_ms),),
    )  # fmt: skip
    report = TraceReport(TRACE, "a million events", (rank,), (), time.time(), written_s)
    store.put("trace", TRACE, report)
    return len(drawn.name), written_s, file.stat().st_size


def _rows(served: Served, browser_path: str) -> list[dict[str, Any]]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(ARGUMENTS))
        clicks, own = [], []
        for _ in range(VISITS):
            tab = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
            tab.goto(served.link)
            tab.wait_for_selector("h1")
            tab.goto(f"{served.address}/runtime?trace={TRACE}&view=Overview")
            tab.wait_for_selector("text=Timeline")
            tab.wait_for_selector("[data-testid=stStatusWidget]", state="detached")
            tab.evaluate(_LISTEN)
            tab.get_by_role("button", name="Timeline").or_(
                tab.get_by_role("radio", name="Timeline")
            ).first.click()
            stage = tab.locator(".stage[data-drawn-ms]")
            stage.wait_for()
            clicks.append(float(stage.evaluate(_SINCE_CLICK)) / 1e3)
            own.append(float(stage.get_attribute("data-drawn-ms") or "nan") / 1e3)
            moved = stage.evaluate(_MOVE)
            tab.context.close()
        browser.close()
    return [
        _row("first draw, from the click on Timeline, s", clicks, FIRST_DRAW_SECONDS),
        _row("first draw, of it fetching and drawing, s", own, None),
        *(_row(f"{name}, ms", samples, limit) for name, (samples, limit) in moved.items()),
    ]


def _row(name: str, samples: list[float], limit: float | None) -> dict[str, Any]:
    ordered = sorted(samples)
    return {
        "figure": name,
        "median": round(ordered[len(ordered) // 2], 2),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
        "samples": len(ordered),
        "limit": limit,
    }


# The browser's own clock: the driver of the test waits for a page that is still.
_LISTEN = """() => document.addEventListener(
    "click", () => { window.clickedAt = performance.now(); }, {capture: true, once: true})"""
_SINCE_CLICK = "({timeline}) => timeline.began + timeline.drawnAfter - window.clickedAt"
# Each movement goes through the events that a person causes, one for each frame of the browser.
# "frame" is what our script takes to draw; "between frames" is what the person sees.
_MOVE = """async (stage) => {
    const timeline = stage.timeline;
    const box = stage.getBoundingClientRect();
    const [x, y] = [box.left + 800, box.top + 150];
    const wheel = (how) => stage.dispatchEvent(new WheelEvent("wheel",
        {bubbles: true, cancelable: true, ctrlKey: true, clientX: x, clientY: y, ...how}));
    const point = (kind, left) => stage.dispatchEvent(new PointerEvent(kind,
        {bubbles: true, pointerId: 1, clientX: left, clientY: y}));
    const frame = () => new Promise(requestAnimationFrame);
    const found = {};
    const watch = async (name, act) => {
        timeline.frames.length = timeline.gaps.length = 0;
        for (let index = 0; index < 90; index++) { act(index); await frame(); }
        found[`${name}: frame`] = [[...timeline.frames], 16];
        found[`${name}: between frames`] = [[...timeline.gaps].slice(1), null];
    };
    await watch("all events in view", () => timeline.later());
    await watch("zoom in at the pointer", () => wheel({deltaY: -40}));
    await watch("zoom out", () => wheel({deltaY: 40}));
    for (let index = 0; index < 4; index++) wheel({deltaY: -300});
    await watch("pan", (index) => wheel({deltaX: index < 45 ? 24 : -24}));
    await watch("hover", (index) => point("pointermove", box.left + 260 + index * 10));
    const searches = [];
    const input = stage.parentElement.querySelector("input");
    for (const typed of ["l", "li", "lin", "linear", "kernel_7", "aten gelu"]) {
        const began = performance.now();
        input.value = typed;
        input.dispatchEvent(new Event("input"));
        searches.push(performance.now() - began);
        await frame();
    }
    found["search a name, without the frame"] = [searches, null];
    await watch("pan with matches", (index) => wheel({deltaX: index < 45 ? 24 : -24}));
    return found;
}"""
