"""The report in headless Chromium, driven by chromedriver's own protocol: it sorts, explores, and asks for nothing."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fl_sim import Result
from fl_sim.cli import main
from fl_sim.report.wording import percent, worst_client

pytestmark = pytest.mark.slow

SWEEP = (
    "sweep", "digits", "clients.concentration=0.1,10", "calibrate=fedwq-cp,local", "seed=0,1", "clients.count=12",
    "clients.tier.strong.epochs=2", "runtime.name=inline", "--out", "swept",
)  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name of a reference to an element


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, server: str) -> None:
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        options = {
            "binary": shutil.which("chromium"),
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"],
        }
        asked = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self._base = server
        found = self.call("POST", "/session", {"capabilities": {"alwaysMatch": asked}})
        self._base = f"{server}/session/{found['sessionId']}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with self._open(asked, timeout=60) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{method} {path}: {json.loads(error.read())['value']['message']}") from None

    def devtools(self, command: str, **told: Any) -> Any:
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": told})

    def go(self, file: Path) -> None:
        self.call("POST", "/url", {"url": file.resolve().as_uri()})

    def run(self, script: str) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def find(self, selector: str) -> str:
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[ELEMENT])

    def click(self, selector: str) -> None:
        self.call("POST", f"/element/{self.find(selector)}/click", {})

    def keys(self, text: str) -> None:
        pressed = [{"type": kind, "value": letter} for letter in text for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": pressed}]})

    def point(self, x: float, y: float) -> None:
        """Move the mouse there, in the window's pixels."""
        move = {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}
        self.call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [move]}]})

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        told = {"width": width, "height": height, "deviceScaleFactor": 1 + phone, "mobile": phone}
        self.devtools("Emulation.setDeviceMetricsOverride", **told)

    def dark(self, on: bool) -> None:
        told = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=told)

    def picture(self, to: Path, *, whole: bool = True) -> Path:
        taken = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole))
        to.write_bytes(base64.b64decode(taken["data"]))
        return to

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def pdf(self, to: Path) -> Path:
        to.write_bytes(base64.b64decode(self.devtools("Page.printToPDF", printBackground=True)["data"]))
        return to

    def errors(self) -> list[str]:
        """What the console said."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def asked_for(self) -> set[str]:
        """The addresses that were asked for."""
        entries = self.call("POST", "/se/log", {"type": "performance"})
        told = [json.loads(entry["message"])["message"] for entry in entries]
        return {t["params"]["request"]["url"] for t in told if t["method"] == "Network.requestWillBeSent"}

    def column(self, header: str) -> list[float]:
        """What the first table of the section is sorted by, row by row."""
        script = """
        const table = document.querySelector("#table table");
        const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === HEADER);
        return [...table.tBodies[0].rows].map((row) => row.cells[at].dataset.v);"""
        return [float(value) for value in self.run(script.replace("HEADER", json.dumps(header)))]

    def client(self) -> dict[str, str]:
        """The client that is shown."""
        script = """
        const card = document.getElementById("client"), told = { name: card.querySelector("h3").textContent };
        for (const dt of card.querySelectorAll("dt")) told[dt.textContent] = dt.nextElementSibling.textContent;
        return told;"""
        found: dict[str, str] = self.run(script)
        return found

    def loading(self) -> dict[str, float]:
        """Milliseconds from the start of loading to the end of each step."""
        found: dict[str, float] = self.run("""
        const told = performance.getEntriesByType("navigation")[0];
        const painted = performance.getEntriesByName("first-contentful-paint")[0];
        return { parsed: told.domContentLoadedEventEnd, loaded: told.loadEventEnd, painted: painted?.startTime };""")
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Chromedriver's address."""
    for command in ("chromium", "chromedriver"):
        assert shutil.which(command), f"{command} is missing: apt-get install chromium chromium-driver"
    with subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = next(line for line in process.stdout if "started successfully" in line)
            port = re.findall(r"on port (\d+)", line)[0]
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.fixture
def browser(server: str) -> Iterator[Browser]:
    page = Browser(server)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: page.call("DELETE", ""))
        yield page


