"""What the steps of the check share: their arguments, findings, and networks at the field's sizes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import torch

from model.config import NetworkSettings
from model.network.vae import SequenceVAE
from study.config.settings import Settings
from study.config.training import TrainingSettings
from study.training.devices import choose_device
from study.training.step import Stepper

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"tf32": False},
    "TF32": {"tf32": True},
    "bfloat16": {"precision": "bfloat16"},
}


@dataclass(frozen=True)
class Sizes:
    """A set-up of the field: sequences and targets of a batch, and the network's sizes."""

    batch_size: int
    num_targets: int
    embedding_size: int
    hidden_size: int
    latent_size: int
    vocabulary_size: int


SIZES = {
    "quick": Sizes(32, 12, 64, 64, 16, 4000),
    "PTB": Sizes(32, 22, 256, 256, 32, 10_000),
    "Yahoo": Sizes(32, 79, 512, 1024, 32, 20_000),
}


def arguments(step: str) -> dict[str, Any]:
    """Return what the check gave this step."""
    return {"step": step, **json.loads(sys.argv[1])}


def tell(given: dict[str, Any], what: str, value: object) -> None:
    """Print a finding as a JSON line."""
    print(json.dumps({"step": given["step"], "what": what, "value": value}), flush=True)


def precisions(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the precisions that the device has."""
    return PRECISIONS if given["device"] == "cuda" else {"float32": PRECISIONS["float32"]}


def make_stepper(given: dict[str, Any], sizes: Sizes, model: dict[str, Any], training: dict[str, Any]) -> Stepper:
    """Return a stepper with SGD, as the field trains, on a network of these sizes drawn by seed 0."""
    settings = Settings(
        model=NetworkSettings(
            embedding_size=sizes.embedding_size, hidden_size=sizes.hidden_size, latent_size=sizes.latent_size, **model
        ),
        training=TrainingSettings(**{"optimizer": "sgd", "learning_rate": 1.0, "device": given["device"], **training}),
    )
    device = choose_device(settings.training)
    torch.manual_seed(0)
    return Stepper(SequenceVAE(settings.model, sizes.vocabulary_size).to(device).train(), settings, device)


def random_batch(sizes: Sizes, rows: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and lengths of a full batch, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    shape = (rows or sizes.batch_size, sizes.num_targets + 1)
    tokens = torch.randint(4, sizes.vocabulary_size, shape, generator=generator)
    return tokens, torch.full((shape[0],), shape[1])
