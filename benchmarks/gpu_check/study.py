"""Step 7: a study whose trials share the card, where Ray, Optuna and MLflow can be imported."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile

from benchmarks.gpu_check.common import arguments, tell

NEEDED = ("ray", "optuna", "mlflow", "click", "polars")


def main() -> None:
    """Print the findings."""
    given = arguments("study")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        tell(given, "a study", f"left out: {', '.join(missing)} not installed; step 6 stands for it")
        return
    if given["device"] == "cpu":
        tell(given, "a study", "left out on a CPU: the default tests run many")
        return
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "study",
                "run",
                "synthetic-topics",
                "--preset",
                "quick",
                "--trials",
                "8",
                "--gpus-per-trial",
                "0.125",
                "--storage",
                scratch,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=given["seconds"] - 3,
        )
    print(done.stdout, done.stderr, file=sys.stderr)
    tell(given, "a study of 8 trials with an eighth of the card each", f"exit code {done.returncode}")


if __name__ == "__main__":
    main()
