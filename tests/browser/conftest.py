"""A real headless Chromium that opens pages of the report by their file address."""

import base64
import json
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import pytest

PROGRAMS = ("chromium", "chromedriver")
SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
SETTLED = """
const done = arguments[0];
const place = (each) => Object.values(each.getBoundingClientRect().toJSON()).join();
let before, quiet = 0;
const look = () => {
    const now = [...document.querySelectorAll("main, figure, [role=application]")].map(place).join();
    quiet = now === before && !document.querySelector("[aria-busy=true]") ? quiet + 1 : 0;
    before = now;
    if (quiet === 3) done();
    else requestAnimationFrame(look);
};
look();
"""
AXE = """
const done = arguments[0];
axe.run({preload: false}).then(({violations}) => done(violations.map(
    ({id, help, nodes}) => `${id}: ${help}: ${nodes.map((node) => node.html.slice(0, 200)).slice(0, 5).join(" | ")}`)));
"""


class Browser:
    """Chromium under test; `driver` is selenium's, for whatever has no method here."""

    def __init__(self, driver):
        self.driver = driver
        self._axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")

    def command(self, name: str, **arguments) -> dict:
        """Send a command of the Chrome DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def look(self, *, dark: bool = False, width: int = 1360, print_: bool = False) -> None:
        """Set what the reader's system prefers, the width of the window in CSS pixels, and the medium."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", media="print" if print_ else "", features=[scheme])
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )

    def scripts(self, *, run: bool) -> None:
        """Let pages that are opened from now on run their scripts, or not."""
        self.command("Emulation.setScriptExecutionDisabled", value=not run)

    def open(self, page: Path, fragment: str = "") -> None:
        """Load a page, anew also if only its fragment differs, and wait for its load event."""
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + (f"#{fragment}" if fragment else ""))

    def run(self, script: str, *arguments):
        """The value that a piece of JavaScript returns."""
        return self.driver.execute_script(script, *arguments)

    def settle(self) -> None:
        """Wait until three frames have passed in which nothing was being loaded and nothing moved."""
        self.driver.execute_async_script(SETTLED)

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.run(OVERFLOW)

    def violations(self) -> list[str]:
        """What axe-core objects to on the page as it is now."""
        self.run(self._axe)
        return self.driver.execute_async_script(AXE)

    def errors(self) -> list[str]:
        """What the console reported since the last call: blocked or missing files, and exceptions."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def requests_elsewhere(self) -> list[str]:
        """Those of `requests` that are no file, data or blob."""
        return [url for url in self.requests() if urlsplit(url).scheme not in ("file", "data", "blob", "about")]

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        shot = self.command("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The one browser of all tests; they are skipped where there is none."""
    paths = [shutil.which(name) for name in PROGRAMS]
    if missing := [name for name, path in zip(PROGRAMS, paths, strict=True) if path is None]:
        pytest.skip(f"{' and '.join(missing)} not found (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for switch in SWITCHES:
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
    driver.set_script_timeout(60)
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def browser(chromium) -> Browser:
    """The browser as a reader with a wide, light screen has it, with nothing left of the test before."""
    chromium.scripts(run=True)
    chromium.look()
    chromium.driver.get("about:blank")
    chromium.errors()
    chromium.requests()
    return chromium
