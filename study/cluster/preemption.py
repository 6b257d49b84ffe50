"""The two minutes before a spot instance is taken away: its trials save their state and go on elsewhere."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from study.config.addresses import shown
from study.errors import StudyError, first_line

METADATA = "http://169.254.169.254"
"""Where an AWS instance asks about itself."""
REMAINING_SECONDS = 110
"""AWS announces an end two minutes before; some of them are gone when it is read."""


def wait_for_notice(metadata: str, every_seconds: float) -> str:
    """Return what is announced of this instance, once something is; raise StudyError if there is nobody to ask."""
    read_notice(metadata)
    while True:
        # One answer that is lost is no reason to look away.
        with contextlib.suppress(StudyError):
            if found := read_notice(metadata):
                return found
        time.sleep(every_seconds)


def read_notice(metadata: str) -> str:
    """Return what is announced of this instance, or nothing; by AWS' second protocol, which wants a token."""
    try:
        token = ask(f"{metadata}/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        return ask(f"{metadata}/latest/meta-data/spot/instance-action", "GET", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise StudyError(f"{metadata} answers with {error.code}; expected an AWS instance's metadata") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise StudyError(
            f"nobody answers at {shown(metadata)} ({first_line(error)}); this is for spot instances of AWS"
        ) from None


def ask(url: str, method: str, headers: dict[str, str]) -> str:
    """Return the answer to one request of the metadata service."""
    request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310 - http, on the instance itself
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
        return str(answer.read(10_000), "utf-8")


def leave() -> int:
    """Have Ray place nothing more on this node, then have its trials save their state and end; return how many."""
    drain = [
        str(Path(sys.executable).parent / "ray"),
        "drain-node",
        "--reason",
        "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message",
        "the spot instance ends",
        "--deadline-remaining-seconds",
        str(REMAINING_SECONDS),
    ]
    done = subprocess.run(drain, capture_output=True, text=True, check=False)
    trials = list(trial_processes())
    for trial in trials:
        trial.terminate()
    if done.returncode != 0:
        raise StudyError(
            f"{len(trials)} trials were told to save, but Ray was not told that this node ends: {last_words(done)}"
        )
    return len(trials)


def trial_processes() -> Iterator[psutil.Process]:
    """Yield the processes of this node in which Ray runs trials."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            # The name that Ray gives to a worker that holds one of Tune's trials.
            if next(iter(process.cmdline()), "").startswith("ray::ImplicitFunc"):
                yield process


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a command wrote."""
    return next(iter((done.stdout + done.stderr).strip().splitlines()[::-1]), f"exit code {done.returncode}")
