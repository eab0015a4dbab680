"""Guard before the page's server (ASGI): hosts, origins, login, quotas, and one log line for each refusal.

It needs Starlette, which Gradio brings. With a password, clients get nothing but the login before they log in: Gradio
would show them the page's API.
"""

import asyncio
import hmac
import json
import math
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from followyourpose.web.files import ClientFiles

if TYPE_CHECKING:  # imported late: the package works without the page
    from starlette.requests import Request
    from starlette.responses import Response

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
UPLOAD = "/gradio_api/upload"
READY = "/gradio_api/startup-events"  # Gradio's own first request
SILENCE = 1  # seconds between two signs of life
LARGEST_BODY = 10**6  # bytes of a request that is no upload
FREE_ATTEMPTS, LONGEST_WAIT = 3, 300  # wrong passwords before the first wait; seconds
CLIENTS = 10_000  # addresses whose wrong passwords are counted
_LOGIN = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Follow Your Pose</title>
<style>body {{ font: 1rem system-ui, sans-serif; margin: 20vh auto; max-width: 20rem; padding: 0 1rem; }}
input, button {{ box-sizing: border-box; font: inherit; margin: .4rem 0; padding: .5rem; width: 100%; }}</style>
<h1>Follow Your Pose</h1>
<form method="post" action="login">
<label>Password <input type="password" name="password" autocomplete="current-password" autofocus required></label>
<button>Log in</button>
</form>
<p role="alert">{message}</p>
</html>
"""


class Refused(Exception):
    """A request that is not served: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Guard:
    """ASGI middleware.

    Args:
        app: the server behind it.
        host: address at which it listens; at a local one, requests for other host names are refused.
        password: None: no login.
        files: verdicts and quotas.
    """

    def __init__(self, app: Callable[..., Any], host: str, password: str | None, files: ClientFiles) -> None:
        self.app, self.host, self.password, self.files = app, host, password, files
        self.cookie = f"access-token-{secrets.token_hex(8)}"  # the beginning by which Gradio's client takes it
        self.tokens: set[str] = set()
        self.wrong: dict[str, tuple[int, float]] = {}  # client -> wrong passwords, time of its next attempt

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from starlette.requests import Request
        from starlette.responses import JSONResponse

        request, last = Request(scope, receive), None

        async def watched(message: dict[str, Any]) -> None:
            nonlocal last
            last = message
            await send(message)

        response: Response | None = None
        try:
            response = await self._answer(request, receive, watched)
        except Refused as refusal:
            response = self._refusal(request, refusal)
        except Exception as error:  # of any kind: a malformed request has many ways to fail in the server
            frame = traceback.extract_tb(error.__traceback__)[-1]
            log(request, f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}: {one_line(error)}")
            response = JSONResponse({"detail": "the request cannot be served"}, 400)
        if response is not None and last is None:
            await response(scope, receive, send)
        elif last is not None and (last["type"] == "http.response.start" or last.get("more_body")):
            await send({"type": "http.response.body"})  # an answer that broke off

    async def _answer(
        self, request: "Request", receive: Callable[..., Any], send: Callable[..., Any]
    ) -> "Response | None":
        """Return the guard's own answer; None: the server has answered."""
        self._check_host(request)
        self._check_origin(request)
        self._check_body(request)
        path = request.url.path.rstrip("/")
        if self.password is not None:
            if path == "/login" and request.method == "POST":
                return await self._log_in(request, self.password)
            if request.cookies.get(self.cookie) not in self.tokens and path != READY:
                if path == "" and request.method in ("GET", "HEAD"):
                    from starlette.responses import HTMLResponse

                    return HTMLResponse(_LOGIN.format(message=""))
                raise Refused(401, "Not authenticated: log in with the password")
        if path == UPLOAD and request.method == "POST":
            await self._upload(request, receive, send)
        else:
            await self.app(request.scope, receive, send)
        return None

    def _check_host(self, request: "Request") -> None:
        """Keep pages of other names out, which their owners can point to this machine (DNS rebinding)."""
        host = request.headers.get("host", "")
        if self.host in LOCAL_HOSTS and _name(f"//{host}") not in LOCAL_HOSTS:
            raise Refused(403, f"Host: got {host!r:.80}, expected one of {', '.join(LOCAL_HOSTS)}")

    def _check_origin(self, request: "Request") -> None:
        """Keep scripts of other pages out."""
        origin = request.headers.get("origin")
        own = [request.headers.get(name) for name in ("host", "x-forwarded-host")]
        if origin is not None and (not (place := origin.partition("://")[2]) or place not in own):
            raise Refused(403, f"Origin: got {origin!r:.80}, expected this page's own")

    def _check_body(self, request: "Request") -> None:
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            raise Refused(411, "Content-Length: got none, expected the number of bytes")
        if int(length) > LARGEST_BODY and request.url.path.rstrip("/") != UPLOAD:
            raise Refused(413, f"Content-Length: got {length} bytes, expected at most {LARGEST_BODY}")

    async def _upload(self, request: "Request", receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        """Let the server store files within the client's quota, and answer when there is a verdict on each.

        Clients give up on a server that is silent for seconds: until then, spaces are sent in front of the JSON.
        """
        client, messages = client_of(request), []

        async def collect(message: dict[str, Any]) -> None:
            messages.append(message)

        try:
            with self.files.arriving(client, int(request.headers["content-length"])):
                await self.app(request.scope, receive, collect)
        except ValueError as error:
            raise Refused(413, str(error)) from error
        start, *parts = messages
        if start["status"] == 200:
            paths = [Path(path) for path in json.loads(b"".join(part.get("body", b"") for part in parts))]
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            await send(start | {"headers": headers})
            for path in paths:
                self.files.add(client, str(path), path.stat().st_size)
            for path in paths:
                verdict = asyncio.wrap_future(self.files.verdict(path))
                while not (await asyncio.wait([verdict], timeout=SILENCE))[0]:
                    await send({"type": "http.response.body", "body": b" ", "more_body": True})
                if error := verdict.exception():
                    print(f"upload: {one_line(error)}", file=sys.stderr, flush=True)
        else:
            await send(start)
        for part in parts:
            await send(part)

    # ---- login

    async def _log_in(self, request: "Request", password: str) -> "Response":
        """Answer a login: browsers by a page, other clients by JSON."""
        from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse

        browser = "text/html" in request.headers.get("accept", "")
        fields = parse_qs((await request.body()).decode(errors="replace"))
        try:
            self._attempt(client_of(request), fields.get("password", [""])[0], password)
        except Refused as refusal:
            if not browser:
                raise
            log(request, refusal.reason)
            return HTMLResponse(_LOGIN.format(message=escape(refusal.reason)), refusal.status)
        token = secrets.token_urlsafe(32)
        self.tokens.add(token)
        response = RedirectResponse("./", 303) if browser else JSONResponse({"success": True})
        secure = request.url.scheme == "https"
        response.set_cookie(self.cookie, token, httponly=True, samesite="lax", secure=secure)
        return response

    def _attempt(self, client: str, given: str, password: str) -> None:
        """Compare a password; after a few wrong ones, a client waits twice as long before each next attempt."""
        now = time.monotonic()
        count, free = self.wrong.get(client, (0, now))
        if now < free:
            raise Refused(
                429, f"login: got {count} wrong passwords, expected the next attempt in {math.ceil(free - now)} s"
            )
        if hmac.compare_digest(given.encode(errors="replace"), password.encode()):
            self.wrong.pop(client, None)
            return
        wait = 0 if count + 1 < FREE_ATTEMPTS else min(2 ** (count + 1 - FREE_ATTEMPTS), LONGEST_WAIT)
        self.wrong[client] = (count + 1, now + wait)
        if len(self.wrong) > CLIENTS:
            self.wrong.pop(next(iter(self.wrong)))
        raise Refused(401, "login: got a wrong password")

    def _refusal(self, request: "Request", refusal: Refused) -> "Response":
        from starlette.responses import JSONResponse

        log(request, refusal.reason)
        return JSONResponse({"detail": refusal.reason}, refusal.status)


def client_of(request: Any) -> str:
    """Return the address of a request's client (Starlette's request, or Gradio's)."""
    client = getattr(request, "client", None)
    return client.host if client else "unknown"


def log(request: "Request", reason: str) -> None:
    """Print a line on a request that is refused."""
    path = repr(request.url.path)[1:-1][:80]
    print(f"refused: {request.method} {path} of {client_of(request)}: {reason}", file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """Return the message of an error, shortened, with nothing in it that would break a line of the log."""
    return repr(" ".join(str(error).split())[:200])[1:-1]


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
