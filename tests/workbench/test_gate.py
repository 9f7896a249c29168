"""Who is let in."""

from __future__ import annotations

import socket

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from engine.errors import InputError
from workbench.gate import Gate
from workbench.server import ADDRESS, bound_socket

TOKEN = "the-token-of-this-start"
COOKIE = {"cookie": f"workbench_1={TOKEN}"}


async def _echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("in")
    await websocket.close()


@pytest.fixture
def client() -> TestClient:
    app = Starlette(
        routes=[
            Route("/{path:path}", lambda request: PlainTextResponse("in")),
            WebSocketRoute("/stream", _echo),
        ],
        middleware=[Middleware(Gate, token=TOKEN, cookie="workbench_1")],
    )
    return TestClient(app, base_url="http://localhost:8501", follow_redirects=False)


def test_without_the_token_nothing_is_shown_but_how_to_get_in(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 401
    assert "Open the link that the terminal shows" in answer.text


@pytest.mark.parametrize("path", ["/", "/static/js/index.js", "/_stcore/health", "/media/x"])
def test_every_path_is_behind_the_gate(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 401


def test_a_wrong_token_is_refused(client: TestClient) -> None:
    assert client.get("/?token=guess").status_code == 401
    assert client.get("/", headers={"cookie": "workbench_1=guess"}).status_code == 401


def test_the_token_becomes_a_cookie_and_leaves_the_address(client: TestClient) -> None:
    answer = client.get(f"/runtime?token={TOKEN}&study=abc")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/runtime?study=abc"
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert client.get("/runtime", headers=COOKIE).text == "in"


def test_the_way_in_never_leads_to_another_site(client: TestClient) -> None:
    answer = client.get(f"//evil.example/x?token={TOKEN}")
    assert not answer.headers.get("location", "/").startswith("//")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8501", "127.0.0.1.evil.example", ""]
)
def test_a_foreign_host_is_refused_even_with_the_token(client: TestClient, host: str) -> None:
    assert client.get("/", headers={**COOKIE, "host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1:8501", "[::1]:8501", "localhost"])
def test_this_machine_is_served_on_any_port_so_that_tunnels_work(
    client: TestClient, host: str
) -> None:
    assert client.get("/", headers={**COOKIE, "host": host}).text == "in"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://localhost:9999", "http://127.0.0.1:8501", "null"]
)
def test_another_origin_is_refused_even_from_this_machine(client: TestClient, origin: str) -> None:
    assert client.get("/", headers={**COOKIE, "origin": origin}).status_code == 403
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(
            "/stream", headers={**COOKIE, "origin": origin, "host": "localhost:8501"}
        ),
    ):
        pass


def test_a_websocket_needs_the_cookie(client: TestClient) -> None:
    own = {"origin": "http://localhost:8501", "host": "localhost:8501"}
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/stream", headers=own):
        pass
    with client.websocket_connect("/stream", headers={**COOKIE, **own}) as connected:
        assert connected.receive_text() == "in"


def test_the_browser_is_told_to_connect_to_nobody_else(client: TestClient) -> None:
    policy = client.get("/", headers=COOKIE).headers["content-security-policy"]
    assert "connect-src 'self'" in policy
    assert "http" not in policy


def test_the_server_listens_on_this_machine_only() -> None:
    listening = bound_socket(0)
    assert listening.getsockname()[0] == ADDRESS == "127.0.0.1"
    listening.close()


def test_a_taken_port_is_refused_with_its_number() -> None:
    with socket.socket() as taken:
        taken.bind((ADDRESS, 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(InputError, match=str(number)):
            bound_socket(number)


def test_a_number_that_is_no_port_is_refused() -> None:
    with pytest.raises(InputError, match="65535"):
        bound_socket(70000)
