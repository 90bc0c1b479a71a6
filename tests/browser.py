"""A headless Chromium for the pages: what a person sees, on a desktop and on a phone."""

import contextlib
import os
import shutil
import tempfile

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium")


@contextlib.contextmanager
def chromium(width=1280, height=900):
    """A selenium driver. Skips the test if Chromium is not installed; `make test` installs it if it can."""
    if not (DRIVER and BROWSER):
        if os.environ.get("CI"):
            pytest.fail("CI has no Chromium: apt-get install chromium chromium-driver")
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with contextlib.ExitStack() as stack:
        # For the folder of sockets that Chromium leaves behind; a test's own folder would make their paths too long.
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER, env={**os.environ, "TMPDIR": folder}))
        stack.callback(driver.quit)
        # Chromium's window is never narrower than 500 pixels, so the page gets the size of a phone by emulation.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield driver


def assert_sound(driver):
    """Asserts that the console has no error and nothing is wider than the window."""
    errors = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, errors
    wide = driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, f"{wide} pixels wider than the window"


# The lowest ratio of contrast of visible text to what is behind it, with the text (WCAG 2.1, 1.4.3).
CONTRAST = """
const parse = (colour) => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
function behind(node) {
  const layers = [];
  for (let each = node; each; each = each.parentElement) layers.push(parse(getComputedStyle(each).backgroundColor));
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
}
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const node = walk.currentNode.parentElement;
  const shown = walk.currentNode.data.trim() && node.checkVisibility();
  if (!shown || node.closest("svg, option, :disabled, caption, .skip")) continue;
  const back = behind(node), colour = parse(getComputedStyle(node).color);
  const [a, b] = [light(over(colour, back)), light(back)];
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walk.currentNode.data.trim().slice(0, 40)]);
}
return found.sort((x, y) => x[0] - y[0])[0];
"""

# [[[label's path, percent, level or ""], ...] of each text]
READ = """
const read = (list, above) => [...list.children].flatMap(item => {
  const [name, , percent] = item.querySelector('.entry').children;
  const level = name.querySelector('.level'), path = above + name.lastChild.textContent;
  const below = item.querySelector('ul');
  return [[path, percent.textContent, level ? level.textContent : ''], ...(below ? read(below, path + '##') : [])];
});
return [...document.querySelectorAll('article')].map(one => {
  const list = one.querySelector('ul');
  return list ? read(list, '') : [];
});
"""


class Page:
    """The page of a running server.py."""

    def __init__(self, driver, url):
        self.driver = driver
        driver.get(url)
        self.wait(lambda: self["about"].text or self["message"].text)

    def __getitem__(self, name):
        return self.driver.find_element(By.ID, name)

    def wait(self, condition):
        return WebDriverWait(self.driver, 30, 0.05).until(lambda _: condition())

    def ask(self, text):
        """Types texts and submits them by keyboard; returns the labels that the page then shows."""
        self["texts"].clear()
        # Typed by script: chromedriver's keyboard has no emoji.
        self.driver.execute_script("arguments[0].value = arguments[1]", self["texts"], text)
        self["texts"].send_keys(Keys.CONTROL, Keys.ENTER)
        return self.labels()

    def labels(self):
        self.wait(lambda: self["send"].is_enabled())
        return self.driver.execute_script(READ)

    def threshold(self, value):
        self.driver.execute_script("arguments[0].value = arguments[1]", self["threshold"], value)
        for event in ("input", "change"):
            self.driver.execute_script("arguments[0].dispatchEvent(new Event(arguments[1]))", self["threshold"], event)
        return self.labels()
