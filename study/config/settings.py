"""Everything that a trial needs, typed and frozen: from presets, TOML files and `--set key=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from data.files import DamagedFileError, first_problem, read_bytes
from model.collapse import COLLAPSED_MI_NATS
from model.config import MAX_DECODER_TOKENS, NetworkSettings, ObjectiveSettings
from study.config.methods import METHODS, method_settings
from study.errors import StudyError, did_you_mean, nearest

MOST_TOML_BYTES = 16 * 2**20
LARGEST = 10**12
"""Of a whole number: beyond it, it is a slip."""
UNSET = "unset"
"""What `--set NAME=unset` says to take back an optional setting of a preset."""

PRESETS = Path(__file__).parent.parent / "presets"

Value = bool | int | float | str
"""What a setting may be; None is one that is unset."""
Params = dict[str, Value]
"""Values of searched settings, by their dotted names."""
Table = dict[str, Any]
"""A table of TOML, whose values are checked when settings are made of them."""


class TrainingSettings(BaseModel):
    """How the network is trained; epochs are the unit of everything that takes time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=20, ge=1)
    num_sequences: int | None = Field(default=None, ge=1, description="train on so many, all if unset")
    batch_size: int = Field(default=32, ge=1)
    max_batch_tokens: int | None = Field(default=None, ge=2, description="batch by padded tokens instead")
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0, description="of adamw only")
    clip_norm: float = Field(default=5.0, gt=0)
    halving_patience: int = Field(default=2, ge=1, description="epochs without a better validation")
    first_halving_epoch: int = Field(default=15, ge=1)
    max_halvings: int = Field(default=5, ge=1, description="training ends when so many are spent")
    early_stop_patience: int | None = Field(default=None, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    tf32: bool = True
    cuda_graph: bool = Field(default=False, description="record a step once a shape and replay it, on a GPU")
    procedure: Literal["plain", "aggressive"] = "plain"
    pretraining_epochs: int = Field(default=0, ge=0, description="as an autoencoder, before the decoder is reset")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    checkpoint_minutes: float = Field(default=10.0, gt=0, description="between checkpoints within an epoch")


class EvaluationSettings(BaseModel):
    """How validation is measured after each epoch, and when a trial counts as collapsed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_sequences: int | None = Field(default=None, ge=2, description="validate on so many, all if unset")
    num_samples: int = Field(default=16, ge=1, description="importance samples a sequence, each epoch")
    final_num_samples: int = Field(default=500, ge=1, description="of `study evaluate`")
    final_tolerance_nats: float = Field(
        default=0.0, ge=0, description="stop sampling a sequence at this standard error; 0: never before the last"
    )
    final_widen: bool = Field(
        default=True, description="draw from a posterior drawn towards the prior where that makes more of the samples"
    )
    final_num_sequences: int | None = Field(
        default=None, ge=2, description="of a comparison's test split, all if unset"
    )
    batch_size: int = Field(default=64, ge=1)
    max_decoder_tokens: int = Field(
        default=MAX_DECODER_TOKENS, ge=1, description="decoded at once, which bounds memory"
    )
    criterion: Literal["nll", "elbo"] = "nll"
    collapse_mi_nats: float = Field(
        default=COLLAPSED_MI_NATS,
        ge=0,
        description="collapsed below this MI, beyond its error; 0: never",
    )
    collapse_epochs: int = Field(
        default=3, ge=1, description="epochs at the final KL weight, collapsed in a row, that end a trial"
    )

    @model_validator(mode="before")
    @classmethod
    def _older_names(cls, given: object) -> object:
        # Of studies of 0.1, whose threshold was one of KL.
        if isinstance(given, dict) and "collapse_kl_nats" in given:
            given = dict(given)
            given["collapse_mi_nats"] = given.pop("collapse_kl_nats")
        return given


class Settings(BaseModel):
    """One trial's settings. Two trials with equal settings on one corpus and machine give equal numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, lt=2**32)
    method: str = Field(default="", description="a bundle of settings by name; those given beside it win")
    model: NetworkSettings = NetworkSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _methods_combine(self) -> Settings:
        refused = refuse_combination(self)
        if refused:
            raise ValueError(refused)
        return self

    @model_validator(mode="after")
    def _cycles_need_room(self) -> Settings:
        if self.objective.is_cyclical and self.objective.num_cycles > 100 * self.training.epochs:
            raise ValueError(
                f"objective.num_cycles is {self.objective.num_cycles} for {self.training.epochs} epochs of training"
            )
        return self

    @field_validator("method")
    @classmethod
    def _method_is_known(cls, method: str) -> str:
        if method and method not in METHODS:
            raise ValueError(did_you_mean(method, METHODS))
        return method

    def with_values(self, values: Mapping[str, object], kept: frozenset[str] = frozenset()) -> Settings:
        """Return these settings with some replaced, by dotted name; raise StudyError if one is wrong.

        A `method` among them brings its whole bundle, but for the settings `kept` and under the other values.
        """
        bundle = method_settings(str(values["method"])) if values.get("method") in METHODS else {}
        bundle = {name: value for name, value in bundle.items() if name not in kept}
        return validate(nest(flatten(self.model_dump()) | bundle | dict(values)))


def refuse_combination(settings: Settings) -> str:  # noqa: PLR0911 - one a reason
    """Return why some methods make no sense together, or nothing."""
    model, objective, training = settings.model, settings.objective, settings.training
    if not model.has_latent:
        for name, used in (
            ("training.procedure = aggressive", training.procedure == "aggressive"),
            ("training.pretraining_epochs", training.pretraining_epochs > 0),
            ("objective.free_bits", objective.free_bits != "none"),
            ("objective.minimum_rate_nats", objective.minimum_rate_nats is not None),
            ("model.latent_to_output", model.latent_to_output),
        ):
            if used:
                return f"{name} is about the latent variable, and model.posterior = none has none"
    if model.posterior == "von-mises-fisher":
        for name, used in (
            ("objective.free_bits", objective.free_bits != "none"),
            ("objective.minimum_rate_nats", objective.minimum_rate_nats is not None),
        ):
            if used:
                return f"{name} would hold up a KL that is constant with model.posterior = von-mises-fisher"
    held_up = objective.free_bits != "none" or objective.minimum_rate_nats is not None
    if objective.free_bits != "none" and objective.minimum_rate_nats is not None:
        return "objective.free_bits and objective.minimum_rate_nats both bound the KL from below; choose one"
    if model.posterior == "delta" and held_up:
        return (
            "model.posterior = delta commits to a rate by itself; leave out free bits and objective.minimum_rate_nats"
        )
    if model.refinement_steps and held_up:
        return "model.refinement_steps descends on the ELBO, not on one with free bits or a minimum rate; choose one"
    if model.posterior == "batch-norm" and training.batch_size < 2 and training.max_batch_tokens is None:
        return "model.posterior = batch-norm needs training.batch_size of at least 2"
    return refuse_graph(settings) if training.cuda_graph else ""


def refuse_graph(settings: Settings) -> str:
    """Return why steps cannot be recorded as CUDA graphs, or nothing."""
    for name, used in (
        ("model.bidirectional", settings.model.bidirectional),
        ("model.refinement_steps", settings.model.refinement_steps > 0),
        ("training.procedure = aggressive", settings.training.procedure == "aggressive"),
        ("training.max_batch_tokens", settings.training.max_batch_tokens is not None),
    ):
        if used:
            return f"training.cuda_graph records steps that are all alike, which {name} does not take"
    return ""


@cache
def defaults() -> dict[str, object]:
    """Return every setting's default, by its dotted name."""
    return flatten(Settings().model_dump())


def check_kind(name: str, value: object) -> None:
    """Raise StudyError for a value of another kind than a setting's, which would be taken for one of its own."""
    usual = defaults()[name]
    if isinstance(value, bool) and not isinstance(usual, bool):
        raise StudyError(f"{name}: expected another value than true or false, got {str(value).lower()}")
    if isinstance(value, str) and (usual is None or isinstance(usual, int | float)):
        raise StudyError(
            f"{name}: expected {'true or false' if isinstance(usual, bool) else 'a number'}, got {value!r}"
        )
    if isinstance(value, int) and abs(value) > LARGEST:
        raise StudyError(f"{name}: expected a number within reason, got {value:.3g}")


@cache
def setting_names() -> tuple[str, ...]:
    """Return every setting's dotted name."""
    return tuple(defaults())


def flatten(nested: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested tables as one, under dotted names."""
    flat: dict[str, object] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def nest(flat: Mapping[str, object]) -> Table:
    """Return dotted names as nested tables; the inverse of `flatten`."""
    nested: Table = {}
    for name, value in flat.items():
        *tables, leaf = name.split(".")
        inner = nested
        for table in tables:
            inner = inner.setdefault(table, {})
        inner[leaf] = value
    return nested


def check_name(name: str) -> None:
    """Raise StudyError unless a setting of this name exists."""
    names = setting_names()
    if name in names:
        return
    leaves, leaf = {known.rsplit(".", 1)[-1]: known for known in names}, name.rsplit(".", 1)[-1]
    close = leaves.get(leaf) or nearest(name, names) or leaves.get(nearest(leaf, leaves))
    hint = f"did you mean {close}?" if close else "`study settings` lists them all"
    raise StudyError(f"unknown setting {name}; {hint}")


def validate(nested: Mapping[str, object]) -> Settings:
    """Check types, ranges and combinations; raise StudyError naming the setting and its value."""
    flat = flatten(nested)
    for name in flat:
        check_name(name)
    if flat.get("method") in METHODS:
        nested = nest(method_settings(str(flat["method"])) | flat)
    for name, value in flat.items():
        check_kind(name, value)
    try:
        return Settings.model_validate(nested)
    except ValidationError as error:
        raise StudyError(first_problem(error)) from None


def parse_assignment(text: str) -> tuple[str, object]:
    """Parse `name=value`, the value in TOML's syntax or a bare word."""
    name, sign, value = text.partition("=")
    name = name.strip()
    if not sign or not name:
        raise StudyError(f"expected NAME=VALUE, got {text!r}; for example --set model.pooling=mean")
    check_name(name)
    if len(value.splitlines()) > 1:
        raise StudyError(f"{name} takes one value, got several lines; give each setting by a --set of its own")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return name, None if value.strip() == UNSET else value.strip()
    if isinstance(parsed, dict | list):
        raise StudyError(f"{name} takes one value, got {value.strip()}; ranges go into a [search] table of --config")
    return name, parsed


def read_toml(path: Path) -> Table:
    """Read a settings file; raise StudyError if it is missing or no TOML."""
    try:
        return tomllib.loads(read_bytes(path, MOST_TOML_BYTES).decode())
    except DamagedFileError as error:
        raise StudyError(str(error)) from None
    except UnicodeDecodeError as error:
        raise StudyError(f"{path} cannot be read: {error.reason} at byte {error.start}; expected UTF-8") from None
    except RecursionError:
        raise StudyError(f"{path} is nested too deeply to be settings") from None
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{path} is not valid TOML: {error}") from None


def preset_names() -> list[str]:
    """Return the presets that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def read_preset(name: str) -> Table:
    """Read a preset; raise StudyError if there is none of that name."""
    if name not in preset_names():
        raise StudyError(f"unknown preset {name}; {did_you_mean(name, preset_names())}")
    return read_toml(PRESETS / f"{name}.toml")


def merge(tables: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """Return tables laid over each other, later ones winning setting by setting, flat."""
    merged: dict[str, object] = {}
    for table in tables:
        merged |= flatten(table)
    return merged