def fl_sim(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["fl-sim", *words])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code in (0, None)


def test_a_sweeps_report_sorts_explores_and_asks_for_nothing(browser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fl_sim(monkeypatch, *SWEEP)
    fl_sim(monkeypatch, "report", "swept")
    look_at(browser, tmp_path / "swept/report.html", tmp_path / "pictures")


def look_at(browser: Browser, page: Path, pictures: Path) -> None:
    """Use a sweep's page as a reader does."""
    pictures.mkdir()
    browser.size(1280, 900)
    browser.go(page)
    sys.stdout.write(f"{page.stat().st_size / 1e6:.2f} MB, milliseconds: {browser.loading()}\n")
    before = browser.column("coverage")
    at = browser.run('return [...document.querySelectorAll("#table thead th")].map((head) => head.textContent)')
    heading = f"#table thead th:nth-child({at.index('coverage') + 1})"
    browser.click(f"{heading} button")
    assert browser.column("coverage") == sorted(before)
    browser.keys("\ue007")  # Enter: the button has the focus
    assert browser.column("coverage") == sorted(before, reverse=True)
    assert browser.run(f"return document.querySelector('{heading}').getAttribute('aria-sort')") == "descending"

    browser.click("#table td.go button")
    assert browser.run("return document.activeElement.id") == "plot"
    browser.keys("\ue011")  # DriverStore
    first = browser.client()
    browser.keys("\ue014" * 3)  # right
    fourth = browser.client()
    assert fourth["name"] != first["name"]
    assert share(first["coverage"]) <= share(fourth["coverage"])
    assert re.fullmatch(r"\d+\.\d-\d+\.\d%", first["exact 95% interval"])
    box = browser.run(
        "const b = document.querySelector('#plot svg').getBoundingClientRect(); return [b.x, b.y, b.width]"
    )
    browser.point(box[0] + box[2] - 20, box[1] + 30)
    assert share(browser.client()["coverage"]) > share(first["coverage"])
    browser.picture(pictures / "explorer.png", whole=False)

    assert browser.errors() == []
    browser.picture(pictures / "desktop.png")
    browser.dark(True)
    browser.picture(pictures / "dark.png")
    browser.dark(False)
    browser.size(390, 844, phone=True)
    browser.go(page)
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    browser.picture(pictures / "phone.png")
    browser.size(1280, 900)
    assert browser.pdf(pictures / "print.pdf").read_bytes()[:4] == b"%PDF"
    assert browser.errors() == []
    assert {address.partition(":")[0] for address in browser.asked_for()} <= {"file", "data"}


def share(text: str) -> float:
    return float(text.partition("%")[0])


def test_a_runs_explorer_opens_at_the_clients_of_its_table(browser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fl_sim(monkeypatch, "run", "digits", "clients.count=12", "runtime.name=inline", "--out", "run")
    fl_sim(monkeypatch, "report", "run", "--out", "run.html")
    browser.size(1280, 900)
    browser.go(tmp_path / "run.html")
    result = Result.load(tmp_path / "run")
    worst = worst_client(result)
    assert worst is not None
    found = browser.client()
    assert found["name"] == f"client {worst['client']}"
    assert found["coverage"] == f"{percent(worst['coverage'])} ({worst['num_covered']} of {worst['num_test']})"
    browser.picture(tmp_path / "run.png")
    assert browser.errors() == []


def test_all_numbers_are_rounded_as_in_the_terminal(browser, tmp_path, monkeypatch):
    """Every coverage of up to 48 test points, in the page's script and in Python."""
    script = Path(sys.modules["fl_sim"].__file__ or "").parent.joinpath("report/page/page.js").read_text()
    function = re.search(r"const percent = .*?\n  };", script, re.DOTALL)
    assert function is not None
    (tmp_path / "empty.html").write_text("<!DOCTYPE html><title>empty</title>")
    browser.go(tmp_path / "empty.html")
    pairs = [(k, m) for m in range(1, 49) for k in range(m + 1)]
    told = browser.run(f"{function[0]} return {json.dumps(pairs)}.map(([k, m]) => percent(k / m));")
    assert told == [percent(k / m) for k, m in pairs]
