"""What people look at, in a real browser: the report, and the MLflow UI on the study's own database."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from study.ledger import Ledger
from study.report import best_trial
from study.serving import take_port

pytestmark = pytest.mark.browser

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DESKTOP, PHONE = (1200, 900), (390, 800)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Debian's Chromium without a screen; it reaches nothing but this machine."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs Debian's chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                 f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def until(condition, browser=None, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            if browser:
                keep(browser, "failed")
            pytest.fail("the page never showed it")
        time.sleep(0.2)
    return found


def numbers(text):
    return [float(found) for found in re.findall(r"\d+\.\d{3,}", text)]


@pytest.fixture(scope="module")
def page(finished_study, tmp_path_factory):
    from study.page import write_html

    path = tmp_path_factory.mktemp("page") / "done.html"
    write_html(Ledger.open(finished_study / "done"), path, None)
    return path


def show(browser, page, size):
    # The window's smallest width is 500 px; this is the page's own.
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False})  # fmt: skip
    browser.get(page.as_uri())
    figures = browser.execute_script("return document.querySelectorAll('figure[data-figure]').length")
    until(lambda: browser.execute_script("return document.querySelectorAll('figure svg').length") == figures)
    return figures


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_report_draws_every_figure_and_fits_the_screen(browser, page, finished_study, size):
    assert show(browser, page, size) >= 9
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= size[0]
    trials = Ledger.open(finished_study / "done").trials()
    best = best_trial(trials)
    first = browser.execute_script("return document.querySelector('.answer p').textContent")
    assert f"nll {best.best['valid/nll']:.2f}" in first
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#trials ~ .table tbody tr')].map(row => row.children[3].textContent)"
    )
    assert rows == [f"{trial.best['valid/nll']:.2f}" for trial in trials]
    marks = browser.execute_script(
        "return document.querySelectorAll('#figure-trade-off svg .mark-symbol.role-mark path').length"
    )
    assert marks == len([trial for trial in trials if trial.best])
    keep(browser, f"report-{size[0]}")


def test_the_report_is_accessible(browser, page):
    from axe_core_python.selenium import Axe

    show(browser, page, DESKTOP)
    found = Axe().run(browser, options={"runOnly": ["wcag2a", "wcag2aa", "best-practice"]})
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]] == []
    assert len(found["passes"]) > 10


def test_the_report_can_be_read_by_keyboard(browser, page):
    from selenium.webdriver.common.keys import Keys

    show(browser, page, DESKTOP)
    body = browser.find_element("tag name", "body")
    body.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Settings"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.current_url.endswith("#settings")
    seen = set()
    for _ in range(40):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        seen.add(browser.switch_to.active_element.tag_name)
    assert {"a", "figure"} <= seen


@pytest.fixture(scope="module")
def ui(finished_study):
    """The address that `study ui done` says, while it runs."""
    port = take_port(None)
    command = [sys.executable, "-c", "from study.cli import entry; entry()", "ui", "done", "--port", str(port),
               "--no-browser", "--storage", str(finished_study)]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        said = []
        while not said or not said[-1].startswith("MLflow UI: "):
            said.append(process.stderr.readline())
            assert said[-1], "".join(said)
        yield said[-1].split()[2]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def keep(browser, name):
    """Keep a screenshot where SCREENSHOTS names a folder: those of README and docs were made so."""
    if folder := os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/{name}.png")


def run_page(ui, run_id, place=""):
    address, _, query = ui.partition("?")
    return f"{address}/{run_id}{place}?{query}"


def text_of(browser):
    return browser.execute_script("return document.body.innerText")


def test_mlflow_shows_the_studys_runs_and_its_story(browser, ui, finished_study, tmp_path):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.set_window_size(1500, 1000)
    browser.get(ui)
    trials = Ledger.open(finished_study / "done").trials()
    until(lambda: f"{len(trials) + 1} matching runs" in text_of(browser), browser)
    keep(browser, "mlflow-runs")
    browser.get(f"{ui}&compareRunsMode=CHART")
    until(lambda: "best/kl" in text_of(browser), browser)
    keep(browser, "mlflow-charts")
    ids = json.loads((finished_study / "done/mlflow.json").read_text())
    browser.get(run_page(ui, ids["study"]))
    best = best_trial(trials)
    until(lambda: f"Best: trial {best.number}" in text_of(browser))
    keep(browser, "mlflow-study")
    text = text_of(browser)
    assert f"nll {best.best['valid/nll']:.2f}" in text
    assert "Reproduce" in text
    browser.get(run_page(ui, ids[str(best.number)]))
    until(lambda: "best/nll" in text_of(browser))
    # In whatever number of digits the page shows it.
    until(lambda: any(abs(number - best.best["valid/nll"]) < 0.001 for number in numbers(text_of(browser))), browser)


def test_mlflow_renders_the_report_as_an_artifact(browser, ui, finished_study):
    ids = json.loads((finished_study / "done/mlflow.json").read_text())
    browser.get(run_page(ui, ids["study"], "/artifacts/report.html"))
    frame = until(lambda: browser.find_elements("css selector", "iframe"))[0]
    browser.switch_to.frame(frame)
    try:
        until(lambda: "trials on prepared" in text_of(browser), browser)
        keep(browser, "mlflow-report")
    finally:
        browser.switch_to.default_content()
