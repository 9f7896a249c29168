"""Makes the README's picture: `python -m tests.browser.screenshot`, over the fixture records."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from engine.store import Store
from tests.browser.conftest import ARGUMENTS, ROOT, require_browser, serve
from tests.workbench import fixture_store

OUT = ROOT / "docs" / "screenshot.png"


def main() -> None:
    """Opens the Compare page of the fixture study and keeps what it shows."""
    with tempfile.TemporaryDirectory(prefix="workbench-screenshot-") as home:
        fixture_store.fill(Store(Path(home)))
        running = serve(Path(home))
        served = next(running)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=require_browser(), args=list(ARGUMENTS)
            )
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            page.goto(served.link)
            page.wait_for_selector("h1")
            page.goto(f"{served.address}/compare?study={fixture_store.study().id}")
            page.wait_for_selector(".js-plotly-plot", timeout=60_000)
            page.wait_for_timeout(2500)
            OUT.parent.mkdir(exist_ok=True)
            page.screenshot(path=OUT)
            browser.close()
        running.close()


if __name__ == "__main__":
    main()
