"""A real browser: once for a picture, or held by its DevTools protocol to click in."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((found for found in map(shutil.which, NAMES) if found), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars")
PATIENCE = 60.0


def require() -> None:
    """Skip the test where there is no browser; fail it where NFK_REQUIRE_CHROMIUM=1."""
    if BROWSER is None:
        if os.environ.get("NFK_REQUIRE_CHROMIUM") == "1":
            pytest.fail(f"NFK_REQUIRE_CHROMIUM=1 and none of {', '.join(NAMES)} on PATH; install Chromium")
        pytest.skip(f"none of {', '.join(NAMES)} on PATH")


class Tab:
    """One page. `requested`: the addresses it loaded, without what lies in it (data:); `faults`: what went wrong."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._calls = socket, 0
        self.requested: list[str] = []
        self.faults: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("method") == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if not url.startswith("data:"):
                    self.requested.append(url)
            elif message.get("method") == "Runtime.exceptionThrown":
                self.faults.append(json.dumps(message["params"]["exceptionDetails"]))
            elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.faults.append(message["params"]["entry"]["text"])
            elif message.get("id") == self._calls:
                assert "error" not in message, message
                return message["result"]

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is, through JSON."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Its value once it is truthy."""
        end = time.monotonic() + PATIENCE
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"still {found!r} after {PATIENCE:g} s: {expression}"
            time.sleep(0.05)
        return found

    def mouse(self, x: float, y: float, *, click: bool = False) -> None:
        """Move there, and press and let go."""
        for kind in ("mouseMoved", *(("mousePressed", "mouseReleased") if click else ())):
            pressed = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    def type(self, text: str) -> None:
        """Into what has the focus, and Enter."""
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                      windowsVirtualKeyCode=13)

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def tab(page: Path, profile: Path, *flags: str, width: int = 1400, height: int = 900) -> Iterator[Tab]:
    """`page` in a browser of its own, watched from its first byte on; ended with the block."""
    process = subprocess.Popen(
        [BROWSER, *FLAGS, *flags, f"--user-data-dir={profile}", "--remote-debugging-port=0",
         f"--window-size={width},{height}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port, path = _opened(profile, process)
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as browser:
            [first] = [target["targetId"] for target in Tab(browser).call("Target.getTargets")["targetInfos"]
                       if target["type"] == "page"]
        address = f"ws://127.0.0.1:{port}/devtools/page/{first}"
        with connect(address, max_size=None, proxy=None) as socket:
            opened = Tab(socket)
            for domain in ("Page", "Network", "Runtime", "Log"):
                opened.call(f"{domain}.enable")
            opened.call("Page.navigate", url=page.as_uri())
            yield opened
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _opened(profile: Path, process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """The port and path at which the browser listens."""
    end = time.monotonic() + PATIENCE
    file = profile / "DevToolsActivePort"
    while not (file.exists() and len(lines := file.read_text().splitlines()) == 2):
        assert process.poll() is None, f"{BROWSER} ended with {process.returncode}"
        assert time.monotonic() < end, f"{BROWSER} opened no port within {PATIENCE:g} s"
        time.sleep(0.05)
    return lines[0], lines[1]
