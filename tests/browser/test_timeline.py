"""The timeline and the flame graph in a browser: drawn, searched, and heard by the page."""

from __future__ import annotations

import re

import pytest

from tests.benchmarks.bench_timeline import TRACE, keep
from tests.browser.conftest import Served

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser"), pytest.mark.timeout(400)]
OPERATORS = 1_000


@pytest.fixture(scope="module")
def trace(served: Served) -> str:
    """A trace of five thousand events in the store of the app: its address."""
    keep(served.store, OPERATORS)
    return f"{served.address}/runtime?trace={TRACE}"


def test_events_are_drawn_found_and_chosen_on_the_whole_page(page, trace: str) -> None:
    page.goto(f"{trace}&view=Timeline")
    stage = page.locator(".stage[data-drawn-ms]")
    stage.wait_for()
    # 4 host events an operator and a kernel, 20 modules of 50, one step of 20.
    page.get_by_text(f"{5 * OPERATORS + 20 + 1:,} events").wait_for()
    assert colours(stage) > 10
    page.get_by_placeholder("Search events").fill("cuda launch")
    page.get_by_text(f"{OPERATORS:,} matches", exact=True).wait_for()
    page.get_by_placeholder("Search events").fill("aten::linear")
    page.get_by_title("Next match").click()
    page.locator(".detail h6", has_text="aten::linear").wait_for()
    # The first match was brought into sight: a click on it tells the page.
    x, y = stage.evaluate(_WHERE)
    page.mouse.click(x, y)
    page.wait_for_url(re.compile("operator=aten"))


def test_a_range_shares_its_time_among_names(page, trace: str) -> None:
    page.goto(f"{trace}&view=Timeline")
    stage = page.locator(".stage[data-drawn-ms]")
    stage.wait_for()
    box = stage.bounding_box()
    for x, event in ((600, page.mouse.down), (900, page.mouse.up)):
        page.mouse.move(box["x"] + x, box["y"] + 50, steps=3)
        event()
    page.get_by_text("Host: ").wait_for()
    # Self times of the host add up to the part of the range that its outermost events cover.
    shares = stage.evaluate(_RANGE)
    assert shares["self"] == pytest.approx(shares["covered"])
    assert 0 < shares["covered"] <= shares["wide"]


def test_a_choice_of_the_page_stands_out(page, trace: str) -> None:
    page.goto(f"{trace}&view=Timeline&operator=aten%3A%3Alinear")
    page.locator(".stage[data-drawn-ms]").wait_for()
    page.get_by_text(re.compile("matches of aten::linear")).wait_for()


def test_the_flame_graph_zooms_turns_and_is_heard(page, trace: str) -> None:
    page.goto(f"{trace}&view=Flame+graph")
    stage = page.locator(".stage[data-drawn-ms]")
    stage.wait_for()
    page.get_by_role("button", name="Device time").click()
    page.get_by_role("button", name="Bottom up").click()
    page.get_by_placeholder("Search frames").fill("sm90_kernel_7")
    page.get_by_text(re.compile("^[0-9]+ frames?, ")).wait_for()
    page.get_by_role("button", name="Host time").click()
    page.get_by_role("button", name="Bottom up").click()
    x, y = stage.evaluate(_FRAME, "aten::linear")
    page.mouse.click(x, y)
    page.locator(".detail h6", has_text="aten::linear").wait_for()
    page.wait_for_url(re.compile("operator=aten"))


def colours(stage) -> int:  # type: ignore[no-untyped-def]
    """How many colours are on the canvas."""
    return int(stage.evaluate(_COLOURS))


_COLOURS = """stage => {
    const canvas = stage.querySelector('canvas');
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return new Set(new Uint32Array(pixels.buffer)).size;
}"""
_WHERE = """stage => {
    const {timeline} = stage;
    const {events, row} = timeline;
    const lane = events.laneOf(row);
    const place = timeline.places.find(each => each.track?.index === lane.track);
    const box = stage.getBoundingClientRect();
    const x = timeline.xOf((events.start[row] + events.end(row)) / 2);
    return [box.left + 1 + x, box.top + 1 + timeline.top + place.y + lane.depth * 17 + 8];
}"""
_RANGE = """({timeline}) => {
    const {events, range: [from, to]} = timeline;
    const {first, last} = events.lanes[0];
    let covered = 0;
    for (let row = first; row < last; row++) {
        covered += Math.max(0, Math.min(to, events.end(row)) - Math.max(from, events.start[row]));
    }
    const self = events.within(from, to)[0].rows.reduce((sum, each) => sum + each.self, 0);
    return {self, covered, wide: to - from};
}"""
_FRAME = """(stage, name) => {
    const {flame} = stage;
    const box = stage.getBoundingClientRect();
    const found = flame.boxes.find(each => flame.calls.names[each.frame.name] === name);
    return [box.left + 1 + (found.left + found.right) / 2, box.top + 1 + found.row * 20 + 10];
}"""
