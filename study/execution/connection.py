"""Ray for a study: a cluster that runs already, or one on this machine."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.config.addresses import shown
from study.errors import StudyError, first_line, tells_of_full_disk
from study.execution.local_ray import close_token_file, local_ray, set_environment
from study.search.definition import Definition

ROOT = Path(__file__).resolve().parents[2]
OWN_PACKAGES = ("study", "model", "data")


@contextmanager
def ray_cluster(definition: Definition, address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine for the study; raise StudyError if there is none.

    A cluster that this process is connected to already is used, and left as it is.
    """
    os.environ.update(
        {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
            "TUNE_DISABLE_SIGINT_HANDLER": "1",
            "RAY_AIR_NEW_OUTPUT": "0",
            # The ledger is what a study is resumed from; Tune's own snapshot is written at the end only.
            "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
            "TUNE_MAX_LEN_IDENTIFIER": "60",
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
            "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        }
    )
    # glibc gives each trial's new thread an arena of its own, eight a core, and keeps what every one of them once held.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    if address is None:
        set_environment()
    import ray

    check_folder(Path.cwd())
    if ray.is_initialized():
        yield
        return
    with connected(address, max(1, round(definition.concurrent * definition.cpus_per_trial))):
        yield


def check_folder(folder: Path) -> None:
    """Raise StudyError if trials, which import from the folder they are started in first, would not find this program.

    Ray puts the driver's working directory before all others on its workers' path.
    """
    if folder == ROOT:
        return
    for name in OWN_PACKAGES:
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.is_file():
                raise StudyError(
                    f"{path.relative_to(folder)} in this folder has the name of a package of this program, and trials"
                    f" would import it in that one's place: start studies from another folder, or put your own code"
                    f" into a package (mine/{name}.py, imported as mine.{name})"
                )


@contextmanager
def connected(address: str | None, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one here; raise StudyError if there is none."""
    if address is None:
        quiet_ray()
        with local_ray(num_cpus):
            yield
        return
    import ray

    quiet_ray()
    close_token_file()
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:
        if tells_of_full_disk(str(error)):
            raise
        raise StudyError(
            f"no Ray cluster answers at {shown(address)}: {first_line(error)};"
            " check with `ray status`, or leave --address out to use this machine alone"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def quiet_ray() -> None:
    """Have Ray say nothing of its own: why a trial failed is on record, and its traceback in Tune's folder."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="ray")
