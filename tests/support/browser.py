"""A real browser, without a window: Debian's Chromium, driven by selenium.

`.ci/run` installs it where it is not there. On other machines its tests are skipped where it is missing; the variables
TEST_CHROMIUM and TEST_CHROMEDRIVER name others than those on the path.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.support.waiting import eventually

SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # which no root may have; it shows pages of this house alone
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--window-size=1500,1000",
)
# The browser starts while other tests run.
WAIT_S = 30.0


def _program(variable: str, *names: str) -> str:
    found = os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no {names[0]} on this machine (Debian: apt install chromium chromium-driver)")
    return found


class Browser:
    """One window. `with` it, since it is a process of its own."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = _program("TEST_CHROMIUM", "chromium", "google-chrome")
        for switch in SWITCHES:
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(_program("TEST_CHROMEDRIVER", "chromedriver")))
        self.driver.set_script_timeout(WAIT_S)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()

    @contextmanager
    def before(self, script: str) -> Iterator[None]:
        """Run a script in each page that is opened meanwhile, before its own."""
        added = self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)

    def is_hidden(self, hidden: bool) -> None:
        """As when its tab goes behind another, or comes back."""
        self.run(
            """const hidden = arguments[0];
            Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});
            document.dispatchEvent(new Event('visibilitychange'));""",
            hidden,
        )

    def open(self, url: str) -> None:
        """A page, anew, also if only what follows its `#` is another."""
        self.driver.get("about:blank")
        self.driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def settle(self, script: str) -> Any:
        """What the promise of a script (an expression) comes to; `failed: …` if it fails."""
        done, script = "const done = arguments[arguments.length - 1];", script.strip()
        return self.driver.execute_async_script(f"{done}({script}).then(done, (why) => done('failed: ' + why));")

    def text(self, selector: str) -> str:
        """All that is written in the elements there, hidden or not."""
        return str(
            self.run(
                "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent).join('\\n')", selector
            )
        )

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, keys: str) -> None:
        """Keys, for whatever has the focus."""
        webdriver.ActionChains(self.driver).send_keys(keys).perform()

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
        """The first true value of a condition."""
        return eventually(condition, timeout_s=timeout_s, what=what)

    def shows(self, selector: str, text: str) -> None:
        """Wait until that is written there."""
        eventually(lambda: text in self.text(selector), timeout_s=WAIT_S, what=f"{text!r} in {selector}")

    def complaints(self) -> list[str]:
        """What the browser has to say against the page since this was asked last."""
        try:
            entries: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        except WebDriverException:
            return []
        return [str(it["message"]) for it in entries if it["level"] in ("SEVERE", "WARNING")]

    def picture(self, path: Path) -> None:
        """The window, as PNG."""
        self.driver.save_screenshot(str(path))

    def prefers(self, theme: str) -> None:
        """`light` or `dark`, as if the system had it so."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
