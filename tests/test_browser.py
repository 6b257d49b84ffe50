"""What people look at, in a real browser: the report, and the MLflow UI on the study's own database."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from studies import start

from study.record.formats import show_params
from study.record.ledger import Ledger
from study.record.trials import best_trial, seeds_frame
from study.tracking.overview import run_name
from study.tracking.ui import take_port

pytestmark = pytest.mark.browser

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DESKTOP, PHONE = (1200, 900), (390, 800)
WIDEST = 1000


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Debian's Chromium without a screen; it reaches nothing but this machine."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs Debian's chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
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
def shown(finished_study):
    """The folder of the study that is looked at; SHOWN names another than the tests' own, for the screenshots."""
    return Path(os.environ.get("SHOWN", finished_study / "done")).absolute()


@pytest.fixture(scope="module")
def page(shown, tmp_path_factory):
    from study.reporting.document import write_html

    path = tmp_path_factory.mktemp("page") / "report.html"
    write_html(Ledger.open(shown), path, None)
    return path


def show(browser, page, size):
    # The window's smallest width is 500 px; this is the page's own.
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get(page.as_uri())
    figures = browser.execute_script("return document.querySelectorAll('figure[data-figure]').length")
    until(lambda: browser.execute_script("return document.querySelectorAll('figure svg').length") == figures)
    return figures


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_report_draws_every_figure_and_fits_the_screen(browser, page, shown, size):
    assert show(browser, page, size) >= 9
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= size[0]
    wide = browser.execute_script(
        "return [...document.querySelectorAll('figure')].filter(it => it.scrollWidth > it.clientWidth).map(it => it.id)"
    )
    assert wide == []
    trials = Ledger.open(shown).trials()
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
    keep(browser, "report" if size == DESKTOP else "report-phone")


@pytest.fixture
def emulated(browser):
    """What sets the media that pages are shown on; undone at the end."""

    def emulate(media="", scheme="light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    yield emulate
    emulate()


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "dark")])
def test_the_report_is_accessible(browser, page, size, scheme, emulated):
    from axe_core_python.selenium import Axe

    emulated(scheme=scheme)
    show(browser, page, size)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    # Words in figures are dark on light or light on dark, as the page's are.
    words, fills = browser.execute_script(
        "return [getComputedStyle(document.body).color,"
        " [...document.querySelectorAll('figure svg .role-axis-title text')].map(it => getComputedStyle(it).fill)]"
    )
    assert set(fills) == {words}
    keep(browser, f"report-{scheme}-{size[0]}")
    found = Axe().run(browser, options={"runOnly": ["wcag2a", "wcag2aa", "best-practice"]})
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]] == []
    assert len(found["passes"]) > 10


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_studies_beside_each_other_fit_the_screen_and_are_accessible(browser, shown, tmp_path, size):
    from axe_core_python.selenium import Axe

    from study.reporting.multi_study import write_studies

    write_studies([Ledger.open(shown)] * 2, tmp_path / "both.html")
    assert show(browser, tmp_path / "both.html", size) == 1
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    drawn = len([trial for trial in Ledger.open(shown).trials() if trial.best])
    marks = "return document.querySelectorAll('#figure-trade-off svg .mark-symbol.role-mark path').length"
    assert browser.execute_script(marks) == 2 * drawn
    found = Axe().run(browser, options={"runOnly": ["wcag2a", "wcag2aa", "best-practice"]})
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]] == []
    keep(browser, f"studies-{size[0]}")


