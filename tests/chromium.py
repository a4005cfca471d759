"""Headless Chromium for tests and benchmarks, driven over its DevTools protocol.

with Chromium() as browser:
    async with browser.page() as page:
        await page.goto("file:///...")
        assert await page.js("document.title") == "..."
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
# The last ones keep it from talking to its maker: where there is no network it tries for ever.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
# Far more than it takes: the machine may be training something at the same time.
START_SECONDS = 300.0
WAIT_SECONDS = 300.0
KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "ArrowDown": (40, ""), "ArrowUp": (38, "")}


def find_chromium() -> str | None:
    """Path of an installed Chromium."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One browser process with an empty profile."""

    def __enter__(self) -> Chromium:
        program = find_chromium()
        if program is None:
            raise FileNotFoundError(f"no {NAMES[0]}")
        self._profile = Path(tempfile.mkdtemp(prefix="chromium-"))
        self._process = subprocess.Popen(
            [program, *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={self._profile}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._address = f"http://127.0.0.1:{self._port()}"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _port(self) -> str:
        told = self._profile / "DevToolsActivePort"
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            if told.exists() and "\n" in (text := told.read_text()):
                return text.split("\n")[0]
            time.sleep(0.05)
        raise RuntimeError(f"Chromium did not start (exit code {self._process.poll()})")

    @contextlib.asynccontextmanager
    async def page(self) -> AsyncIterator[Page]:
        """A new tab; what it asks of the network and what fails in it is recorded."""
        async with aiohttp.ClientSession() as session:
            async with session.put(f"{self._address}/json/new?about:blank") as reply:
                target = await reply.json()
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await page.send(f"{domain}.enable")
                yield page
            await session.get(f"{self._address}/json/close/{target['id']}")


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self.requests: list[str] = []
        self.errors: list[str] = []

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                told = await self._socket.receive_json()
                if told.get("id") == self._number:
                    assert "error" not in told, told
                    result: dict[str, Any] = told["result"]
                    return result
                self._event(told["method"], told["params"])

    def _event(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {params['message']}")

    async def goto(self, url: str) -> None:
        """Open ``url`` and wait until it is loaded."""
        await self.send("Page.navigate", url=url)
        await self.wait(f"location.href.startsWith('{url}') && document.readyState === 'complete'")

    async def js(self, expression: str) -> Any:
        """The value of ``expression``, awaited if it is a promise."""
        told = await self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def wait(self, expression: str) -> None:
        """Wait until ``expression`` is true."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not await self.js(expression):
                await asyncio.sleep(0.02)

    async def key(self, key: str) -> None:
        """Press and release one key."""
        code, text = KEYS[key] if key in KEYS else (ord(key.upper()), key)
        pressed = {"key": key, "windowsVirtualKeyCode": code}
        await self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **pressed)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **pressed)

    async def type(self, text: str) -> None:
        """Type ``text`` where the focus is."""
        await self.send("Input.insertText", text=text)
