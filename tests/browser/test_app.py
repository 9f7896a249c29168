"""The app in a browser: who is let in, every page, jobs that outlive a refresh."""

from __future__ import annotations

import re
import urllib.error
import urllib.request

import pytest

from engine import client
from engine.records import ENDED
from tests.browser.conftest import Served
from tests.workbench import fixture_store
from tests.workbench.conftest import PAGES

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser"), pytest.mark.timeout(400)]
STUDY = fixture_store.study().id
# The model waits in the middle of its opening until the file beside it is there.
WAITING_MODEL = '''
import pathlib, time
import torch

def build():
    ends = time.monotonic() + 120
    while not pathlib.Path(__file__).with_name("go").exists() and time.monotonic() < ends:
        time.sleep(0.05)
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))

def example_inputs(**sizes):
    return (torch.zeros(1, 8),)
'''  # fmt: skip


def status_of(address: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def test_without_the_token_only_the_way_in_is_told(browser, served: Served) -> None:
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(served.address)
    assert "Open the link that the terminal shows" in tab.inner_text("body")
    assert tab.locator("[data-testid=stApp]").count() == 0
    context.close()


def test_a_foreign_host_is_refused(served: Served) -> None:
    assert status_of(served.address, Host="evil.example") == 400
    assert status_of(f"{served.address}/_stcore/health") == 401


def test_a_page_of_another_port_cannot_open_the_stream(page, served: Served) -> None:
    socket = served.address.replace("http", "ws") + "/_stcore/stream"
    same = page.evaluate(_CONNECT, socket)
    assert same == "open"
    page.route("http://localhost:1/", lambda route: route.fulfill(body="<html></html>"))
    page.goto("http://localhost:1/")
    assert page.evaluate(_CONNECT, socket) == "refused"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_shows_and_no_request_leaves_this_machine(
    browser, served: Served, scheme: str
) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1440, "height": 1000})
    tab = context.new_page()
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("websocket", lambda opened: asked.append(opened.url))
    tab.goto(served.link)
    for name in PAGES:
        tab.goto(f"{served.address}/{'' if name == 'open' else name}?study={STUDY}")
        tab.wait_for_selector("h1")
        tab.wait_for_selector("[data-testid=stStatusWidget]", state="detached")
        assert tab.locator("[data-testid=stException]").count() == 0, name
        assert tab.locator("[data-testid=stAlertContentError]").count() == 0, name
    context.close()
    own = re.escape(served.address.removeprefix("http"))
    foreign = [url for url in asked if not re.match(rf"(http|ws){own}[/?]|data:|blob:", url)]
    assert foreign == []


def test_links_keep_the_study(page, served: Served) -> None:
    page.goto(f"{served.address}/runtime?study={STUDY}")
    page.get_by_role("button", name="Suggestions").click()
    page.wait_for_url(re.compile(f"/suggestions.*study={STUDY}"))
    page.reload()
    page.wait_for_selector("text=ranked by predicted gain")
    page.get_by_test_id("stSidebar").get_by_text("1.05 M parameters").wait_for()


def test_a_toggle_moves_the_prediction(page, served: Served) -> None:
    page.goto(f"{served.address}/optimize?study={STUDY}")
    page.wait_for_selector("text=Speed-up")
    page.get_by_role("button", name="Clear").click()
    page.wait_for_selector("text=Switch a step on")
    page.get_by_text("Keep the keys and values").click()
    page.wait_for_selector("text=Speed-up")
    page.wait_for_selector(".stCode >> text=kv_cache")


def test_a_job_is_asked_for_trust_resumes_after_a_refresh_and_is_cancelled(
    page, served: Served, tmp_path
) -> None:
    model = tmp_path / "waiting.py"
    model.write_text(WAITING_MODEL)
    page.get_by_text("Python file").click()
    page.get_by_role("textbox", name="File and function").fill(f"{model}:build")
    page.locator(".st-key-own_open button").click()
    page.get_by_role("button", name="Review and trust").click(timeout=120_000)
    page.get_by_role("dialog").get_by_text(re.compile(r"[0-9a-f]{64}")).first.wait_for()
    page.get_by_text("I have read this file").click()
    page.get_by_role("button", name="Trust it and open").click()
    sidebar = page.get_by_test_id("stSidebar")
    sidebar.get_by_role("button", name="Cancel").wait_for(timeout=120_000)
    page.reload()
    sidebar.get_by_text("Profile waiting.py").first.wait_for()
    sidebar.get_by_role("button", name="Cancel").click()
    page.get_by_text("was cancelled").wait_for(timeout=120_000)
    newest = max(client.statuses(served.store), key=lambda each: each.created)
    assert newest.state == "cancelled"


def test_a_model_that_cannot_be_opened_tells_why(page, served: Served, tmp_path) -> None:
    page.get_by_role("textbox", name="Folder or hub id").fill(str(tmp_path / "nothing"))
    page.locator(".st-key-own_open button").click()
    alert = page.get_by_test_id("stAlertContentError")
    alert.wait_for(timeout=120_000)
    assert "nothing" in alert.inner_text()
    newest = max(client.statuses(served.store), key=lambda each: each.created)
    assert newest.state in ENDED


_CONNECT = """address => new Promise(done => {
    const opened = new WebSocket(address);
    opened.onopen = () => {opened.close(); done('open');};
    opened.onerror = () => done('refused');
})"""
