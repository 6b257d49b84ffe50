"""A trained network in a folder: weights in safetensors, and the JSON that rebuilds it. Nothing is unpickled."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.config import LONGEST, NetworkSettings
from model.errors import ModelError
from model.network.vae import SequenceVAE

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
SCHEMA_VERSION = 1
MOST_BYTES = 64 * 2**20
"""The largest description that is read."""


class Description(BaseModel):
    """What must stand beside a network's weights; more is kept as it is."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    schema_version: int
    network: dict[str, object]
    """Its `NetworkSettings`."""
    vocabulary_size: int = Field(ge=1)
    longest: int = Field(default=LONGEST, ge=1)
    """Sequence that learned positions are for, in tokens."""
    epoch: int = Field(default=0, ge=0)
    settings: dict[str, object] = {}
    """Those it was trained by; empty of a network that no study trained."""
    cleaning: dict[str, object] = {}
    """How text becomes its tokens."""
    valid: dict[str, float | None] = {}
    dimensions: dict[str, list[float]] = {}
    corpus: str = ""
    digests: dict[str, str] = {}
    digest: str = ""


def save_network(network: SequenceVAE, folder: Path, **about: object) -> None:
    """Write a network into an existing folder, with whatever else is worth knowing of it (JSON values).

    The description, which is written last, has the digest of every file that is in the folder by then.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    digests = {path.name: digest_of(path) for path in sorted(folder.iterdir()) if path.name != DESCRIPTION}
    description: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "network": network.settings.model_dump(),
        "vocabulary_size": network.vocabulary_size,
        "longest": network.longest,
        **about,
        "digests": digests,
    }
    description["digest"] = seal(description)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", "utf-8")
    # Which safetensors leaves to this user alone.
    (folder / WEIGHTS).chmod((folder / DESCRIPTION).stat().st_mode)


def seal(description: Mapping[str, object]) -> str:
    """Return a digest of a description without the one in it."""
    rest = {name: value for name, value in description.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def digest_of(path: Path) -> str:
    """Return the digest of a file's content; raise ModelError if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; the model is damaged") from None


def describe(folder: Path) -> Description:
    """Read what `save_network` wrote beside the weights; raise ModelError if it is foreign or damaged."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ModelError(f"{folder} holds no trained model (no {DESCRIPTION}); name a model's folder or a study")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ModelError(f"{path} does not describe a model: it has {path.stat().st_size:,} bytes")
        content = path.read_bytes()
        description = Description.model_validate_json(content)
        stored: dict[str, object] = json.loads(content)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        raise ModelError(
            f"{path} does not describe a model ({where}: {first['msg']}); it is foreign or damaged"
        ) from None
    if description.schema_version != SCHEMA_VERSION:
        raise ModelError(
            f"{path} has schema version {description.schema_version}, expected {SCHEMA_VERSION}; train again"
        )
    # Older versions wrote none.
    if "digest" in stored and seal(stored) != stored["digest"]:
        raise ModelError(f"{path} is damaged: its digest is not that of its content")
    for name, digest in description.digests.items():
        if Path(name).name != name or digest_of(folder / name) != digest:
            raise ModelError(f"{folder / Path(name).name} is damaged: its digest is not the one in {DESCRIPTION}")
    return description


def load_network(folder: Path, device: torch.device | str = "cpu") -> SequenceVAE:
    """Rebuild a network from its folder, in evaluation mode; raise ModelError if it is foreign or damaged."""
    description = describe(folder)
    try:
        settings = NetworkSettings.model_validate(description.network)
        network = SequenceVAE(settings, description.vocabulary_size, description.longest)
    except (ValidationError, RuntimeError, MemoryError) as error:
        raise ModelError(f"{folder / DESCRIPTION} does not describe a network: {str(error).splitlines()[0]}") from None
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
