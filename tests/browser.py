"""A headless Chromium for the pages: what a person would see, at a desk and on a phone."""

import contextlib
import os
import shutil
import tempfile

import pytest

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")


@contextlib.contextmanager
def chromium(width=1280, height=900):
    """A selenium driver. Skips where Chromium is not installed; `make test` installs it where it may."""
    if not (DRIVER and BROWSER):
        if os.environ.get("CI"):
            pytest.fail("CI has no Chromium: apt-get install chromium chromium-driver")
        pytest.skip("Chromium is not here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with contextlib.ExitStack() as stack:
        # It leaves its sockets' folder behind; outside a test's own folder, since a socket's path must be short.
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER, env={**os.environ, "TMPDIR": folder}))
        stack.callback(driver.quit)
        # Chromium's window is never narrower than 500 pixels; the page is told otherwise, as by a phone.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield driver


def assert_sound(driver):
    """No error in the console, and nothing wider than the window."""
    errors = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, errors
    wide = driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, f"{wide} pixels wider than the window"
