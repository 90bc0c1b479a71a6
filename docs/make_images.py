"""Make the READMEs' pictures: the evaluation report and the server's page, of the quickstart model, in Chromium.

    make quickstart && make images
    python docs/make_images.py --output_dir docs/images

Needs chromium and chromedriver, and fonts for Chinese (apt-get install chromium chromium-driver fonts-noto-cjk).
"""

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.cli import Problems, UserError, command

ROOT = Path(__file__).resolve().parents[1]
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
LARGEST = 200_000  # bytes of a picture
TEXTS = """客运火车撞上横穿铁道的拖拉机，司机跳车逃生，线路中断两个小时
“小满”牌电热毯召回六千条，原因是控温器会短路
台风登陆，学校停课一天"""
LANGUAGES = {"": "en", "_zh": "zh-CN"}  # ending of a picture's name: language of the page
# Keeps the figures at the top, the first section and the plots, and hides the tables between and after them.
HIDE_TABLES = """
const sections = [];
for (const part of [...document.querySelector("main").children])
  if (part.tagName === 'H2') sections.push([part]);
  else if (sections.length) sections.at(-1).push(part);
for (const section of sections.slice(1))
  if (!section.some(part => part.querySelector('svg')))
    for (const part of section) part.style.display = 'none';
document.getElementById('threshold').style.display = 'none';
return document.body.getBoundingClientRect().bottom;
"""


def parse_args(argv, description, output_dir):
    """The flags of this script and of screenshots.py. output_dir: where pictures go by default."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--params_path", default="quickstart/checkpoint", help="checkpoint to show (%(default)s)")
    parser.add_argument("--dataset_dir", default="data", help="folder of its data (%(default)s)")
    parser.add_argument("--output_dir", default=output_dir, help="folder of the pictures (%(default)s)")
    return parser.parse_args(argv)


@contextlib.contextmanager
def chromium(width, theme="light"):
    """A selenium driver of a headless Chromium, whose window is `width` pixels wide."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars", "lang=en"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        set_size(driver, width, 900)
        features = [{"name": "prefers-color-scheme", "value": theme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        yield driver
    finally:
        driver.quit()


def speak(driver, language):
    """Switches the page to a language, "en" or "zh-CN"."""
    if driver.execute_script("return document.documentElement.lang") != language:
        driver.find_element("id", "language").click()


def set_size(driver, width, height):
    metrics = {"width": width, "height": int(height), "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@contextlib.contextmanager
def server(bundle):
    """The address of a server of the bundle, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = ROOT / "deploy" / "simple_serving" / "server.py"
    process = subprocess.Popen([sys.executable, script, "--bundle", bundle, "--port", str(port)])
    try:
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready").close()
                break
            if process.poll() is not None:
                raise UserError("the server did not start; see its message above")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def run(script, *flags):
    status = subprocess.run([sys.executable, ROOT / script, *flags]).returncode
    if status:
        raise UserError(f"{script} ended with status {status}; see its message above")


def save(driver, path):
    """Writes what the driver shows. Raises UserError if the file is too large for a README."""
    driver.save_screenshot(str(path))
    size = path.stat().st_size
    print(f"{path}: {size} bytes")
    if size > LARGEST:
        raise UserError(f"{path} has {size} bytes, more than {LARGEST}; show less of the page")


def picture_report(args, folder):
    page = folder / "report.html"
    model = ("--device", "cpu", "--dataset_dir", args.dataset_dir, "--params_path", args.params_path)
    outputs = ("--bad_case_file", str(folder / "bad_case.txt"), "--html", str(page))
    run("analysis/evaluate.py", *model, "--dev_file", "test.txt", *outputs)
    with chromium(1100) as driver:
        driver.get(page.as_uri())
        for ending, language in LANGUAGES.items():
            speak(driver, language)
            set_size(driver, 1100, driver.execute_script(HIDE_TABLES))
            save(driver, Path(args.output_dir, f"report{ending}.png"))


def ask(driver):
    """Has the server's page label `TEXTS`, and waits for the answer."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.find_element("id", "texts").send_keys(TEXTS)
    driver.find_element("id", "send").click()
    WebDriverWait(driver, 30).until(lambda _: driver.find_elements("css selector", "article .entry"))


def picture_server(args, folder):
    bundle = str(folder / "export")
    run("export_model.py", "--params_path", args.params_path, "--output_path", bundle)
    with server(bundle) as address, chromium(960) as driver:
        driver.get(address)
        ask(driver)
        for ending, language in LANGUAGES.items():
            speak(driver, language)
            set_size(driver, 960, driver.execute_script("return document.body.getBoundingClientRect().bottom"))
            save(driver, Path(args.output_dir, f"server{ending}.png"))


def check_setting(params_path):
    """Stops with what is missing."""
    problems = Problems()
    if not Path(params_path, "run.json").exists():
        problems.add(f"--params_path {params_path}: no checkpoint there; run make quickstart first")
    if not (BROWSER and DRIVER):
        problems.add("Chromium is not installed: apt-get install chromium chromium-driver fonts-noto-cjk")
    problems.stop_if_any()


@command
def main(argv=None):
    args = parse_args(argv, __doc__, "docs/images")
    check_setting(args.params_path)
    os.makedirs(args.output_dir, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        picture_report(args, Path(folder))
        picture_server(args, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
