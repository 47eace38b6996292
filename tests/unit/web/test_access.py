"""Who may see what omewd web shows: the token, the Host, and where it may listen at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from omewd.errors import OmewdError
from omewd.web.access import Access
from omewd.web.addresses import is_loopback, parse_listen, read_token
from omewd.web.serve import serve

TOKEN = "0123456789abcdef" * 2


class Site:
    """The site behind its access, and a browser that keeps cookies."""

    def __init__(self, token: str | None) -> None:
        def answer(_: Request) -> Response:
            return PlainTextResponse("seen")

        routes = [Route(path, answer) for path in ("/", "/api/status", "/healthz", "/data/cam/zarr.json")]
        self._app = Starlette(routes=routes, middleware=[Middleware(Access, token=token)])
        self._cookies = httpx.Cookies()

    def get(self, path: str, **fields: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1:8420", cookies=self._cookies
            ) as client:
                answer = await client.get(path, **fields)
                self._cookies.update(client.cookies)
                return answer

        return asyncio.run(ask())


def test_without_the_token_nothing_is_seen_but_that_it_is_alive() -> None:
    client = Site(TOKEN)
    assert client.get("/api/status").status_code == 401
    assert client.get("/").status_code == 401
    assert client.get("/healthz").status_code == 200
    for wrong in (TOKEN[:-1], TOKEN + "0", "", "ä" * 32):
        assert client.get("/api/status", params={"token": wrong}).status_code == 401
        header = f"Bearer {wrong}".encode()
        assert client.get("/api/status", headers={"Authorization": header}).status_code == 401
        assert client.get("/api/status", headers={"Cookie": f"omewd_token={wrong}".encode()}).status_code == 401


def test_a_viewer_of_another_site_sees_that_it_needs_a_token() -> None:
    """Else its page is only told that the network failed."""
    refused = Site(TOKEN).get("/data/cam/zarr.json", headers={"Origin": "https://viewer.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")
    assert "access-control-allow-origin" not in Site(TOKEN).get("/api/status").headers


def test_many_parameters_are_no_error() -> None:
    assert Site(TOKEN).get(f"/api/status?{'&'.join('a=1' for _ in range(200))}").status_code == 401


def test_the_token_comes_in_a_header_an_address_or_a_cookie() -> None:
    assert Site(TOKEN).get("/api/status", headers={"Authorization": f"bearer {TOKEN}"}).text == "seen"
    assert Site(TOKEN).get("/api/status", params={"token": TOKEN}).text == "seen"
    client = Site(TOKEN)
    page = client.get("/", params={"token": TOKEN, "x": "1 2"})
    assert (page.status_code, page.headers["location"]) == (303, "/?x=1+2"), "the token stays in no history"
    assert "HttpOnly" in page.headers["set-cookie"]
    assert client.get("/api/status").text == "seen"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8420", "[::1]:8420", "[::1]", "127.3.2.1"])
def test_without_a_token_this_machine_may_ask(host: str) -> None:
    assert Site(None).get("/", headers={"Host": host}).text == "seen"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8420", "10.0.0.7", "127.0.0.1.evil.example", ""])
def test_without_a_token_no_foreign_name_may(host: str) -> None:
    assert Site(None).get("/", headers={"Host": host}).status_code == 421


def test_an_address_to_listen_on() -> None:
    assert parse_listen("127.0.0.1:8420") == ("127.0.0.1", 8420)
    assert parse_listen(":9000") == ("127.0.0.1", 9000)
    assert parse_listen("0.0.0.0") == ("0.0.0.0", 8420)
    assert parse_listen("[::1]:80") == ("::1", 80)
    assert parse_listen("[::1]") == ("::1", 8420)
    assert parse_listen("localhost") == ("localhost", 8420)
    for wrong in ("host.example:1", "127.0.0.1:x", "127.0.0.1:70000", "127.0.0.1:-1", "1.2.3:4", "127.0.0.1:²"):
        with pytest.raises(OmewdError, match="no address to listen on"):
            parse_listen(wrong)
    assert is_loopback("127.0.0.1")
    assert not is_loopback("0.0.0.0")


def test_a_network_sees_nothing_without_a_token() -> None:
    with pytest.raises(OmewdError, match="everybody in the network") as refusal:
        serve("0.0.0.0:8420", [None], None, print)
    assert "--token-file" in refusal.value.remedy


def test_a_token_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert read_token(path) == TOKEN
    for wrong in (b"short", b"with spaces in it all over", b"\xff" * 32, b"a" * 5000, b""):
        path.write_bytes(wrong)
        with pytest.raises(OmewdError):
            read_token(path)
    with pytest.raises(OmewdError, match="can't be read"):
        read_token(tmp_path / "none")


def test_without_the_libraries_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "starlette.py").write_text("raise ModuleNotFoundError('no starlette', name='starlette')")
    done = subprocess.run(
        [sys.executable, "-m", "omewd", "web", "--listen", "127.0.0.1:0"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "omewd web needs starlette" in done.stderr
    assert "pip install 'omewd[web]'" in done.stderr
