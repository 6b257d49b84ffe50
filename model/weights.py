"""A trained network in a folder: weights in safetensors, and the JSON that rebuilds it. Nothing is unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.config import NetworkSettings
from model.errors import ModelError
from model.vae import SequenceVAE

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
SCHEMA_VERSION = 1


def save_network(network: SequenceVAE, folder: Path, **about: Any) -> None:
    """Write a network into an existing folder, with whatever else is worth knowing of it (JSON values)."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    description = {
        "schema_version": SCHEMA_VERSION,
        "network": network.settings.model_dump(),
        "vocabulary_size": network.vocabulary_size,
        **about,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", "utf-8")


def describe(folder: Path) -> dict[str, Any]:
    """Read what `save_network` wrote beside the weights; raise ModelError if it is something else."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ModelError(f"{folder} holds no trained model (no {DESCRIPTION}); name a model's folder or a study")
    try:
        description = json.loads(path.read_text("utf-8"))
        if description["schema_version"] != SCHEMA_VERSION:
            raise ModelError(
                f"{path} has schema version {description['schema_version']}, expected {SCHEMA_VERSION}; train again"
            )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} does not describe a model ({error!r}); it is foreign or damaged") from None
    return dict(description)


def load_network(folder: Path, device: torch.device | str = "cpu") -> SequenceVAE:
    """Rebuild a network from its folder, in evaluation mode; raise ModelError if it is foreign or damaged."""
    description = describe(folder)
    try:
        settings = NetworkSettings.model_validate(description["network"])
        network = SequenceVAE(settings, int(description["vocabulary_size"]))
    except (ValidationError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / DESCRIPTION} does not describe a network: {error}") from None
    load_weights(network, folder / WEIGHTS)
    return network.to(device).eval()


def load_weights(network: torch.nn.Module, path: Path) -> None:
    """Read a safetensors file into a network; raise ModelError if it is missing, damaged or of other shapes."""
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as safetensors ({error}); it is missing or damaged") from None
    except RuntimeError as error:
        raise ModelError(f"{path} belongs to another network: {str(error).splitlines()[1].strip()}") from None
