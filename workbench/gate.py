"""Who may talk to the app: this machine's own browser with the launch token.

A page on another site, or on another port of this machine, can make a browser send requests here.
So every request must name this machine as its host, an origin must be the host itself, and a
cookie must carry the token that the terminal showed.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
# No connection leaves this machine, whatever a component or a model's text asks the browser for.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:;"
    " frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
_HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}
_LOCKED_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Model Workbench</title><style>
:root{color-scheme:light dark}body{font:15px/1.6 system-ui,sans-serif;display:grid;
place-items:center;min-height:90vh;margin:0}main{max-width:26rem;padding:2rem;border:1px solid
#8884;border-radius:.6rem}h1{font-size:1.25rem;margin:0 0 .5rem}p{margin:0}</style></head><body>
<main><h1>Open the link that the terminal shows</h1><p>It carries a token that only the person who
started Model Workbench has seen. A link from an earlier start no longer works.</p></main>
</body></html>"""


class Gate:
    """ASGI middleware that lets in requests from this machine which carry the launch token.

    Args:
        app: what is behind the gate.
        token: the secret of this start.
        cookie: the cookie's name; it differs from start to start on another port, since browsers
            share cookies between the ports of a host.
    """

    def __init__(self, app: ASGIApp, *, token: str, cookie: str) -> None:
        self.app = app
        self.token = token
        self.cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on, answers, or closes."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        else:
            await refusal(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _hostname(host) not in LOCAL_HOSTS:
            return PlainTextResponse("This host name is not served.\n", status_code=400)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("Requests from other sites are refused.\n", status_code=403)
        if self._matches(_cookie(headers, self.cookie)):
            return None
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        if scope["type"] == "http" and self._matches(dict(query).get("token")):
            return self._admission(scope["path"], query)
        return HTMLResponse(_LOCKED_PAGE, status_code=401)

    def _admission(self, path: str, query: list[tuple[str, str]]) -> Response:
        rest = urlencode([pair for pair in query if pair[0] != "token"])
        # One slash only: `//evil.example` would be another site.
        place = "/" + path.lstrip("/") + (f"?{rest}" if rest else "")
        answer = RedirectResponse(place, status_code=303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax", path="/")
        return answer

    def _matches(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _cookie(headers: Headers, name: str) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return found.value if found is not None else None


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in _HEADERS]
            message["headers"] = [*kept, *_HEADERS.items()]
        await send(message)

    return sending
