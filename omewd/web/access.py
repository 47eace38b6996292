"""Who may see what ``omewd web`` shows."""

from __future__ import annotations

import hmac
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from omewd.web.addresses import is_loopback

_COOKIE = "omewd_token"
# Answers of these say nothing about data.
_FOR_ALL = {"/healthz", "/readyz"}
# Pages of other sites may read data, as viewers on the web do.
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, If-Match, If-None-Match, If-Range, Range",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Length, Content-Range, ETag",
    "Access-Control-Max-Age": "3600",
}


def cors_of(path: str) -> dict[str, str]:
    """What an answer of an address says to pages of other sites."""
    return CORS if path.startswith("/data/") else {}


class Access:
    """Lets requests with the token pass; without a token, those whose Host is this machine.

    The token comes as a bearer token or in the address (``?token=``). A browser then keeps it as a cookie. Where there
    is none, a foreign page whose name was made to point to this machine (DNS rebinding) is refused by its Host.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _FOR_ALL or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._token is None:
            host = headers.get("host", "")
            name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
            return None if is_loopback(name) else PlainTextResponse(f"this is not {name[:80]}\n", 421)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if any(self._is_token(given) for given in query.get("token", ())):
            if scope["method"] != "GET" or scope["path"] != "/":
                return None
            rest = urlencode({name: values for name, values in query.items() if name != "token"}, doseq=True)
            page = RedirectResponse(f"/?{rest}" if rest else "/", 303)
            page.set_cookie(_COOKIE, self._token, httponly=True, samesite="strict", max_age=30 * 86400)
            return page
        scheme, _, given = headers.get("authorization", "").partition(" ")
        cookie = cookie_parser(headers.get("cookie", "")).get(_COOKIE, "")
        if (scheme.lower() == "bearer" and self._is_token(given.strip())) or self._is_token(cookie):
            return None
        return PlainTextResponse(
            "a token is needed: open /?token=TOKEN, or send Authorization: Bearer TOKEN\n",
            401,
            {"WWW-Authenticate": "Bearer", **cors_of(scope["path"])},
        )

    def _is_token(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())
