"""What a user asked of `study run`, and of the commands that start a study of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.files import first_problem
from study.config.own_code import OwnCode
from study.errors import StudyError


class RunRequest(BaseModel):
    """The options of `study run` as they were given: None, empty or false is one that was not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    storage: Path
    """Folder of all studies."""
    corpus: str | None = None
    preset: str | None = None
    config: Path | None = None
    """A TOML file of settings."""
    assignments: tuple[str, ...] = ()
    """Each `--set NAME=VALUE`."""
    also: tuple[str, ...] = ()
    """Each `--search NAME`."""
    name: str | None = None
    trials: int | None = Field(default=None, ge=1)
    concurrent: int | None = Field(default=None, ge=1)
    cpus_per_trial: float | None = None
    gpus_per_trial: float | None = None
    mps: bool = False
    sampler: str | None = None
    objective: str | None = None
    floors: tuple[str, ...] = ()
    """Each `--floor METRIC=VALUE`."""
    scheduler: str | None = None
    time_budget: float | None = None
    """In minutes."""
    max_gpu_hours: float | None = None
    seed: int | None = None
    address: str | None = None
    tracking_uri: str | None = None
    optuna_url: str | None = None
    stages: tuple[str, ...] | None = None
    poolings: tuple[str, ...] | None = None
    seeds: int | None = None
    """Of the pooling test."""
    test_weights: tuple[float, ...] | None = None
    tries: tuple[str, ...] = ()
    """Each `--try`."""
    try_outside: bool = False
    from_study: str | None = None
    """The study of `--from`."""
    moved_corpus: Path | None = None
    """The place of `--corpus`."""
    trainable: str | None = None
    """The function of `--trainable`, package.module:function."""
    shell: str | None = None
    """The command of `--command`."""
    function: Any = None
    """That function itself, where no module has it: of `Study.run` in a notebook."""
    space: Path | dict[str, Any] | None = None
    """The TOML file of `--space`, or its tables: settings and ranges of a trainable of the user's own."""
    check: bool = False
    """Have the trainable train one epoch first, and study nothing."""
    stop_when_settled: bool = False
    dry_run: bool = False
    resume: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, object]) -> RunRequest:
        """Return what was asked by these options; raise StudyError for a value that one cannot take."""
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            name, _, problem = first_problem(error).partition(": ")
            raise StudyError(f"--{name.partition('.')[0].replace('_', '-')}: {problem}") from None

    @property
    def code(self) -> OwnCode | None:
        """What of the user's own trains the trials, found from the working directory; None if nothing does."""
        if self.trainable is None and self.shell is None:
            return None
        return OwnCode(function=self.trainable or "", command=self.shell or "", folder=str(Path.cwd()))

    @property
    def given(self) -> set[str]:
        """The names of the options that were given."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name for name, value in values.items() if not (value is None or value is False or value == ())}
