"""NVIDIA MPS: kernels of several trials run on one GPU at once, which by turns they do without it.

Without MPS a GPU gives each process slices of its time; with it, processes share its multiprocessors. Small models gain
most. Its control daemon is started and stopped here where it is installed. One client's fault ends all clients of its
GPU, so that `study.tuning` does not count such an end against a trial's retries.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.files import first_line
from study.errors import StudyError

CONTROL = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
LOGS = "CUDA_MPS_LOG_DIRECTORY"
THREADS = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
MEMORY = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
USUAL_PIPES = Path("/tmp/nvidia-mps")  # noqa: S108 - where NVIDIA's daemon puts them
SECONDS = 30.0

FAULTS = (
    "MPS client failed", "MPS RPC failure", "MPS server is not ready", "MPS server has been terminated",
    "mps client terminated", "cudaErrorMps", "CUDA_ERROR_MPS",
    "unspecified launch failure", "an illegal memory access was encountered", "device-side assert triggered",
)  # fmt: skip
"""How CUDA says that the server or another client is gone, or that a kernel failed, which all clients hear."""


def is_fault(text: str) -> bool:
    """Say whether an error is one that every client of a GPU gets, whoever made it."""
    return any(words.lower() in text.lower() for words in FAULTS)


def is_running() -> bool:
    """Say whether an MPS daemon listens where clients of this process would look for it."""
    return (Path(os.environ.get(PIPES, USUAL_PIPES)) / "control").exists()


def limits(share: float, memory_bytes: tuple[int, ...]) -> dict[str, str]:
    """Return the limits of a client, as environment variables: memory of its share, and twice its share of threads.

    Twice, since trials that share a GPU are seldom all in a kernel at once.
    """
    megabytes = (f"{place}={int(share * each / 2**20)}M" for place, each in enumerate(memory_bytes))
    return {THREADS: str(max(1, min(100, round(200 * share)))), MEMORY: ",".join(megabytes)}


@contextmanager
def serving(share: float, memory_bytes: tuple[int, ...]) -> Iterator[None]:
    """Have an MPS daemon for the processes started meanwhile, each held to its share; one that runs already is used.

    Raises StudyError if there is none to start.
    """
    if not share or not memory_bytes:
        raise StudyError("--mps is about trials that share a GPU, and these train on the CPU; leave it out")
    before = {name: os.environ.get(name) for name in (PIPES, LOGS, THREADS, MEMORY)}
    own = None
    try:
        if not is_running():
            own = start()
        os.environ.update(limits(share, memory_bytes))
        yield
    finally:
        if own is not None:
            stop(own)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def start() -> Path:
    """Start a daemon with a folder of its own, and have this process' children look for it there."""
    if shutil.which(CONTROL) is None:
        raise StudyError(f"--mps needs {CONTROL}, which comes with NVIDIA's driver and is not here; leave --mps out")
    folder = Path(tempfile.mkdtemp(prefix="study-mps-"))
    os.environ.update({PIPES: str(folder), LOGS: str(folder)})
    error = control(["-d"])
    if error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StudyError(f"{CONTROL} does not start: {error}; leave --mps out")
    return folder


def stop(folder: Path) -> None:
    """End the daemon of a folder, and remove that; clients have ended before."""
    control([], "quit\n")
    shutil.rmtree(folder, ignore_errors=True)


def control(arguments: list[str], given: str = "") -> str:
    """Call NVIDIA's control program; return what it says if it fails."""
    try:
        done = subprocess.run(
            [CONTROL, *arguments], input=given, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return first_line(error)
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
