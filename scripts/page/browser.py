"""Headless Chromium, controlled by the DevTools protocol over two pipes, without any package.

Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import itertools
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # containers usually do not allow a sandbox
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--hide-scrollbars",
)
SECONDS = 60


class Page:
    """A browser tab; `send` executes any command of the protocol."""

    def __init__(self, process: subprocess.Popen):
        if process.stdin is None or process.stdout is None:
            raise TypeError("the process must have pipes")
        self._commands, self._answers = process.stdin, process.stdout
        self._ids, self._session = itertools.count(1), ""
        self.messages: list[str] = []  # console messages and script errors
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Returns the result of a command; raises RuntimeError if the browser refuses it."""
        command_id = next(self._ids)
        session = {"sessionId": self._session} if self._session else {}
        command = {"id": command_id, "method": method, "params": params, **session}
        self._commands.write(json.dumps(command).encode() + b"\0")
        self._commands.flush()
        while (message := self._read()).get("id") != command_id:
            if message["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.messages.append(json.dumps(message["params"]))
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return message["result"]

    def open(self, address: str, width: int, height: int, dark: bool = False) -> None:
        """Loads a page and waits for it.

        Args:
            address: URL.
            width: width of the window in pixels.
            height: height of the window in pixels.
            dark: whether the page should use its dark colours.
        """
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setTouchEmulationEnabled", enabled=width < 600)
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Returns the value of a JavaScript expression; raises RuntimeError if it throws."""
        result = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Waits until an expression is true; raises TimeoutError after SECONDS."""
        end = time.monotonic() + SECONDS
        while not self.run(script):
            if time.monotonic() > end:
                raise TimeoutError(f"{script} is not true after {SECONDS} s")
            time.sleep(0.05)

    def choose_files(self, selector: str, files: Sequence[Path]) -> None:
        """Selects files in a file input, as its dialog would."""
        found = self.send("Runtime.evaluate", expression=f"document.querySelector('{selector}')")
        self.send(
            "DOM.setFileInputFiles",
            files=[str(file.resolve()) for file in files],
            objectId=found["result"]["objectId"],
        )

    def drop_files(self, x: int, y: int, files: Sequence[Path]) -> None:
        """Drops files at a position in pixels."""
        data = {"items": [], "files": [str(file.resolve()) for file in files]}
        data["dragOperationsMask"] = 1
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def press(self, key: str) -> None:
        """Presses a key, such as "End", in the element that has the focus."""
        code = {"Escape": 27, "End": 35, "Home": 36, "Tab": 9}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def screenshot(self, file: Path) -> None:
        """Writes a PNG of the visible part of the page."""
        shot = self.send("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has exited")
            message += byte
        return json.loads(message)


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Page]:
    """Starts a browser and yields a page; the browser ends with the context.

    Args:
        program: path of Chromium.
        profile: an empty folder for the browser's profile.
    """
    # The protocol uses the file descriptors 3 and 4.
    command = ["sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>&2', program, *OPTIONS]
    command.append(f"--user-data-dir={profile}")
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    timer = threading.Timer(3 * SECONDS, process.kill)  # so that no read waits forever
    timer.start()
    try:
        page = Page(process)
        yield page
        page.send("Browser.close")  # also ends the browser's child processes
    finally:
        timer.cancel()
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=SECONDS / 6)
        process.kill()
        process.communicate()
