"""What an earlier study found, as the sampler of a later one knows it: trials that the later one could have made."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import BaseModel, ConfigDict

from study.config.settings import Params
from study.search.space import SearchSpace

CONSTRAINT = "constraints:"
"""What begins Optuna's names of a trial's constraints, as `optuna.Trial.set_constraint` stores them."""


class Learned(BaseModel):
    """A trial of an earlier study: what was tried, and what came of it by the later study's own goal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    trial: int
    params: Params
    """Values of the later study's searched settings."""
    values: tuple[float, ...] | None = None
    """What is optimised, of a trial that was trained to its end; None of one that was ended early."""
    epochs: dict[int, float] = {}
    """Validation nll by epoch."""
    constraints: dict[str, float] = {}
    """By how much it misses each condition."""

    def frozen(self, space: SearchSpace, number: int) -> FrozenTrial:
        """Return it as a trial of Optuna's that is over, under a number that no trial of the study has."""
        trial = create_trial(
            state=TrialState.PRUNED if self.values is None else TrialState.COMPLETE,
            values=self.values,
            params=self.params,
            distributions={name: space.ranges[name].distribution() for name in self.params},
            intermediate_values=self.epochs,
            system_attrs={f"{CONSTRAINT}{name}": value for name, value in self.constraints.items()},
        )
        trial.number, trial._trial_id = number, -2 - number
        return trial


def known_to_sampler(learned: Sequence[Learned], space: SearchSpace, num_own: int) -> list[FrozenTrial]:
    """Return what was learned as trials that come after a study's own ones."""
    return [each.frozen(space, num_own + place) for place, each in enumerate(learned)]
