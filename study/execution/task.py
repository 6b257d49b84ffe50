"""What a worker is given to do: one trial, from its settings to where it keeps what it makes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from study.config.own_code import OwnCode
from study.config.settings import Params, Settings


class Task(BaseModel):
    """A trial as it is handed to a worker, which may be on another machine: Tune's `config`, checked on both sides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: int
    params: Params
    """Its searched values."""
    settings: Settings
    corpus: str
    """The prepared folder."""
    folder: str
    """Where the trial keeps its checkpoints, weights and texts."""
    rows_seen: int
    """Epochs that are on record."""
    cpus: float
    gpus: float
    """Its share of one GPU, 0 for none."""
    code: OwnCode | None = None
    """What of the user's own trains it, if anything does."""
    ranked: str = "nll"
    """The metric by which the study's trials rank, which such code must yield."""
    final_num_samples: int
    """Importance samples of a last evaluation on the test split; 0 for none."""
