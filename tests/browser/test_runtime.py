"""A trace of another machine in a browser: opened by its path, looked at from all sides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.browser.conftest import Served
from tests.profile.traces.gpu_trace import write_steps
from workbench.views.runtime.choosing import VIEW_NAMES

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser"), pytest.mark.timeout(400)]
JOB_MS = 200_000


def test_a_trace_is_opened_by_path_and_walked_through(page, served: Served, tmp_path: Path) -> None:
    made = write_steps(tmp_path / "cluster.pt.trace.json", is_old=False)
    page.get_by_role("textbox", name="Trace file, or a folder").fill(str(made))
    page.get_by_role("button", name="Open the trace").click()
    page.wait_for_url(re.compile("/runtime.*trace="), timeout=JOB_MS)
    page.get_by_text("Step time (mean)").wait_for()
    for view in VIEW_NAMES[1:]:  # the first one is what it opens with
        page.get_by_test_id("stMain").get_by_role("radio", name=view, exact=True).click()
        page.wait_for_url(re.compile(f"view={view.split()[0]}"))
        page.wait_for_selector("[data-testid=stStatusWidget]", state="detached")
        assert page.locator("[data-testid=stException]").count() == 0, view
    page.reload()
    page.get_by_text("cluster.pt.trace.json").first.wait_for()
    sidebar = page.get_by_test_id("stSidebar")
    sidebar.get_by_role("button", name="Close").click()
    page.wait_for_url(re.compile("/runtime(?!.*trace=)"))


def test_a_foreign_file_is_refused_in_one_line(page, served: Served, tmp_path: Path) -> None:
    foreign = tmp_path / "package.json"
    foreign.write_text('{"name": "not a trace"}')
    page.get_by_role("textbox", name="Trace file, or a folder").fill(str(foreign))
    page.get_by_role("button", name="Open the trace").click()
    alert = page.get_by_test_id("stAlertContentError")
    alert.wait_for(timeout=JOB_MS)
    assert "package.json" in alert.inner_text()
