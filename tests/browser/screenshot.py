"""Makes the README's picture from what was measured: the newest comparison in the own store.

make bench BENCH=tiny_gpt && .venv/bin/python -m tests.browser.screenshot
"""

from __future__ import annotations

from playwright.sync_api import sync_playwright

from engine.records import Comparison
from engine.store import Store
from tests.browser.conftest import ARGUMENTS, ROOT, require_browser, serve

OUT = ROOT / "docs" / "screenshot.png"


def main() -> None:
    """Opens the Compare page of the newest comparison and keeps what it shows."""
    store = Store()
    newest = max(store.list("comparison", Comparison), key=lambda each: each.created)
    running = serve(store.root)
    served = next(running)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=require_browser(), args=list(ARGUMENTS)
        )
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(served.link)
        page.wait_for_selector("h1")
        page.goto(f"{served.address}/compare?study={newest.study.id}")
        page.wait_for_selector(".js-plotly-plot", timeout=60_000)
        page.wait_for_timeout(2500)
        OUT.parent.mkdir(exist_ok=True)
        page.screenshot(path=OUT)
        browser.close()
    running.close()


if __name__ == "__main__":
    main()
