"""Step 2: the oracles and invariances of `model/` on the device."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import time
from collections import Counter

from benchmarks.gpu_check.common import arguments, tell

TESTS = ("pooling", "decoder", "posterior", "diagnostics", "objective", "recurrence", "refinement", "likelihood")


def main() -> None:
    """Print what pytest says at its end."""
    given = arguments("tests")
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if missing:
        tell(given, "tests", f"left out: {' and '.join(missing)} not installed; step 1 compares with float64")
        return
    chosen = TESTS[:1] if given["quick"] else TESTS
    command = [sys.executable, "-m", "pytest", "-v", "--device", given["device"], "-o", "addopts="]
    command += ["-p", "no:cacheprovider", "-m", "on_device and not slow"]
    command += [f"tests/test_{name}.py" for name in chosen]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
    end, counts, last = time.monotonic() + given["seconds"] - 5, Counter[str](), ""
    assert process.stdout is not None
    timer = threading.Timer(given["seconds"] - 5, process.terminate)
    timer.daemon = True
    timer.start()
    for line in process.stdout:
        print(line, end="", file=sys.stderr)
        last = line.strip() or last
        words = line.split()
        if len(words) > 1 and words[1] in ("PASSED", "FAILED", "SKIPPED", "ERROR"):
            counts[words[1].lower()] += 1
        if line.startswith(("FAILED", "ERROR")):
            tell(given, line.split(" - ")[0].strip(), line.partition(" - ")[2].strip() or "failed")
    reached = "all" if time.monotonic() < end else "what the time reached"
    tell(given, "tests", ", ".join(f"{count} {name}" for name, count in counts.items()) + f" ({reached}): {last}")


if __name__ == "__main__":
    main()
