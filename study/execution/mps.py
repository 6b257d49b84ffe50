"""NVIDIA MPS: kernels of several trials run on one GPU at once, which by turns they do without it.

Without MPS a GPU gives each process slices of its time; with it, processes share its multiprocessors. Small models gain
most. Its control daemon is started and stopped here where it is installed. One client's fault ends all clients of its
GPU, so that `study.execution.tuning` does not count such an end against a trial's retries.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
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
    "MPS client failed",
    "MPS RPC failure",
    "MPS server is not ready",
    "MPS server has been terminated",
    "mps client terminated",
    "cudaErrorMps",
    "CUDA_ERROR_MPS",
    "unspecified launch failure",
    "an illegal memory access was encountered",
    "device-side assert triggered",
)
"""How CUDA says that the server or another client is gone, or that a kernel failed, which all clients hear."""


def is_fault(text: str) -> bool:
    """Say whether an error is one that every client of a GPU gets, whoever made it."""
    return any(words.lower() in text.lower() for words in FAULTS)


def is_running() -> bool:
    """Say whether an MPS daemon answers where clients of this process would look for it."""
    place = Path(os.environ.get(PIPES, USUAL_PIPES)) / "control"
    return place.exists() and shutil.which(CONTROL) is not None and not control([], "get_server_list\n", seconds=5.0)


def memory_bytes() -> tuple[int, ...]:
    """Return the memory of each GPU of this machine, without starting CUDA; nothing where nobody says."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        return tuple(int(line) * 2**20 for line in done.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def limits(share: float, memory_bytes: tuple[int, ...]) -> dict[str, str]:
    """Return the limits of a client, as environment variables: memory of its share, and twice its share of threads.

    Twice, since trials that share a GPU are seldom all in a kernel at once.
    """
    found = {THREADS: str(max(1, min(100, round(200 * share))))}
    if memory_bytes:
        megabytes = (f"{place}={int(share * each / 2**20)}M" for place, each in enumerate(memory_bytes))
        found[MEMORY] = ",".join(megabytes)
    return found


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
    until = time.monotonic() + SECONDS
    while not error and not is_running():
        if time.monotonic() > until:
            error = "it does not answer"
        time.sleep(0.05)
    if error:
        stop(folder)
        raise StudyError(f"{CONTROL} does not start: {error}; leave --mps out")
    return folder


def stop(folder: Path) -> None:
    """End the daemon of a folder, and remove that; clients have ended before."""
    control([], "quit -t 5\n")
    shutil.rmtree(folder, ignore_errors=True)


def control(arguments: list[str], given: str = "", *, seconds: float = SECONDS) -> str:
    """Call NVIDIA's control program; return what it says if it fails, nothing if it does not.

    Its words go to a file: a daemon would keep a pipe open.
    """
    with tempfile.TemporaryFile("w+") as words:
        try:
            done = subprocess.run(
                [CONTROL, *arguments],
                input=given,
                stdout=words,
                stderr=words,
                text=True,
                timeout=seconds,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return first_line(error)
        words.seek(0)
        return "" if done.returncode == 0 else words.read().strip()[:300] or f"exit code {done.returncode}"