def test_tables_sort_and_filter_and_a_switch_shows_one_figure_of_two(browser, page, shown):
    show(browser, page, DESKTOP)
    trials = Ledger.open(shown).trials()

    def column(place):
        cells = "[...document.querySelectorAll('#trials ~ .table tbody tr')].filter(row => !row.hidden)"
        return browser.execute_script(f"return {cells}.map(row => row.children[{place}].textContent)")

    heads = browser.find_elements("css selector", "#trials ~ .table th button")
    nll = next(place for place, head in enumerate(heads) if head.text.startswith("nll"))
    heads[nll].click()
    usual = sorted(f"{trial.best['valid/nll']:.2f}" for trial in trials)
    assert column(nll) == usual
    heads[nll].click()
    assert column(nll) == usual[::-1]
    sort = "return document.querySelectorAll('#trials ~ .table th')[arguments[0]].getAttribute('aria-sort')"
    assert browser.execute_script(sort, nll) == "descending"
    heads[0].click()
    assert column(0) == [str(trial.number) for trial in trials]
    with_max = [str(trial.number) for trial in trials if "pooling=max" in show_params(trial.params)]
    browser.find_element("css selector", "#trials ~ .filter input").send_keys("pooling=max")
    assert column(0) == with_max
    assert browser.find_element("css selector", "#trials ~ .filter [role=status]").text == (
        f"{len(with_max)} of {len(trials)}"
    )

    def visible():
        return [
            name
            for name in ("trade-off", "trade-off-rate")
            if browser.find_element("id", f"figure-{name}").is_displayed()
        ]

    assert visible() == ["trade-off"]
    browser.find_element("css selector", "input[value=trade-off-rate]").click()
    assert visible() == ["trade-off-rate"]


def test_the_report_prints_light_and_whole(browser, page, emulated):
    import base64

    emulated(media="print", scheme="dark")
    # What A4 has between its margins, at 96 dots an inch.
    show(browser, page, (680, 900))
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    cut = browser.execute_script(
        "return [...document.querySelectorAll('.table table, figure svg')]"
        ".filter(it => it.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(it => it.textContent.slice(0, 60))"
    )
    assert cut == []
    assert not browser.find_element("tag name", "nav").is_displayed()
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")


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
def ui(shown):
    """The address that `study ui` says, while it runs."""
    port = take_port(None)
    command = [
        sys.executable,
        "-c",
        "from study.cli.main import entry; entry()",
        "ui",
        shown.name,
        "--port",
        str(port),
        "--no-browser",
        "--storage",
        str(shown.parent),
    ]
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
        # Where the study lies is this machine's business.
        browser.execute_script(
            "for (const it of document.querySelectorAll('*'))"
            " if (!it.children.length && it.textContent.includes('file:///')) it.style.visibility = 'hidden'"
        )
        image = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        # As wide as a page shows it, every colour as it was.
        image.thumbnail((WIDEST, 10_000))
        image.save(f"{folder}/{name}.png", optimize=True)


def run_page(ui, run_id, place=""):
    address, _, query = ui.partition("?")
    return f"{address}/{run_id}{place}?{query}"


def text_of(browser):
    return browser.execute_script("return document.body.innerText")


