"""What results depend on beside settings and data: versions and the commit of the code."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "ray", "optuna", "mlflow", "polars", "pyarrow")


@cache
def here() -> dict[str, str]:
    """Return the `commit` of this code, if it lies in a repository, and the versions of Python and of the packages."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
        ).stdout.strip()
    except OSError:
        commit = ""  # no git on this machine
    versions = {name: version(name) for name in PACKAGES}
    return {"commit": commit or "unknown", "python": platform.python_version()} | versions
