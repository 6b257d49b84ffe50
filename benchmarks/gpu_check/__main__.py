"""Run the steps of the check one after another, each in processes of its own and under its own timeout.

    python -m benchmarks.gpu_check [STEP ...] [--device cpu --quick] [--corpus DIR] [--out DIR]

Results are JSON lines in OUT/results.jsonl, one a finding, and a Markdown table of them in OUT/table.md; OUT is $OUT
or gpu-check. A second call goes on with the training of step 5. The whole takes 540 s at most.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = {
    "numbers": ("benchmarks.gpu_check.numbers", 45, "1. versions; one step of each kind against float64 on the CPU"),
    "tests": ("benchmarks.gpu_check.tests", 50, "2. the tests that compute on a device"),
    "speed": ("benchmarks.gpu_check.speed", 60, "3. a training step: rate, launches, batches, precisions, graphs"),
    "precision": ("benchmarks.gpu_check.precision", 30, "4. likelihoods and learning curves by precision"),
    "training": ("benchmarks.gpu_check.training", 215, "5. Penn Treebank, four models at once"),
    "sharing": ("benchmarks.gpu_check.sharing", 130, "6. processes that share the card, without and with MPS"),
    "study": ("benchmarks.gpu_check.study", 10, "7. a study with Ray"),
}
"""Each step's module, seconds and title."""

WHOLE_SECONDS = 540
QUICK_SECONDS = 240
"""Of each step of a rehearsal on a busy CPU."""


def main() -> None:
    """Run the steps asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats: a rehearsal")
    parser.add_argument("--corpus", type=Path, default=Path("corpora/ptb"), help="prepared Penn Treebank")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "gpu-check"))
    parser.add_argument("--runs", type=Path, default=Path("gpu-check-runs"), help="where step 5 trains, kept")
    given = parser.parse_args()
    unknown = [step for step in given.steps if step not in STEPS]
    if unknown:
        parser.error(f"unknown step {unknown[0]}; expected some of {', '.join(STEPS)}")
    given.out.mkdir(parents=True, exist_ok=True)
    results, end = given.out / "results.jsonl", time.monotonic() + WHOLE_SECONDS
    waiting = list(given.steps or STEPS)
    while waiting:
        step = waiting.pop(0)
        # What earlier steps left of their time is the later ones'.
        left = end - time.monotonic() - sum(STEPS[name][1] for name in waiting)
        run(step, given, results, QUICK_SECONDS if given.quick else max(5, int(left)))
        write_table(results, given.out / "table.md")
    print((given.out / "table.md").read_text())


def run(step: str, given: argparse.Namespace, results: Path, seconds: int) -> None:
    """Run one step; what it found before a timeout or a failure stays, with a line that says so."""
    module = STEPS[step][0]
    about = {
        "device": given.device,
        "quick": given.quick,
        "corpus": str(given.corpus),
        "runs": str(given.runs),
        "seconds": seconds,
        "out": str(given.out),
    }
    started = time.monotonic()
    # One for all steps: few files are easily brought back.
    log = given.out / "log.txt"
    with results.open("ab") as stdout, log.open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(about)],
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            # A thread each: several processes train at once, and their threads would wait for each other.
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        try:
            process.wait(seconds)
            problem = "" if process.returncode == 0 else f"failed with exit code {process.returncode}: {last_line(log)}"
        except subprocess.TimeoutExpired:
            problem = f"stopped after {seconds} s"
        finally:
            # Its children too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            end_daemons()
    line = {"step": step, "what": "seconds", "value": round(time.monotonic() - started, 1)}
    with results.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
        if problem:
            stream.write(json.dumps({"step": step, "what": "problem", "value": problem}) + "\n")
    print(f"{step}: {line['value']} s {problem}", flush=True)


def end_daemons() -> None:
    """End the MPS daemon of a step that was killed."""
    for folder in Path(tempfile.gettempdir()).glob("study-mps-*"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                ["nvidia-cuda-mps-control"],
                input=b"quit -t 1\n",
                env=os.environ | {"CUDA_MPS_PIPE_DIRECTORY": str(folder)},
                timeout=5,
                check=False,
                capture_output=True,
            )


def last_line(path: Path) -> str:
    """Return the last line of a log."""
    lines = path.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "without a word"


def write_table(results: Path, path: Path) -> None:
    """Write what was found as Markdown, a table a step; of a finding made twice, the last."""
    found: dict[str, dict[str, str]] = {step: {} for step in STEPS}
    for line in results.read_text().splitlines():
        try:
            row = json.loads(line)
            found[row["step"]][row["what"]] = show(row["value"])
        except (ValueError, TypeError, KeyError):
            # What a library printed.
            continue
    parts = []
    for step, rows in found.items():
        if rows:
            lines = [f"| {what} | {value} |" for what, value in rows.items()]
            parts.append("\n".join([f"### {STEPS[step][2]}", "", "| what | found |", "| --- | --- |", *lines]))
    path.write_text("\n\n".join(parts) + "\n")


def show(value: object) -> str:
    """Return a value for the table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
