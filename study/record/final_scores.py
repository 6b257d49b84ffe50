"""What a trial leaves at its end: its test evaluation, and texts."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from study.config.stored import read_sealed
from study.errors import StudyError
from study.record.places import FINAL, SAMPLES


class FinalMetrics(BaseModel):
    """What must be known of a test evaluation; more is kept as it is."""

    model_config = ConfigDict(extra="allow")

    nll: float
    nll_se: float
    elbo: float
    kl: float
    mi: float
    au: float
    ppl: float
    nll_bias_bound: float | None = None
    untrusted: float | None = None


class SampleTexts(BaseModel):
    """The texts that a trial writes at its end."""

    model_config = ConfigDict(extra="forbid")

    input: list[str]
    reconstruction: list[str]
    prior_sample: list[str]


def read_final(folder: Path) -> dict[str, float | None]:
    """Return what the test split said of a trial; raise StudyError if the file is damaged."""
    again = "remove it, and the same command evaluates the trial again"
    return read_sealed(folder / FINAL, FinalMetrics, again).model_dump()


def read_samples(folder: Path) -> dict[str, list[str]]:
    """Return the texts that a trial wrote at its end, by columns of equal length; raise StudyError if damaged."""
    found = read_sealed(folder / SAMPLES, SampleTexts, "remove it to go on without them")
    table = {"input": found.input, "reconstruction": found.reconstruction, "prior_sample": found.prior_sample}
    if len({len(column) for column in table.values()}) > 1:
        raise StudyError(f"{folder / SAMPLES} is damaged: its columns differ in length; remove it")
    return table
