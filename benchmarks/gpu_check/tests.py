"""Step 2: the oracles and invariances of `model/` on the device."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

from benchmarks.gpu_check.common import arguments, tell

TESTS = ("pooling", "decoder", "posterior", "likelihood", "diagnostics", "objective", "recurrence", "refinement")


def main() -> None:
    """Print what pytest says at its end."""
    given = arguments("tests")
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        tell(given, "tests", f"left out: {' and '.join(missing)} not installed; step 1 compares with float64")
        return
    chosen = TESTS[:1] if given["quick"] else TESTS
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--device", given["device"], "-o", "addopts=", "-p", "no:cacheprovider",
         "-m", "on_device and not slow", *(f"tests/test_{name}.py" for name in chosen)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr, file=sys.stderr)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]]
    tell(given, "tests", lines[-1])
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            tell(given, line.split(" - ")[0], line.partition(" - ")[2] or "failed")


if __name__ == "__main__":
    main()
