"""Step 5: Penn Treebank at the field's sizes: last, max, mean and a language model, as four processes at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.common import arguments, tell

MODELS = {
    "last": ["model.pooling=last"],
    "max": ["model.pooling=max"],
    "mean": ["model.pooling=mean"],
    "language model": ["method=language-model"],
}
RECIPE = (
    "training.epochs=100",
    "objective.annealing=linear",
    "objective.annealing_fraction=0.1",
    "evaluation.num_samples=4",
    "evaluation.collapse_epochs=1000000",
    "training.checkpoint_minutes=1",
)
QUICK = (
    "training.epochs=2",
    "training.num_sequences=64",
    "evaluation.num_sequences=32",
    "model.embedding_size=8",
    "model.hidden_size=8",
    "model.latent_size=4",
)


def start(given: dict[str, Any], name: str) -> subprocess.Popen[bytes]:
    """Start training, or go on with it; rows go to a file."""
    folder = Path(given["runs"]) / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    settings = [*RECIPE, f"training.device={given['device']}", *(QUICK if given["quick"] else ()), *MODELS[name]]
    options = [part for setting in settings for part in ("--set", setting)]
    with (folder / "rows.jsonl").open("ab") as rows, (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "study",
                "train",
                given["corpus"],
                "--preset",
                "ptb",
                "--out",
                str(folder / "run"),
                *options,
            ],
            stdout=rows,
            stderr=log,
        )


def read_rows(given: dict[str, Any], name: str) -> dict[int, dict[str, Any]]:
    """Return a model's epochs; one that was cut off while it was written counts once."""
    path = Path(given["runs"]) / name.replace(" ", "-") / "rows.jsonl"
    rows = {}
    for line in path.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
            rows[int(row["epoch"])] = row
        except ValueError:
            continue
    return rows


def main() -> None:
    """Print the findings."""
    given = arguments("training")
    if not Path(given["corpus"], "manifest.json").is_file():
        tell(given, "Penn Treebank", f"left out: no prepared corpus at {given['corpus']}; name one by --corpus")
        return
    deadline = time.monotonic() + given["seconds"] - 15
    running = {name: start(given, name) for name in MODELS}
    while time.monotonic() < deadline and any(each.poll() is None for each in running.values()):
        time.sleep(0.2)
    for each in running.values():
        each.send_signal(signal.SIGINT)
    for each in running.values():
        each.wait()
    for name in MODELS:
        rows = read_rows(given, name)
        if not rows:
            log = (Path(given["runs"]) / name.replace(" ", "-") / "log").read_text("utf-8", "replace")
            tell(given, f"{name}: no epoch", (log.strip().splitlines() or ["no word"])[-1][:300])
        for epoch, row in rows.items():
            tell(
                given,
                f"{name}, epoch {epoch}: ppl, KL, MI, AU; s",
                f"{row['valid/ppl']:.2f}, {row['valid/kl']:.3f}, {row['valid/mi']:.3f}, {row['valid/au']};"
                f" {row['seconds']:.0f}",
            )


if __name__ == "__main__":
    main()
