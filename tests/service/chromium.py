"""A headless Chromium, driven over its DevTools protocol. Each page has a storage of its own.

https://chromedevtools.github.io/devtools-protocol
"""

import base64
import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.programs import program
from tests.service.serving import until

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
FLAGS += ["--no-startup-window", "--disable-extensions", "--disable-component-extensions-with-background-pages"]
FLAGS += ["--renderer-process-limit=1", "--disable-site-isolation-trials"]
FLAGS += ["--disable-features=BackForwardCache,SpareRendererForSitePerProcess"]
"""From the second line on they save processes, each of which takes as much CPU as most tests."""
INSECURE = "playground.internal"
"""A name of this machine that browsers do not trust as they do 127.0.0.1."""
KEYS = {"Tab": 9, "Enter": 13, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39, " ": 32}
SHIFT = 8
PATIENCE = 30_000
"""Milliseconds that a page has for anything."""
LIVE = "[...document.querySelectorAll('[role=alert], [role=status]')].map((each) => each.textContent).join('\\n')"
"""What live regions say."""


class Page:
    """A page with storage of its own, as a person sees it."""

    def __init__(self, browser: "Browser", target: str) -> None:
        self._browser = browser
        self._is_blank = True
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # whichever page is in front

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def run(self, script: str) -> Any:
        """Return what an expression gives in the page, once its promise resolves."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self.call("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true in the page."""
        script = (
            f"new Promise((done) => {{ const look = () => ({condition}) ? done() : setTimeout(look, 10); look(); }})"
        )
        self.run(f"Promise.race([{script}, new Promise((_, fail) => setTimeout(fail, 20000, `never: {condition}`))])")

    def open(self, url: str) -> "Page":
        """Load an address."""
        if not self._is_blank:  # an address that differs behind # only would load nothing
            self.call("Page.navigate", url="about:blank")
        self._is_blank = False
        self.call("Page.navigate", url=url)
        return self

    def reload(self) -> None:
        self.run("window.old = true")
        self.call("Page.reload")
        self.until("!window.old")

    def answered(self, text: str = "") -> str:
        """Wait for an answer that has a text; return all of it."""
        self.until(f"document.querySelector('#result .legend') && $('result').textContent.includes({json.dumps(text)})")
        found: str = self.run("$('result').textContent")
        return found

    def said(self, text: str) -> str:
        """Wait until a live region says a text; return all that they say."""
        self.until(f"{LIVE}.includes({json.dumps(text)})")
        found: str = self.run(LIVE)
        return found

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def write(self, selector: str, text: str) -> None:
        """Put a text into a control, as typing or pasting does."""
        control = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{control}.closest('details')?.setAttribute('open', ''); {control}.focus(); {control}.select?.()")
        if self.run(f"{control}.tagName") == "SELECT":
            self.run(f"{control}.value = {json.dumps(text)}")
            for event in ("input", "change"):
                self.run(f"{control}.dispatchEvent(new Event('{event}', {{bubbles: true}}))")
        else:
            self.call("Input.insertText", text=text)

    def press(self, key: str, shift: bool = False) -> None:
        named = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": {"Enter": "\r", " ": " "}[key]} if key in ("Enter", " ") else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", modifiers=SHIFT * shift, **named, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", modifiers=SHIFT * shift, **named)

    def resize(self, width: int, height: int = 900, scale: float = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    def prefer(self, scheme: str) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, file: Path) -> None:
        """Write what the window shows as PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def forget(self) -> None:
        """Undo what a test did to the page."""
        self.run("origin === 'null' || (localStorage.clear(), sessionStorage.clear())")
        self.call("Page.navigate", url="about:blank")
        self._is_blank = True
        self.call("Emulation.clearDeviceMetricsOverride")
        self.call("Emulation.setEmulatedMedia", features=[])
        self.call("Page.setDownloadBehavior", behavior="default")

    def document(self) -> str:
        found: str = self.run("document.documentElement.outerHTML")
        return found

    def link(self) -> str:
        found: str = self.run("location.hash")
        return found


class Browser:
    """One Chromium."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count()
        self._clean: Page | None = None
        self.violations: list[str] = []
        """What pages logged as errors and as breaches of their content security policy."""

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        named = {"sessionId": session} if session else {}
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters, **named}))
        while (message := json.loads(self._socket.recv(60))).get("id") != number:
            self._note(message)
        assert "error" not in message, (method, message["error"])
        result: dict[str, Any] = message["result"]
        return result

    @contextmanager
    def clean_page(self) -> Iterator[Page]:
        """Yield a page without traces of earlier tests: the same one each time, as another would take too long."""
        page = self._clean or self.page()
        self._clean = None  # until the block has ended well
        yield page
        page.forget()
        self._clean = page

    def page(self) -> Page:
        """Open a page with storage of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        return Page(self, self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"])

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":  # what a test waits for would never come
            raise AssertionError(f"a script of the page failed: {event['params']['exceptionDetails']}")
        entry = event.get("params", {}).get("entry", {})
        if entry.get("source") in ("security", "violation", "javascript"):
            self.violations.append(entry["text"])


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Run Chromium until the block ends."""
    path = program("chromium", "chromium-browser", "google-chrome", package="chromium")
    names = f"--host-resolver-rules=MAP {INSECURE} 127.0.0.1"
    command = [path, *FLAGS, names, "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            port = profile / "DevToolsActivePort"
            until(lambda: port.exists() and port.read_text().count("\n") == 1)
            number, path = port.read_text().split("\n")
            with connect(
                f"ws://127.0.0.1:{number}{path}", max_size=None, proxy=None, close_timeout=0.1, ping_interval=None
            ) as socket:
                browser = Browser(socket)
                yield browser
                browser.call("Browser.close")
        finally:
            running.kill()
