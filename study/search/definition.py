"""What a study is: everything that running and resuming it needs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.files import DamagedFileError, first_problem, read_json, sealed
from study.config.own_code import OwnCode
from study.config.run_options import SamplerName, SchedulerName
from study.config.settings import Params, Settings, Value
from study.config.stored import without_nan, write_json
from study.errors import StudyError, StudyWarning, first_line
from study.search.learned import Learned
from study.search.objective import Goal
from study.search.space import SearchSpace

NEVER = 1_000_000
"""Epochs that no training lasts for."""
SCHEMA_VERSION = 1
BY_HAND = (
    "name",
    "corpus",
    "corpus_name",
    "num_trials",
    "concurrent",
    "cpus_per_trial",
    "gpus_per_trial",
    "tracking_uri",
    "optuna_url",
    "optuna_name",
    "command",
    "provenance",
)
"""What does not decide a trial's numbers: changed by hand, it is taken with a warning."""


@dataclass(frozen=True)
class Definition:
    """What a study is: everything that resuming it needs. Stored once, when it starts."""

    name: str
    identifier: str
    """A random one: MLflow may hold runs of an older study of the same name."""
    corpus: str
    corpus_name: str
    corpus_fingerprint: str
    space: SearchSpace
    goal: Goal
    num_trials: int
    sampler: str = "tpe"
    scheduler: str = "asha"
    grace_epochs: int = 1
    seed: int = 0
    concurrent: int = 1
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0
    max_retries: int = 2
    final_num_samples: int = 0
    """Importance samples of a last evaluation of each complete trial on the test split; 0 for none."""
    tracking_uri: str = ""
    optuna_url: str = ""
    command: str = ""
    provenance: dict[str, str] = field(default_factory=dict)
    """The versions of what its results depend on, and the commit, when it was started; empty of older studies."""
    planned: tuple[Params, ...] = ()
    """Searched values that are tried first, in this order, before the sampler proposes any."""
    num_tested: int = 0
    """How many of those are the pooling test's (see `study.search.pooling_test`)."""
    learned: tuple[Learned, ...] = ()
    """Trials of an earlier study that the sampler knows from the first proposal on."""
    optuna_name: str = ""
    """Its name in Optuna's database, where it was renamed since."""
    code: OwnCode | None = None
    """What of the user's own trains its trials, if anything does."""
    compared: tuple[str, ...] = ()
    """The settings whose values it compares over seeds, of a comparison of variants."""

    @property
    def is_comparison(self) -> bool:
        """Whether every run of it was planned, for a comparison of methods or of variants."""
        return bool(self.compared or self.final_num_samples)

    @property
    def is_own(self) -> bool:
        """Whether its trials are trained by code of the user's own: there may be no corpus, and there is no network."""
        return self.code is not None

    def with_corpus(self) -> Definition:
        """Return itself; raise StudyError if its trials are the user's own, who alone knows what they learn from."""
        if self.is_own:
            raise StudyError(
                f"{self.name} is of a trainable of your own: its corpus and its models are known to that code alone"
            )
        return self

    def is_tested(self, number: int) -> bool:
        """Say whether a trial is of the pooling test, which the first ones are."""
        return number < self.num_tested

    def settings(self, number: int, params: Mapping[str, Value]) -> Settings:
        """Return the settings of a trial by its number and searched values; raise StudyError if one is wrong.

        A trial of the pooling test is trained to its end, collapsed or not.
        """
        found = self.space.settings(params)
        return found.with_values({"evaluation.collapse_epochs": NEVER}) if self.is_tested(number) else found

    def to_json(self) -> dict[str, object]:
        """Return the definition as JSON values."""
        return self.__dict__ | {
            "schema_version": SCHEMA_VERSION,
            "space": self.space.to_json(),
            "goal": self.goal.to_json(),
            "planned": list(self.planned),
            "compared": list(self.compared),
            "learned": [each.model_dump(mode="json") for each in self.learned],
            "code": None if self.code is None else self.code.model_dump(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Definition:
        """Rebuild a definition that `to_json` made; raise ValueError (pydantic's of wrong types too) if it is none."""
        found = Stored.model_validate(stored)
        if found.schema_version != SCHEMA_VERSION:
            raise ValueError(f"expected schema version {SCHEMA_VERSION}, got {found.schema_version}")
        own = ("schema_version", "space", "goal", "planned", "learned", "compared")
        return cls(
            space=SearchSpace.from_json(found.space),
            goal=Goal.from_json(found.goal),
            planned=tuple(found.planned),
            learned=tuple(found.learned),
            compared=tuple(found.compared),
            **{name: getattr(found, name) for name in Stored.model_fields if name not in own},
        )


class Stored(BaseModel):
    """A definition's JSON: types and ranges."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    schema_version: int
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    identifier: str
    corpus: str
    corpus_name: str
    corpus_fingerprint: str
    space: dict[str, object]
    goal: dict[str, object]
    num_trials: int = Field(ge=0)
    sampler: SamplerName = "tpe"
    scheduler: SchedulerName = "asha"
    grace_epochs: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    concurrent: int = Field(default=1, ge=1)
    cpus_per_trial: float = Field(default=1.0, gt=0)
    gpus_per_trial: float = Field(default=0.0, ge=0)
    max_retries: int = Field(default=2, ge=0)
    final_num_samples: int = Field(default=0, ge=0)
    tracking_uri: str = ""
    optuna_url: str = ""
    command: str = ""
    provenance: dict[str, str] = {}
    planned: list[Params] = []
    num_tested: int = Field(default=0, ge=0)
    learned: list[Learned] = []
    optuna_name: str = ""
    code: OwnCode | None = None
    compared: list[str] = []


def check_definition(definition: Definition) -> None:
    """Raise StudyError unless a definition can be read again once it is written."""
    content = {name: without_nan(value) for name, value in definition.to_json().items()}
    try:
        Definition.from_json(json.loads(json.dumps(content)))
    except ValidationError as error:
        raise StudyError(f"{definition.name} cannot be changed so: {first_problem(error)}") from None


def write_definition(path: Path, definition: Definition) -> None:
    """Write a definition, with a digest of what decides its numbers and one of the rest."""
    content = {name: without_nan(value) for name, value in definition.to_json().items()}
    write_json(path, content | {"digests": digests(content)})


def read_definition(path: Path) -> Definition:
    """Read what `write_definition` wrote; raise StudyError if it is foreign, damaged or would give other numbers.

    Other changes are taken with a StudyWarning: somebody made them by hand.
    """
    try:
        content: dict[str, object] = read_json(path, dict[str, object])
        stored = content.pop("digests", None)
        definition = Definition.from_json(content)
    except ValidationError as error:
        raise StudyError(f"{path} does not define a study: {first_problem(error)}; it is foreign or damaged") from None
    except (DamagedFileError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StudyError(f"{path} does not define a study: {first_line(error)}; it is foreign or damaged") from None
    if stored is not None:
        found = digests(content)
        if not isinstance(stored, dict) or stored.get("deciding") != found["deciding"]:
            raise StudyError(
                f"{path} was changed or damaged since the study was started: what decides its numbers is not what it"
                " was; bring the file back (a copy is with its run in MLflow)"
            )
        if stored != found:
            warnings.warn(StudyWarning(f"{path} was changed by hand since this program wrote it"), stacklevel=2)
    return definition


def digests(content: Mapping[str, object]) -> dict[str, str]:
    """Return the digests of a definition's JSON: of what decides a trial's numbers, and of the rest."""
    deciding = {name: value for name, value in content.items() if name not in BY_HAND}
    rest = {name: value for name, value in content.items() if name in BY_HAND}
    return {"deciding": str(sealed(deciding)["digest"]), "rest": str(sealed(rest)["digest"])}
