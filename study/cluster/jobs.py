"""Studies as Ray jobs: they run on the cluster's head and go on when whoever submitted them is gone."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from study.config.addresses import refuse_secret
from study.errors import StudyError, first_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

STATES = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130}
"""The ends of a job, and the exit codes that tell of them."""


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the cluster's job server; raise StudyError if it does not answer."""
    refuse_secret("--address", address, "give Ray's token by RAY_AUTH_TOKEN or ~/.ray/auth_token")
    try:
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(address)
    except ImportError:
        raise StudyError("jobs need Ray's job client: pip install 'pooled-vae-study[cluster]'") from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StudyError(
            f"no job server answers at {address}: {first_line(error)}; open a tunnel to the head by"
            " `ray dashboard cluster.yaml` and leave it open, or name another --address; a cluster with a token needs"
            " RAY_AUTH_MODE=token"
        ) from None


def check_secrets(arguments: Sequence[str]) -> None:
    """Raise StudyError if a password is in the arguments of a job, or in what it is given of the environment."""
    for argument in arguments:
        for part in (argument, argument.partition("=")[2]):
            refuse_secret("an argument", part, "keep it in ~/.pgpass on the head")
    refuse_secret("$MLFLOW_TRACKING_URI", os.environ.get("MLFLOW_TRACKING_URI", ""), "set it on the head")


def submit(client: JobSubmissionClient, arguments: Sequence[str], folder: str) -> str:
    """Start `study run` with some arguments in a folder on the head; return the job's name."""
    # No user or password: Ray shows and logs what a job's environment is. On the head they are the driver's own.
    environment = {name: os.environ[name] for name in ("MLFLOW_TRACKING_URI",) if name in os.environ}
    command = shlex.join(["study", "run", *arguments, "--address", "auto"])
    try:
        name: str = client.submit_job(
            entrypoint=f"cd {shlex.quote(folder)} && exec {command}",
            runtime_env={"env_vars": environment},
        )
    except RuntimeError as error:
        raise StudyError(f"the cluster did not take the job: {first_line(error)}") from None
    return name


def listing(client: JobSubmissionClient) -> list[dict[str, Any]]:
    """Return the cluster's jobs, the newest last: name, state and command."""
    jobs = sorted(client.list_jobs(), key=lambda job: job.start_time or 0)
    return [{"job": job.submission_id, "state": str(job.status), "command": job.entrypoint} for job in jobs]


def follow(client: JobSubmissionClient, name: str, write: Callable[[str], None]) -> int:
    """Pass on what a job prints until it ends; return the exit code that its end stands for."""

    async def read() -> None:
        async for text in client.tail_job_logs(name):
            write(text)

    try:
        asyncio.run(read())
        return STATES.get(str(client.get_job_status(name)), 1)
    except RuntimeError as error:
        raise unknown(name, error) from None


def stop(client: JobSubmissionClient, name: str) -> bool:
    """End a job in order, as Ctrl-C would; return whether it was running."""
    try:
        return bool(client.stop_job(name))
    except RuntimeError as error:
        raise unknown(name, error) from None


def unknown(name: str, error: Exception) -> StudyError:
    """Return the error of a job that the cluster does not know."""
    return StudyError(f"job {name} cannot be used: {first_line(error)}; `study jobs` lists what there is")
