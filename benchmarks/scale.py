"""A study of many trials that only report: what the driver, Optuna, Ray Tune and MLflow make of it, and the report.

    python benchmarks/scale.py --trials 1000 --reports 20 --concurrent 16

Everything is real but the training: searcher, schedule, ledger, an MLflow server of its own on a free port. Prints
results a second, the driver's memory, how long MLflow had still to be told when the last trial ended, whether
anything is missing, and the report's size and time to write and (with Chromium) to open.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from study.cli.main import run
from study.execution import launch, trial
from study.record.ledger import Ledger
from study.reporting.document import write_html
from study.tracking.ui import LOOPBACK, Door, mlflow_command, mlflow_environment, take_port, wait_until_up


def report_only(config: dict[str, Any]) -> None:
    """Report made-up learning curves, whose ends depend on the settings, as fast as they are taken."""
    from ray import tune

    from study.training.devices import system_metrics

    settings = config["settings"]
    weight, size = settings["objective"]["kl_weight"], settings["model"]["latent_size"]
    rng = np.random.default_rng(config["trial"])
    epochs = settings["training"]["epochs"]
    for epoch in range(config["rows_seen"] + 1, epochs + 1):
        kl = 6 * math.exp(-3 * weight) * (1 - math.exp(-epoch / 5)) + abs(rng.normal(0, 0.05))
        nll = 50 + 8 * math.exp(-epoch / 4) + 0.3 * kl + abs(math.log(size / 16)) + rng.normal(0, 0.1)
        valid = {
            "nll": nll,
            "nll_se": 0.01,
            "nll_bias_bound": 0.02,
            "elbo": nll + 0.2,
            "reconstruction": nll - kl,
            "kl": kl,
            "mi": 0.8 * kl,
            "mi_in_batch": 0.7 * kl,
            "au": int(kl * 2),
            "ppl": math.exp(nll / 12),
            "bits_per_byte": nll / 40,
            "dispersion": 0.3 + 0.5 * weight,
        }
        outcome = "complete" if epoch == epochs else ""
        train = {"train/loss": nll + 1, "train/kl_weight": weight}
        row = train | {"epoch": epoch, "step": epoch * 100, "seconds": 1.0 * epoch, "outcome": outcome}
        tune.report(row | {f"valid/{name}": value for name, value in valid.items()} | system_metrics())


@contextmanager
def mlflow_server(folder: Path):
    """Run an MLflow server with its database in a folder."""
    folder.mkdir(parents=True)
    door = Door(LOOPBACK, take_port(None))
    command = mlflow_command(f"sqlite:///{folder / 'mlflow.db'}", door)
    environment = os.environ | mlflow_environment(door, folder)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until_up(door.address, process)
            yield door.address
        finally:
            os.killpg(process.pid, 15)
            process.wait()


class Watch:
    """Samples this process's memory, and notes when Tune's part and MLflow's part of the study ended."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.megabytes: list[float] = []
        self.while_tuning: list[float] = []
        self.tuned = 0.0
        threading.Thread(target=self._sample, daemon=True).start()
        tune_trials = launch.tune_trials

        def noted(*arguments: Any) -> str:
            self.started = time.monotonic()
            try:
                return tune_trials(*arguments)
            finally:
                self.tuned = time.monotonic() - self.started
                self.while_tuning = self.megabytes[-round(self.tuned) :]

        launch.tune_trials = noted

    def _sample(self) -> None:
        pages = os.sysconf("SC_PAGE_SIZE") / 2**20
        while True:
            self.megabytes.append(int(Path("/proc/self/statm").read_text().split()[1]) * pages)
            time.sleep(1)


@click.command()
@click.option("--trials", default=1000)
@click.option("--reports", default=20)
@click.option("--concurrent", default=16)
@click.option("--sampler", default="tpe")
@click.option("--out", default="/tmp/scale", type=click.Path(path_type=Path))  # noqa: S108 - a place to look at
def main(trials: int, reports: int, concurrent: int, sampler: str, out: Path) -> None:
    """Print the table."""
    shutil.rmtree(out, ignore_errors=True)
    trial.run_trial = report_only
    watch = Watch()
    with mlflow_server(out / "mlflow") as address:
        config = out / "scale.toml"
        config.write_text(f"[study]\ngrace_epochs = {reports}\n[training]\nepochs = {reports}\n")
        arguments = f"""run chitchat --config {config} --trials {trials} --name scale --sampler {sampler}
            --concurrent {concurrent} --cpus-per-trial {2 / concurrent:.3f} --tracking-uri {address} --storage {out}"""
        with (out / "log").open("w") as log:
            sys.stdout = sys.stderr = log
            code = run(arguments.split())
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        ended = time.monotonic() - watch.started
        ledger = Ledger.open(out / "scale")
        records = ledger.trials()
        results = sum(len(each.rows) for each in records)
        told = told_mlflow(address)
    memory = watch.while_tuning
    print(f"exit code {code}; {len(records)} trials, {results} results, on record")
    print(f"results a second      {results / watch.tuned:.1f} ({watch.tuned:.0f} s)")
    print(f"MLflow                {told} values of nll, the last {ended - watch.tuned:.0f} s after the last trial")
    third = len(memory) // 3
    thirds = ", ".join(f"{max(part):.0f}" for part in (memory[:third], memory[third:-third], memory[-third:]))
    print(f"driver's memory, MiB  {thirds}, the most in each third of the trials; {max(watch.megabytes):.0f} later")
    started = time.monotonic()
    write_html(ledger, out / "report.html", None)
    size = (out / "report.html").stat().st_size / 2**20
    print(f"report                {time.monotonic() - started:.1f} s to write, {size:.1f} MiB")
    if driver := shutil.which("chromedriver"):
        print(
            f"                      {open_seconds(driver, out / 'report.html'):.1f} s to open with every figure drawn"
        )


def told_mlflow(address: str) -> int:
    """Return how many values of valid/nll MLflow has."""
    from mlflow import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("scale")
    found, token = 0, None
    while True:
        page = client.search_runs(
            [experiment.experiment_id], "tags.trial != 'study'", max_results=1000, page_token=token
        )
        found += sum(len(client.get_metric_history(each.info.run_id, "valid/nll")) for each in page)
        token = page.token
        if not token:
            return found


def open_seconds(driver: str, page: Path) -> float:
    """Return the seconds until Chromium shows every figure of a report."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        started = time.monotonic()
        browser.get(page.as_uri())
        num = "document.querySelectorAll('{}').length"
        while not browser.execute_script(f"return {num.format('figure[data-figure]')} === {num.format('figure svg')}"):
            time.sleep(0.05)
        return time.monotonic() - started
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
