"""A headless Chromium, and a page that is open in it, for tests that drive one as a reader does."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's packages chromium and chromium-driver; the test is skipped without them."""
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs the packages chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    service = pytest.importorskip("selenium.webdriver.chrome.service").Service(DRIVER)
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


def chain(run: str, problem: str, sample: int) -> str:
    """The address of a chain within a report."""
    return "#" + urlencode({"run": run, "problem": problem, "chain": sample})


class Page:
    """A report as it is open in the browser."""

    def __init__(self, driver: Any, address: str) -> None:  # noqa: ANN401  (selenium may be absent)
        self.driver = driver
        self.address = address

    def show(
        self, hash_: str = "", width: int = 1280, height: int = 800, dark: bool = False
    ) -> None:
        """Load the page anew; a narrow screen is one that is touched."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": "", "features": [scheme]}
        )
        self.driver.get("about:blank")
        self.driver.get(self.address + hash_)

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since it was last asked for."""
        entries: list[dict[str, Any]] = self.driver.get_log(kind)
        return entries

    def run(self, script: str) -> Any:  # noqa: ANN401  (whatever JavaScript has)
        return self.driver.execute_script(f"return {script}")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def wait_for(self, script: str, seconds: float = 10.0) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"still not so: {script}"
            time.sleep(0.02)

    def open_chain(self, heading: str) -> None:
        """Wait until a chain, or chains side by side, are shown under a heading."""
        self.wait_for(
            f"document.getElementById('chain-heading').textContent == {json.dumps(heading)}"
        )

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def texts(self, selector: str) -> list[str]:
        """Of all elements that a selector takes."""
        found: list[str] = self.run(
            f"[...document.querySelectorAll({json.dumps(selector)})].map(each => each.textContent)"
        )
        return found

    def focused(self) -> str:
        return str(
            self.run(
                "document.activeElement.getAttribute('aria-label') || "
                "document.activeElement.textContent"
            )
        )
