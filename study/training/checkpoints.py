"""A training run on disk: whole checkpoints only, the newest two kept, nothing unpickled."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data.files import DamagedFileError, first_line, is_sealed, of_type, read_json, remove_files, sealed
from model.errors import ModelError
from study.config.stored import free_path
from study.epoch import Stored

STATE, PROGRESS = "state.safetensors", "progress.json"
SCHEMA_VERSION = 1
KEPT = 2
STEP = re.compile(r"step-\d{9,}")


@dataclass
class Progress:
    """Where training stands, beside tensors."""

    settings: dict[str, object]
    corpus: str
    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    validation_seconds: float = 0.0
    """Of those, the ones that validation took."""
    decoder_tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0
    num_halvings: int = 0
    epochs_without_better: int = 0
    epochs_since_best: int = 0
    plateau_value: float | None = None
    best_value: float | None = None
    best_epoch: int = 0
    collapsed_kl: list[float] = field(default_factory=list)
    """KL in nats of the epochs that carried nothing, in a row up to the last."""
    initial_dispersion: float | None = None
    """Of the features before the first step, on the validation split."""
    power: float = 1.0
    """Of the proposal that validation draws importance samples from."""
    outcome: str = ""
    aggressive: bool = False
    best_mi: float = 0.0
    history: list[dict[str, Stored]] = field(default_factory=list)
    """Its epochs so far, as `Epoch.to_json` gives them."""


def save_checkpoint(folder: Path, progress: Progress, tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint aside, rename it into place, and remove all but the newest two, file by file."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside / STATE)
        with (aside / STATE).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stored = {"schema_version": SCHEMA_VERSION, "state_sha256": digest, "progress": asdict(progress)}
        (aside / PROGRESS).write_text(json.dumps(sealed(stored)), "utf-8")
        target = folder / f"step-{progress.step:09d}"
        if not remove_checkpoint(target):
            # Of this step is what does not belong to it, which is no checkpoint's business.
            target.rename(free_path(target.with_name(f"{target.name}.foreign")))
        aside.rename(target)
    finally:
        remove_checkpoint(aside)
    for old in sorted(each for each in folder.glob("step-*") if STEP.fullmatch(each.name))[:-KEPT]:
        remove_checkpoint(old)


def remove_checkpoint(path: Path) -> bool:
    """Remove a checkpoint's files, and its folder if nothing else is in it; say whether it is gone."""
    return remove_files(path, (STATE, PROGRESS))


def load_checkpoint(folder: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    """Return the newest checkpoint that is whole, or None without one; damaged ones are passed over."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return read_checkpoint(path)
        except ModelError:
            continue
    return None


def read_checkpoint(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    """Read one checkpoint; raise ModelError if it is damaged or of another version."""
    try:
        stored: dict[str, object] = read_json(path / PROGRESS, dict[str, object])
        if stored.get("schema_version") != SCHEMA_VERSION:
            raise ModelError(f"{path} has schema version {stored.get('schema_version')}, expected {SCHEMA_VERSION}")
        if is_sealed(stored) is False:
            raise ModelError(f"{path / PROGRESS} is damaged: its digest is not that of its content")
        with (path / STATE).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != stored["state_sha256"]:
            raise ModelError(f"{path / STATE} is damaged: its digest is not the recorded one")
        return of_type(stored["progress"], Progress, path / PROGRESS), load_file(path / STATE)
    except (OSError, KeyError, TypeError, SafetensorError, DamagedFileError) as error:
        raise ModelError(f"{path} is no whole checkpoint: {first_line(error)}") from None


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{name}.{index}.{key}": value for index, values in state.items() for key, value in values.items()}


def restore_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took."""
    stored = optimizer.state_dict()
    for key, value in tensors.items():
        owner, _, rest = key.partition(".")
        if owner == name:
            index, leaf = rest.split(".")
            stored["state"].setdefault(int(index), {})[leaf] = value
    optimizer.load_state_dict(stored)
