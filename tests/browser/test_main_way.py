"""The main way in a browser: from a sample card to an export that has proved itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.records import Artifact, Comparison
from tests.browser.conftest import Served, require_browser, serve

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.timeout(900),
]
JOB_MS = 400_000  # jobs that measure queue behind whatever else measures on this machine


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Served]:
    """The app over an empty store."""
    require_browser()
    yield from serve(tmp_path / "newcomer")


def test_from_a_sample_card_to_a_verified_export(browser, newcomer: Served, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(newcomer.link)
    card = page.locator(".st-key-sample_digits_vision")
    card.get_by_role("button", name="Take the tour").click()
    page.wait_for_url(re.compile("/runtime"), timeout=JOB_MS)
    page.get_by_text("Latency (median)").wait_for()

    tour = page.locator(".st-key-tour")
    tour.get_by_role("link", name="Decide").click()
    page.get_by_text("Switch gradients off").first.wait_for()
    page.locator(".st-key-add_inference_mode button").click()
    page.get_by_role("button", name="In the recipe").wait_for()

    tour.get_by_role("link", name="Build").click()
    page.get_by_text("Speed-up").first.wait_for()
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("slider").first.press("Home")  # the fewest rounds
    page.keyboard.press("Escape")
    page.get_by_test_id("stMain").get_by_role("button", name="Build and measure").click()
    page.get_by_text("Open the comparison").wait_for(timeout=JOB_MS)
    page.get_by_text("gradients were recorded before").first.wait_for()

    tour.get_by_role("link", name="Compare").click()
    page.get_by_text("How it was measured").wait_for()
    (compared,) = newcomer.store.list("comparison", Comparison)
    assert [each.recipe for each in compared.variants] == ["baseline", "inference_mode"]
    assert compared.rounds >= 8

    tour.get_by_role("link", name="Export").click()
    folder = tmp_path / "digits"
    page.get_by_role("textbox", name="Folder").fill(str(folder))
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Export and prove").click()
    page.get_by_text("same outputs (workload)").wait_for(timeout=JOB_MS)
    assert (folder / "model.safetensors").is_file()
    assert (folder / "certificate.json").is_file()
    page.get_by_role("button", name="Verify again").click()
    page.get_by_text("Verified again: every check held").wait_for(timeout=JOB_MS)
    (proved,) = newcomer.store.list("artifact", Artifact)
    assert proved.verdict == "PASSED"
    context.close()
