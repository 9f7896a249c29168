"""Which files of traces are served."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.testclient import TestClient

from workbench import trace_files
from workbench.gate import Gate

CONTENT = bytes(range(256)) * 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "home" / "traces"
    (found / "a study").mkdir(parents=True)
    (found / "a study" / "rank 0.timeline").write_bytes(CONTENT)
    (found / "one.flame").write_bytes(b"{}")
    (found / "trace.json").write_bytes(b"{}")
    (tmp_path / "home" / "secret.timeline").write_bytes(b"secret")
    return found


@pytest.fixture
def client(folder: Path) -> TestClient:
    return TestClient(Starlette(routes=[trace_files.route(folder)]))


def test_a_file_is_served_at_the_address_that_pages_give(folder: Path, client: TestClient) -> None:
    url = trace_files.url_of(folder, folder / "a study" / "rank 0.timeline")
    assert url is not None
    answer = client.get(url)
    assert answer.content == CONTENT
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-length"] == str(len(CONTENT))


def test_nothing_is_packed_for_the_way_to_this_machine(folder: Path) -> None:
    packing = Middleware(GZipMiddleware, minimum_size=100)
    client = TestClient(Starlette(routes=[trace_files.route(folder)], middleware=[packing]))
    answer = client.get("/traces/a study/rank 0.timeline", headers={"accept-encoding": "gzip"})
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.content == CONTENT


def test_a_part_of_a_file_is_served(client: TestClient) -> None:
    answer = client.get("/traces/a study/rank 0.timeline", headers={"range": "bytes=16-31"})
    assert answer.status_code == 206
    assert answer.content == CONTENT[16:32]


def test_new_content_has_a_new_address(folder: Path) -> None:
    before = trace_files.url_of(folder, folder / "one.flame")
    (folder / "one.flame").write_bytes(b'{"names": []}')
    assert before != trace_files.url_of(folder, folder / "one.flame")


@pytest.mark.parametrize(
    "place",
    [
        "../secret.timeline", "..%2fsecret.timeline", "%2e%2e/secret.timeline", "a study",
        "a study/../../secret.timeline", "a study%2f..%2f..%2fsecret.timeline", "trace.json", "",
        "missing.timeline", "one.flame%00", "/etc/passwd",
    ],
)  # fmt: skip
def test_nothing_else_is_served(client: TestClient, place: str) -> None:
    assert client.get(f"/traces/{place}").status_code == 404


def test_an_absolute_place_is_not_served(folder: Path, tmp_path: Path) -> None:
    assert trace_files.served(folder, str(tmp_path / "home" / "secret.timeline")) is None
    assert trace_files.url_of(folder, tmp_path / "home" / "secret.timeline") is None


def test_a_link_that_leads_out_is_not_followed(folder: Path, client: TestClient) -> None:
    (folder / "link.timeline").symlink_to(folder.parent / "secret.timeline")
    assert client.get("/traces/link.timeline").status_code == 404


def test_files_are_behind_the_gate(folder: Path) -> None:
    app = Starlette(
        routes=[trace_files.route(folder)],
        middleware=[Middleware(Gate, token="the-token", cookie="workbench_1")],
    )
    client = TestClient(app, base_url="http://localhost:8501")
    assert client.get("/traces/one.flame").status_code == 401
    cookie = {"cookie": "workbench_1=the-token"}
    assert client.get("/traces/one.flame", headers=cookie).status_code == 200