def open_page(browser, address, height=1000):
    """Open a page of the MLflow UI, which a panel of suggestions would hide a quarter of."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1400, "height": height, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(address)
    until(lambda: len(text_of(browser)) > 200, browser)
    for button in browser.find_elements("css selector", "[data-component-id='mlflow.assistant.chat_panel.close']"):
        button.click()


def test_mlflow_opens_on_the_charts_that_tell_the_studys_story(browser, ui, shown):
    trials = Ledger.open(shown).trials()
    open_page(browser, ui, 1300)
    until(lambda: f"{len(trials) + 1} matching runs" in text_of(browser), browser)
    wanted = ("Likelihood and use of z", "best/mi vs. best/nll", "valid/nll", "valid/kl")
    until(lambda: all(text in text_of(browser) for text in wanted), browser)
    points = "return document.querySelectorAll('.js-plotly-plot .scatterlayer path.point').length"
    until(lambda: browser.execute_script(points) >= len([trial for trial in trials if trial.best]), browser)
    keep(browser, "mlflow-charts")


def test_mlflow_lists_the_best_trial_first_with_the_searched_settings(browser, ui, shown):
    ledger = Ledger.open(shown)
    open_page(browser, ui.replace("=CHART", "=TABLE"))
    until(lambda: "best/nll" in text_of(browser), browser)
    leaf = next(iter(ledger.definition.space.ranges))
    assert leaf in text_of(browser)
    trials = ledger.trials()
    best = best_trial(trials)
    # The study's own run carries the best trial's numbers too. A name may be the beginning of another.
    called = sorted(map(run_name, trials), key=len, reverse=True)
    names = "|".join([*map(re.escape, called), rf"{re.escape(ledger.definition.name)}\n"])
    until(lambda: run_name(best) in re.findall(names, text_of(browser).partition("Run Name")[2])[:2], browser)
    keep(browser, "mlflow-runs")


def test_mlflow_groups_trials_that_differ_by_seed_only(browser, finished_study, ui, shown, corpus, tiny_toml):
    from study.cli.main import run
    from study.tracking.ui import experiment_pages

    if shown.parent != finished_study:
        pytest.skip("the study that is shown is not the tests' own")
    text = tiny_toml.read_text() + '\n[search]\nseed = [0, 1]\n"model.pooling" = ["last", "max"]\n'
    text += "".join(f'"{name}" = false\n' for name in ("model.latent_size", "objective.kl_weight"))
    text += '"objective.annealing" = false\n"objective.annealing_fraction" = false\n"objective.num_cycles" = false\n'
    (finished_study / "seeds.toml").write_text(text)
    code = run(
        [
            "run",
            str(corpus.folder),
            "--config",
            str(finished_study / "seeds.toml"),
            "--name",
            "seeds",
            "--storage",
            str(finished_study),
            "--sampler",
            "grid",
            "--scheduler",
            "none",
        ]
    )
    assert code == 0
    ledger = Ledger.open(finished_study / "seeds")
    page = experiment_pages(ledger.definition.tracking_uri, ledger)[0][1]
    address = f"{ui.partition('/#')[0]}/#/experiments{page}"
    open_page(browser, address)
    until(lambda: text_of(browser).count("Group: pooling=") == 2, browser)
    keep(browser, "mlflow-seeds")
    open_page(browser, run_page(address, ledger.run_ids()["study"], "/artifacts/seeds.json"))
    frame = seeds_frame(ledger.trials())
    # As many digits as no rounding of the page changes.
    until(lambda: all(f"{value}"[:5] in text_of(browser) for value in frame["nll"]), browser)


def test_mlflow_shows_the_studys_story_and_the_best_trials_numbers(browser, ui, shown):
    trials = Ledger.open(shown).trials()
    ids = json.loads((shown / "mlflow.json").read_text())
    open_page(browser, run_page(ui, ids["study"]))
    best = best_trial(trials)
    until(lambda: f"Best settings: trial {best.number}" in text_of(browser), browser)
    keep(browser, "mlflow-study")
    text = text_of(browser)
    assert f"nll {best.best['valid/nll']:.2f}" in text
    assert "Reproduce" in text
    open_page(browser, run_page(ui, ids[str(best.number)]))
    until(lambda: "best/nll" in text_of(browser), browser)
    # In whatever number of digits the page shows it.
    until(lambda: any(abs(number - best.best["valid/nll"]) < 0.001 for number in numbers(text_of(browser))), browser)


def test_mlflow_compares_two_trials_by_the_searched_settings(browser, ui, shown):
    ledger = Ledger.open(shown)
    ids = ledger.run_ids()
    # Not two that have collapsed, if there are others.
    order = sorted((t for t in ledger.trials() if t.best), key=lambda t: (not t.feasible, t.best["valid/nll"]))
    two = order[:2]
    address, experiment = ui.partition("/#")[0], re.search(r"experiments/(\d+)", ui)[1]
    runs = json.dumps([ids[str(trial.number)] for trial in two]).replace(" ", "")
    open_page(browser, f'{address}/#/compare-runs?runs={runs}&experiments=["{experiment}"]', 1600)
    until(lambda: "Comparing 2 Runs" in text_of(browser), browser)
    shown_values = {str(value) for trial in two for value in trial.params.values()}
    until(lambda: all(value in text_of(browser) for value in shown_values), browser)
    keep(browser, "mlflow-compare")


def test_mlflow_renders_the_report_and_figures_as_artifacts(browser, ui, shown):
    ids = json.loads((shown / "mlflow.json").read_text())
    open_page(browser, run_page(ui, ids["study"], "/artifacts/report.html"))
    frame = until(lambda: browser.find_elements("css selector", "iframe"))[0]
    browser.switch_to.frame(frame)
    try:
        until(lambda: "trials on" in text_of(browser), browser)
    finally:
        browser.switch_to.default_content()
    browser.get("about:blank")  # the page that is open would keep to its artifact
    open_page(browser, run_page(ui, ids["study"], "/artifacts/figures/learning-curves.png"))
    sizes = "return [...document.images].map(image => image.naturalWidth)"
    until(lambda: any(width > 500 for width in browser.execute_script(sizes)), browser)
    keep(browser, "mlflow-figure")


WAITING = """
import json, pathlib, sys, time
folder, go = map(pathlib.Path, sys.argv[1:])
for epoch in (1, 2):
    # The first trial ends by itself; the others wait for who looks.
    while epoch == 2 and folder.name != "00000" and not go.exists():
        time.sleep(0.1)
    print(json.dumps({"nll": 9 - epoch, "kl": 1.0, "mi": 0.9, "au": 1}), flush=True)
