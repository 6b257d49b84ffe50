"""What is wrong with this machine, its storage, an MLflow server or a cluster: each finding with its mend."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from data.files import lock
from study.errors import StudyError
from study.execution import mps
from study.record.journal import storage_hint

LEAST_DISK_GB = 2.0
LEAST_MEMORY_GB = 2.0
LEAST_SHARED_MEMORY_MB = 256.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `mend` is empty where all is well."""

    what: str
    found: str
    mend: str = ""


def examine(storage: Path, tracking_uri: str | None, address: str | None) -> Iterator[Finding]:
    """Yield what there is to say, this machine first."""
    yield from examine_machine()
    yield from examine_storage(storage)
    yield examine_server(tracking_uri)
    yield from examine_studies(storage)
    if address is not None:
        yield from examine_cluster(address, storage)


def examine_machine() -> Iterator[Finding]:
    """Look at CPUs, memory and GPUs."""
    import torch

    yield Finding("CPUs", f"{len(psutil.Process().cpu_affinity() or [0])}")
    free = psutil.virtual_memory().available / 2**30
    yield Finding(
        "memory",
        f"{free:.1f} GiB free",
        "a trial takes 0.5 GiB and more; end something, or lower --concurrent" if free < LEAST_MEMORY_GB else "",
    )
    shared = Path("/dev/shm")  # noqa: S108 - looked at, not written
    if shared.exists():
        size = shutil.disk_usage(shared).free / 2**20
        yield Finding(
            "shared memory",
            f"{size:.0f} MiB free in {shared}",
            "Ray keeps objects there; start the container with --shm-size=1g" if size < LEAST_SHARED_MEMORY_MB else "",
        )
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Finding("GPUs", names)
        yield examine_mps()
    elif shutil.which("nvidia-smi"):
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
        yield Finding(
            "GPUs",
            f"a driver, but PyTorch {torch.__version__} ({built}) shows none",
            "look at nvidia-smi; install the PyTorch build for your driver from pytorch.org",
        )
    else:
        yield Finding("GPUs", "none; trials run on the CPU")


def examine_mps() -> Finding:
    """Say whether trials that share a GPU compute at once."""
    if mps.is_running():
        return Finding("MPS", "on: kernels of trials that share a GPU run at once")
    if shutil.which(mps.CONTROL) is None:
        return Finding("MPS", f"not here ({mps.CONTROL}): trials that share a GPU compute by turns")
    return Finding("MPS", "off: trials that share a GPU compute by turns; `study run --mps` has them compute at once")


def examine_storage(storage: Path) -> Iterator[Finding]:
    """Write, lock and keep a database in the folder of studies, and see how much room it has."""
    place = next(path for path in (storage.absolute(), *storage.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free / 2**30
    yield Finding(
        "disk",
        f"{free:.1f} GiB free for {storage}",
        "checkpoints need room; `study gc` says what can go" if free < LEAST_DISK_GB else "",
    )
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as scratch:
            with (Path(scratch) / "lock").open("w") as stream:
                lock(stream, wait=False)
            connection = sqlite3.connect(Path(scratch) / "database")
            connection.execute("create table t (x)")
            connection.close()
    except (OSError, sqlite3.Error) as error:
        yield Finding("storage", f"{place}: {error}", "choose a --storage that you may write and that locks files")
    else:
        yield Finding("storage", f"{place} can be written and locked")


def examine_server(tracking_uri: str | None) -> Finding:
    """Ask the MLflow server whether it is there."""
    from study.config.connectivity import check_tracking_uri

    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        return Finding("MLflow", "no server named; studies record in a database beside them")
    try:
        check_tracking_uri(uri)
    except StudyError as error:
        return Finding("MLflow", "cannot be used", str(error))
    return Finding("MLflow", f"{uri} answers")


def examine_studies(storage: Path) -> Iterator[Finding]:
    """Find studies that nobody runs and that are not over."""
    from study.cluster.cleanup import studies

    damaged: list[str] = []
    for ledger in studies(storage, damaged.append):
        damaged += [problem for _, problem in ledger.survey() if problem]
        if ledger.num_left() and not ledger.is_locked():
            yield Finding(
                f"study {ledger.folder.name}",
                f"{ledger.num_left()} of {ledger.definition.num_trials} trials are left",
                f"go on with `study run --resume {ledger.folder.name}{storage_hint(storage)}`, or let `study gc` close"
                " its records",
            )
    for problem in damaged:
        yield Finding("study", problem, "bring its files back, or move its folder away")


def examine_study(folder: Path) -> Iterator[Finding]:
    """Hold a study's journals, database and definition against each other."""
    from study.record.ledger import Ledger

    try:
        found = [problem for _, problem in Ledger.open(folder).survey() if problem]
    except StudyError as error:
        found = [str(error)]
    for problem in found:
        what, _, mend = problem.rpartition("; ")
        yield Finding(f"study {folder.name}", what or problem, mend if what else "bring its files back")
    if not found:
        yield Finding(f"study {folder.name}", "its record is whole")


def examine_cluster(address: str, storage: Path) -> Iterator[Finding]:
    """Ask every node of a cluster what it runs and whether it sees the storage."""
    from study.config.connectivity import check_ray_address
    from study.execution.connection import connected
    from study.execution.nodes import survey

    try:
        check_ray_address(address)
        storage.mkdir(parents=True, exist_ok=True)
        with connected(address):
            for node, found in survey(storage):
                yield Finding(f"node {node}", "cannot run trials" if found else "ready", "; ".join(found))
    except StudyError as error:
        yield Finding("cluster", "cannot be used", str(error))
