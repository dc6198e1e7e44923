"""What stands before every page of the viewer: who may ask, and what a browser may do with it.

A transcript is hostile text, and so is any other site that is open in the same browser.
"""

from __future__ import annotations

import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response

COOKIE = "superalign_token"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware: checks host, token and origin, and adds the headers to every answer."""

    def __init__(self, app: Any, host: str, token: str | None) -> None:
        self.app, self.host, self.token = app, host, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refuse(scope, Headers(scope=scope))
        await (refused or self.app)(scope, receive, with_headers)

    def _refuse(self, scope: Any, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if not self._known(host):
            return PlainTextResponse(f"unknown host {host[:100]!r}", 400)
        if self.token is not None and not self._has_token(headers):
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if not _same(given, self.token):
                what = "this viewer wants its token: open the address that it printed"
                return PlainTextResponse(what, 401)
            came_in = RedirectResponse("/", 303)
            came_in.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            return came_in
        if scope["method"] not in ("GET", "HEAD") and not _same_origin(headers, host):
            return PlainTextResponse("this was asked by another site", 403)
        return None

    def _known(self, host: str) -> bool:
        """A name that another site made point here is refused; an address cannot be made to."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            ipaddress.ip_address(name)
        except ValueError:
            name = host.rpartition(":")[0] or host
            return name in ("localhost", self.host)
        return is_loopback(name) or self.token is not None

    def _has_token(self, headers: Headers) -> bool:
        cookies = SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except CookieError:
            return False
        given = cookies[COOKIE].value if COOKIE in cookies else ""
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        return _same(given, self.token or "") or _same(bearer, self.token or "")


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _same_origin(headers: Headers, host: str) -> bool:
    """Whether a write comes from a page of this viewer. Browsers say so, and no page can make them
    lie; what says nothing is refused."""
    site = headers.get("sec-fetch-site")
    if site is not None:  # Origin is `null` then, since our pages send no referrer
        return site == "same-origin"
    return urlsplit(headers.get("origin", "")).netloc == host
