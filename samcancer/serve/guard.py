"""Who may talk to the server, and what browsers may do with its answers.

Three attacks matter to a server on one's own machine. A web page elsewhere may send requests here
(CSRF): whatever changes something needs a header that browsers do not let other pages set, and an
Origin, where one is sent, that is our own. A name elsewhere may be made to point here (DNS
rebinding): requests must call the server by an address or by a name that it knows. And over a
network anyone may come along: a token is asked for.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samcancer.serve.settings import ServeSettings, is_loopback

CUSTOM_HEADER = "x-samcancer"
"""Sent by our page with every request that changes something."""

_SAFE_METHODS = ("GET", "HEAD")

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

VIEWER_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; "
    "sandbox allow-scripts allow-downloads"
)
"""Of a result's page, which is one file with its script inside: it runs without our origin."""

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "x-frame-options": "SAMEORIGIN",
}

_NO_ENTRY = "This server asks for a token. Open the address that it printed when it started."


class Guard:
    """Middleware that lets requests of our own page through and gives every answer its headers."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        """Wrap an application.

        Args:
            app: What is guarded.
            settings: Names, address and token.
        """
        self._app = app
        self._settings = settings
        self._names = {"localhost", *(name.lower() for name in settings.names)}
        self._local = is_loopback(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("content-security-policy", PAGE_POLICY)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_our_name(host):
            return PlainTextResponse(
                "The server does not go by this name. Start it with --allow-host.", 421
            )
        if scope["method"] not in _SAFE_METHODS and not _is_from_our_page(headers, host):
            return JSONResponse({"error": "The request does not come from this page."}, 403)
        return self._without_token(scope, headers)

    def _is_our_name(self, host: str) -> bool:
        """Tell whether a request calls us by an address or a name of ours, at whatever port.

        Ports are not compared, since they differ behind a tunnel. Addresses cannot be made to point
        elsewhere, so any will do where the server listens to a network.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._local

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the answer to who has not shown the token; None to who has."""
        token = self._settings.token
        if token is None:
            return None
        cookie_name, cookie_value = _cookie_of(token)
        if _same(_read_cookie(headers, cookie_name), cookie_value):
            return None
        if _same(headers.get("authorization", ""), f"Bearer {token}"):
            return None
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and scope["method"] == "GET" and _same(asked, token):
            # The address is exchanged for a cookie at once, so that the token does not stay in it.
            welcome = RedirectResponse("/", 303)
            welcome.set_cookie(cookie_name, cookie_value, httponly=True, samesite="lax", path="/")
            return welcome
        return PlainTextResponse(_NO_ENTRY, 401)


def _is_from_our_page(headers: Headers, host: str) -> bool:
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return False
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    return headers.get(CUSTOM_HEADER) == "1"


def _cookie_of(token: str) -> tuple[str, str]:
    """Return name and value; servers on several ports of a machine do not share a name."""
    digest = hashlib.sha256(f"samcancer cookie {token}".encode()).hexdigest()
    return f"samcancer_{digest[:8]}", digest[8:]


def _read_cookie(headers: Headers, name: str) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
