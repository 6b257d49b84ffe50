"""Memory of a study's driver and of the worker that its trials share, over many tiny trials.

    python benchmarks/memory.py [TRIALS]

Prints one JSON object: resident MiB of each once so many trials had an epoch, and the most of each.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

STUDY = str(Path(sys.executable).with_name("study"))
TINY = {
    "model.embedding_size": 8,
    "model.hidden_size": 12,
    "training.epochs": 2,
    "training.num_sequences": 200,
    "evaluation.num_sequences": 24,
    "evaluation.num_samples": 2,
}


def resident(process: psutil.Process) -> float:
    """Return a process' resident memory in MiB."""
    return process.memory_info().rss / 2**20


def worker_of(driver: psutil.Process) -> psutil.Process | None:
    """Return the process in which a driver's trials run, if there is one."""
    for process in driver.children(recursive=True):
        with suppress(psutil.Error):
            if any("ImplicitFunc" in word for word in process.cmdline()):
                return process
    return None


def main() -> None:
    """Run a study of many tiny trials, one at a time, and look at it every second."""
    num_trials = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    marks = sorted({5, *(num_trials * part // 4 for part in (1, 2, 3, 4))})
    found, most = {}, {"driver": 0.0, "worker": 0.0}
    with tempfile.TemporaryDirectory() as scratch:
        command = [STUDY, "run", "synthetic-topics", "--trials", str(num_trials), "--concurrent", "1"]
        command += ["--name", "memory", "--sampler", "random", "--scheduler", "none", "--storage", "runs"]
        command += [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
        with Path(scratch, "output").open("w") as output:
            study = subprocess.Popen(command, cwd=scratch, stdout=output, stderr=output)
        driver = psutil.Process(study.pid)
        while study.poll() is None:
            done = len(list(Path(scratch).glob("runs/memory/trials/*/epochs.jsonl")))
            with suppress(psutil.Error):
                most["driver"] = max(most["driver"], resident(driver))
                worker = worker_of(driver)
                if worker is not None:
                    most["worker"] = max(most["worker"], resident(worker))
                    for mark in marks:
                        if done >= mark and mark not in found:
                            found[mark] = {"driver": round(resident(driver)), "worker": round(resident(worker))}
            time.sleep(1)
    print(json.dumps({"trials": found, "most": {name: round(value) for name, value in most.items()}}))


if __name__ == "__main__":
    main()
