"""Everything that a trial needs, typed and frozen: from presets, TOML files and `--set key=value`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from data.files import DamagedFileError, first_problem, read_bytes
from model.config import NetworkSettings, ObjectiveSettings, names_of
from study.config.combinations import refuse_combination
from study.config.methods import METHODS, method_settings
from study.config.training import EvaluationSettings, TrainingSettings
from study.errors import StudyError, did_you_mean, nearest

MOST_TOML_BYTES = 16 * 2**20
LARGEST = 10**12
"""Of a whole number: beyond it, it is a slip."""
UNSET = "unset"
"""What `--set NAME=unset` says to take back an optional setting of a preset."""

OWN = "own."
"""What the names of settings begin with that only a trainable of the user's own knows."""

PRESETS = Path(__file__).parent.parent / "presets"

OF_OWN = re.compile(r"own\.[A-Za-z_][A-Za-z0-9_-]*")
Value = bool | int | float | str
"""What a setting may be; None is one that is unset."""
Params = dict[str, Value]
"""Values of searched settings, by their dotted names."""
Table = dict[str, Any]
"""A table of TOML, whose values are checked when settings are made of them."""


class Settings(BaseModel):
    """One trial's settings. Two trials with equal settings on one corpus and machine give equal numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, lt=2**32, description="of everything random: equal seeds give equal numbers")
    method: str = Field(
        default="",
        description="a bundle of settings by name (`study settings --methods`); those given beside it win",
        json_schema_extra=names_of(METHODS),
    )
    model: NetworkSettings = NetworkSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    own: dict[str, Value] = {}
    """Those of a trainable of the user's own, which nobody else knows."""

    @model_validator(mode="after")
    def _methods_combine(self) -> Settings:
        refused = refuse_combination(self.model, self.objective, self.training)
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


def own_name(name: str) -> str:
    """Return the full name of a setting that may be of the user's own: `own.NAME` of one that is not known here."""
    return name if name in setting_names() or name.startswith(OWN) else f"{OWN}{name}"


def told(settings: Settings) -> Params:
    """Return what a trainable of the user's own is told: its own settings by their names, the others in full."""
    known = {name: value for name, value in flatten(settings.model_dump(exclude={"own"})).items() if value is not None}
    return known | settings.own  # type: ignore[return-value]


@cache
def defaults() -> dict[str, object]:
    """Return every setting's default, by its dotted name."""
    return flatten(Settings().model_dump())


def check_kind(name: str, value: object) -> None:
    """Raise StudyError for a value of another kind than a setting's, which would be taken for one of its own."""
    if name.startswith(OWN):
        return
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
    if name in names or OF_OWN.fullmatch(name):
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


def parse_assignment(text: str, named: Callable[[str], str] = str) -> tuple[str, object]:
    """Parse `name=value`, the value in TOML's syntax or a bare word, and the name as it is `named` in full."""
    name, sign, value = text.partition("=")
    name = named(name.strip())
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
