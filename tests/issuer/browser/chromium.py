"""A headless Chromium, driven by scripts that see and act in one round trip, so that nothing can be stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kiwi_id.demo import DemoUser

WAIT_SECONDS = 30

_AUDIT = (Path(__file__).parent / "audit.js").read_text(encoding="utf-8")


class Chromium:
    """One window of one profile. ``shots`` is where screenshots go."""

    def __init__(self, driver: Any, shots: Path) -> None:
        self.driver, self.shots = driver, shots

    def forget(self) -> None:
        """Drop all cookies, and what was emulated."""
        self.driver.get("about:blank")
        self.command("Network.clearBrowserCookies")
        self.look()
        self.command("Emulation.setScriptExecutionDisabled", value=False)

    def command(self, name: str, **parameters: Any) -> Any:
        """Give a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def look(self, *, width: int = 1200, dark: bool = False) -> None:
        """Make the window so wide (CSS pixels), and the user one who likes it dark."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Go to a page."""
        self.driver.get(url)

    def until(self, script: str) -> Any:
        """Run JavaScript in the page until it returns something true."""
        from selenium.common.exceptions import JavascriptException  # noqa: PLC0415
        from selenium.webdriver.support.ui import WebDriverWait  # noqa: PLC0415

        wait = WebDriverWait(self.driver, WAIT_SECONDS, poll_frequency=0.05, ignored_exceptions=(JavascriptException,))
        try:
            return wait.until(lambda page: page.execute_script(script))
        except Exception as error:
            where = f"{self.driver.current_url.partition('?')[0]}: {self.text()[:600]}"
            raise AssertionError(f"never true: {script}\nat {where}") from error

    def press(self, label: str) -> None:
        """Press the button that reads ``label`` as soon as it is there and enabled."""
        self.until(
            "const b = [...document.querySelectorAll('button')].find("
            f"b => b.textContent.trim() == {json.dumps(label)} && !b.disabled); if (!b) return false; b.click(); return true"
        )

    def type(self, selector: str, text: str) -> None:
        """Fill the visible input that ``selector`` finds, telling the page as a keyboard would."""
        self.until(
            f"const i = document.querySelector({json.dumps(selector)}); if (!i || !i.offsetParent) return false;"
            f"i.value = {json.dumps(text)}; i.dispatchEvent(new Event('input', {{bubbles: true}})); return true"
        )

    def sign_in(self, user: DemoUser) -> None:
        """Go through Kanidm's login pages."""
        self.type("#username", user.name)
        self.press("Begin")
        self.type("form[action='/ui/login/pw'] input[name=password]", user.password)
        self.press("Submit")

    def agree(self) -> None:
        """Press *Proceed* on Kanidm's consent page."""
        self.until("return document.title == 'Consent Required'")
        self.press("Proceed")

    def title(self, wanted: str) -> None:
        """Wait for the page with this title, whole."""
        self.until(f"return document.title == {json.dumps(wanted)} && document.readyState == 'complete'")

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.driver.execute_script("return document.body?.innerText ?? ''"))

    def site(self) -> str:
        """Scheme and host of the page that is shown."""
        parts = urlsplit(self.driver.current_url)
        return f"{parts.scheme}://{parts.hostname}"

    def opened(self, scheme: str) -> str:
        """Wait until the browser tries to open an address of an app's own scheme; return that address.

        It asks whether there is such an app only after all policies have let the address pass.
        """
        from selenium.webdriver.support.ui import WebDriverWait  # noqa: PLC0415

        def look(driver: Any) -> str:
            events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
            sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
            return next((url for url in sent if url.startswith(f"{scheme}:")), "")

        return str(WebDriverWait(self.driver, WAIT_SECONDS, poll_frequency=0.05).until(look))

    def audit(self) -> list[str]:
        """Return what keeps people from using the page: see audit.js."""
        found: list[str] = self.driver.execute_script(_AUDIT)
        return found

    def shoot(self, name: str) -> None:
        """Take a screenshot."""
        self.shots.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(self.shots / f"{name}.png"))