"""


def test_a_page_follows_a_study_that_runs_to_its_end(browser, tmp_path):
    page, storage, go = tmp_path / "live.html", tmp_path / "runs", tmp_path / "go"
    (tmp_path / "waiting.py").write_text(WAITING)
    (tmp_path / "space.toml").write_text("[search]\nsize = [1, 2, 3]\n[training]\nepochs = 2\n")
    command = f"{sys.executable} {tmp_path / 'waiting.py'} {{folder}} {go}"
    options = ("--space", tmp_path / "space.toml", "--trials", 3, "--concurrent", 1, "--scheduler", "none")
    study = start(tmp_path / "study.log", "run", "--command", command, *options, "--name", "x", "--storage", storage)
    watch = None
    try:
        until(lambda: (storage / "x/study.json").exists() and Ledger.open(storage / "x").is_locked(), browser, 120)
        watch = start(tmp_path / "watch.log", "report", "x", "--storage", storage, "--html", page, "--watch")
        until(page.exists, browser, 120)
        browser.get(page.as_uri())
        banner = "return document.querySelector('.following [role=status]')?.textContent ?? ''"
        assert " of 3 trials over" in browser.execute_script(banner)
        # It reloads itself: what it says of trials goes on without anybody's doing.
        until(lambda: "Running: 1 of 3 trials over" in browser.execute_script(banner), browser, 120)
        assert browser.execute_script("return document.querySelectorAll('#trials ~ .table tbody tr').length") >= 1
        keep(browser, "live")
        go.touch()
        assert study.wait(timeout=300) == 0, (tmp_path / "study.log").read_text()
        assert watch.wait(timeout=120) == 0, (tmp_path / "watch.log").read_text()
        until(lambda: not browser.execute_script(banner), browser, 60)
    finally:
        for process in (study, watch):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    told = browser.execute_script("return document.querySelector('.answer').textContent")
    assert f"trial {best_trial(Ledger.open(storage / 'x').trials()).number}, nll 7.00" in told


def test_watch_goes_with_the_page_of_one_study(finished_study, tmp_path, call):
    storage = ("--storage", finished_study)
    assert "name the file, and one study" in call("report", "done", "--watch", *storage)[2]
    # Of one that nobody runs it is written once.
    code, _, err = call("report", "done", "--html", tmp_path / "x.html", "--watch", *storage)
    assert code == 0
    assert err == f"wrote {tmp_path / 'x.html'}\n"
    assert 'class="following"' not in (tmp_path / "x.html").read_text()
