"""How a study is run, as options, preset or TOML give it: everything beside a trial's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import CorpusError
from data.files import first_problem
from study.errors import StudyError, did_you_mean

Stage = Literal["pooling", "search"]
SamplerName = Literal["tpe", "random", "grid", "qmc", "gp", "cma-es", "nsga2"]
SchedulerName = Literal["asha", "median", "none"]
ObjectiveName = Literal["nll", "pareto", "elbo"]
SAMPLER_NAMES: tuple[str, ...] = get_args(SamplerName)
SCHEDULER_NAMES: tuple[str, ...] = get_args(SchedulerName)
OBJECTIVE_NAMES: tuple[str, ...] = get_args(ObjectiveName)
CORPORA = Path("corpora")
LARGEST = 10**9
"""Of a count: beyond it, it is a slip."""


class RunOptions(BaseModel):
    """The `[study]` table of a preset or settings file; options of `study run` win over it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    corpus: str = "chitchat"
    vocabulary_size: int | None = Field(default=None, ge=1, description="of a named corpus that is prepared")
    trials: int = Field(default=24, ge=1, description="of the search; the pooling test's come on top")
    concurrent: int | None = Field(default=None, ge=1)
    cpus_per_trial: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    gpus_per_trial: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="of one GPU; as little as fits if unset, 0: on the CPU"
    )
    sampler: str = "tpe"
    objective: str = "nll"
    floors: tuple[str, ...] = ()
    scheduler: str = "asha"
    grace_epochs: int | None = Field(default=None, ge=1)
    max_retries: int = Field(default=2, ge=0)
    stages: tuple[Stage, ...] = Field(
        default=("pooling", "search"), min_length=1, description="the pooling test, the search, or both"
    )
    poolings: tuple[str, ...] | None = Field(default=None, description="of the pooling test; last, mean, max if unset")
    seeds: int = Field(default=2, ge=1, le=1000, description="of the pooling test")
    test_weights: tuple[float, ...] | None = Field(
        default=None, min_length=1, description="KL weights of the pooling test; 0.15, 0.3 and 0.6 if unset"
    )

    @classmethod
    def resolve(cls, *tables: Mapping[str, object]) -> RunOptions:
        """Lay tables over each other, later ones winning; raise StudyError if one is wrong."""
        merged: dict[str, object] = {}
        for table in tables:
            if not isinstance(table, dict):
                raise StudyError(f"[study] must be a table, got {table!r}")
            merged |= {name: value for name, value in table.items() if value is not None}
        for name, value in merged.items():
            if isinstance(value, bool) or (isinstance(value, int) and abs(value) > LARGEST):
                raise StudyError(f"study.{name}: expected another value, got {str(value).lower()[:40]}")
            if name not in cls.model_fields:
                raise StudyError(f"unknown setting study.{name}; {did_you_mean(name, cls.model_fields)}")
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise StudyError(f"study.{first_problem(error)}") from None


def find_corpus(name: str, vocabulary_size: int | None, corpora: Path = CORPORA) -> Path:
    """Return a prepared corpus' folder; a named one that needs no files is prepared first, in `corpora`.

    Raises CorpusError if there is neither a folder of that name nor such a corpus.
    """
    path = Path(name)
    if path.is_dir():
        return path
    from data.prepare import prepare
    from data.settings import PrepareSettings
    from data.sources.named import NAMED

    if name in NAMED:
        folder = name if vocabulary_size is None else f"{name}-{vocabulary_size}"
        if (CORPORA / folder).is_dir():
            return CORPORA / folder
        prepared = corpora / folder
        source = NAMED[name](None, 0)
        given = {} if vocabulary_size is None else {"vocabulary_size": vocabulary_size}
        corpus, _ = prepare(source, PrepareSettings.resolve(source, given), prepared)
        return corpus.folder
    hint = did_you_mean(name, NAMED, "prepare one by `study corpus prepare SOURCE --out DIR`")
    raise CorpusError(f"no prepared corpus at {name}; {hint}")
