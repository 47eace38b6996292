"""A headless Chromium, steered over the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """A page that is open."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._last = socket, 0

    async def _do(self, method: str, **parameters: Any) -> Any:
        self._last += 1
        await self._socket.send_json({"id": self._last, "method": method, "params": parameters})
        while True:
            reply = await self._socket.receive_json(timeout=60)
            if reply.get("id") == self._last:
                return reply["result"]

    async def value(self, expression: str) -> Any:
        """The value of an expression in JavaScript."""
        reply = await self._do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, json.dumps(reply)[:2000]
        return reply["result"].get("value")

    async def until(self, expression: str, timeout_s: float = 60) -> Any:
        """The value of an expression once it is true."""
        async with asyncio.timeout(timeout_s):
            while not (value := await self.value(expression)):
                await asyncio.sleep(0.1)
        return value

    async def press(self, key: str) -> None:
        """Press a key."""
        await self.value(
            f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: {json.dumps(key)}, bubbles: true}}))"
        )

    async def screenshot(self, width: int, height: int, *, dark: bool = False) -> bytes:
        """A picture of the page (PNG) on a screen of this size."""
        await self._do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._do("Emulation.setEmulatedMedia", features=[scheme])
        await asyncio.sleep(1.5)
        return base64.b64decode((await self._do("Page.captureScreenshot", format="png"))["data"])


@contextlib.asynccontextmanager
async def browser(folder: Path, address: str, *, webgl: bool = False) -> AsyncIterator[Page]:
    """Open an address in a browser of its own. ``webgl``: with WebGL, which the CPU draws."""
    assert CHROMIUM is not None
    drawing = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"] if webgl else ["--disable-gpu"]
    command = [CHROMIUM, "--headless=new", "--no-sandbox", *drawing, "--disable-dev-shm-usage"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={folder / 'chromium'}", address]
    with (folder / "chromium.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        port_file = folder / "chromium" / "DevToolsActivePort"
        async with asyncio.timeout(60):
            while not port_file.exists() or not port_file.read_text():
                assert process.poll() is None, (folder / "chromium.log").read_text()[-2000:]
                await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(60):
                while not (pages := [one for one in await _pages(session, port) if one["type"] == "page"]):
                    await asyncio.sleep(0.05)
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


async def _pages(session: aiohttp.ClientSession, port: str) -> Any:
    async with session.get(f"http://127.0.0.1:{port}/json") as reply:
        return await reply.json()
