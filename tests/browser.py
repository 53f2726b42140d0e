"""A real browser for tests: Debian's chromium, headless, spoken to over a pipe.

The Chrome DevTools Protocol is JSON with a null byte behind each message, on the file descriptors 3
and 4 of the browser (`--remote-debugging-pipe`); this needs no port and no further package.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_TIMEOUT_S = 30.0
_ARGUMENTS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    # The tests run as root, where chromium's sandbox does not; pages are ours, and offline.
    "--no-sandbox",
)


class Page:
    """One page of a browser. `messages` are what its console said, and what went wrong in it."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.messages: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; out: its result."""
        return self._browser.call(method, parameters, self)

    def open(self, path: Path) -> None:
        """Go to a file, and wait until it is loaded."""
        self._browser.loaded.discard(self._session)
        answer = self.call("Page.navigate", url=path.resolve().as_uri())
        assert "errorText" not in answer, answer
        self._browser.wait_for(lambda: self._session in self._browser.loaded)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression (a promise's, where it is one)."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def look(self, width: int, *, dark: bool = False, paper: bool = False) -> None:
        """Show the page at a width in CSS pixels, in a colour scheme, on screen or as on paper."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        media = "print" if paper else "screen"
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def screenshot(self, path: Path, *, whole: bool = True, height: int | None = None) -> Path:
        """Write a PNG of the page, or of its first `height` pixels."""
        clip = {}
        if whole or height:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            tall = min(size["height"], height or 16_000)
            box = {"x": 0, "y": 0, "width": size["width"], "height": tall, "scale": 1}
            clip = {"clip": box, "captureBeyondViewport": True}
        answer = self.call("Page.captureScreenshot", format="png", **clip)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def pdf(self, path: Path) -> Path:
        """Write the page as it is printed."""
        answer = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path


class Browser:
    """A running browser."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._numbers = itertools.count(1)
        self._rest = b""
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        self.loaded: set[str] = set()

    def page(self) -> Page:
        """A new page with nothing in it."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        session = str(attached["sessionId"])
        page = Page(self, session)
        self._pages[session] = page
        return page

    def call(
        self, method: str, parameters: Mapping[str, Any], page: Page | None = None
    ) -> dict[str, Any]:
        """Call a method, of a page where one is given; out: its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": dict(parameters)}
        if page is not None:
            message["sessionId"] = page._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        self.wait_for(lambda: number in self._answers)
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def wait_for(self, condition: Any) -> None:
        """Read messages until a condition holds."""
        end = time.monotonic() + _TIMEOUT_S
        while not condition():
            left = end - time.monotonic()
            assert left > 0, "chromium does not answer"
            if select.select([self._receive], [], [], left)[0]:
                self._read()

    def _read(self) -> None:
        chunk = os.read(self._receive, 1 << 20)
        assert chunk, "chromium has ended"
        *messages, self._rest = (self._rest + chunk).split(b"\0")
        for raw in messages:
            message = json.loads(raw)
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._note(message)

    def _note(self, message: Mapping[str, Any]) -> None:
        method, session = message["method"], message.get("sessionId", "")
        told = message.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded.add(session)
        page = self._pages.get(session)
        if page is None:
            return
        if method == "Runtime.exceptionThrown":
            page.messages.append(json.dumps(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            page.messages.append(json.dumps(told["args"]))
        elif method == "Log.entryAdded":
            page.messages.append(json.dumps(told["entry"]))


def _started(
    argv: list[str], pipes: tuple[int, int], folder: Path, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    # chromium wants the pipes as 3 and 4, one of which the other may be.
    put = (
        "import fcntl, os, sys\n"
        "ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]\n"
        "os.dup2(ends[0], 3); os.dup2(ends[1], 4); os.execv(sys.argv[3], sys.argv[3:])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", put, *map(str, pipes), *argv],
        pass_fds=pipes,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
        env={**os.environ, "HOME": str(folder)},
        process_group=0,
    )


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """Start chromium with a profile in `folder`, and end it afterwards."""
    program = shutil.which("chromium")
    assert program, "no chromium. Run: ./invoke test"
    their_in, our_out = os.pipe()
    our_in, their_out = os.pipe()
    argv = [program, *_ARGUMENTS, f"--user-data-dir={folder / 'profile'}"]
    with (folder / "chromium.log").open("wb") as log:
        process = _started(argv, (their_in, their_out), folder, log)
    os.close(their_in)
    os.close(their_out)
    browser = Browser(our_out, our_in)
    try:
        # Until it answers, it starts helpers of its own, which live as long as it does.
        browser.call("Browser.getVersion", {})
        yield browser
        browser.call("Browser.close", {})
        process.wait(_TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(our_out)
        os.close(our_in)
