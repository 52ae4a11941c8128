"""A real browser for tests of pages; they skip where there is none."""

from __future__ import annotations

import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture
def browser(tmp_path):
    """``browser(width, height)``: a window of that size, in a profile of its own."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra [test])")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium with chromedriver here (Debian: apt install chromium chromium-driver)")
    opened = []

    def make(width, height):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (
            "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking",
            "no-first-run", "disable-sync", "disable-component-update", f"user-data-dir={tmp_path / 'profile'}",
        ):  # fmt: skip
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        opened.append(webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)))
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        opened[-1].execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        return opened[-1]

    yield make
    for one in opened:
        one.quit()
