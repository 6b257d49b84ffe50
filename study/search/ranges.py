"""The values that one setting may take."""

from __future__ import annotations

import math
from typing import cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel, ConfigDict, model_validator

from study.config.settings import Value


class Range(BaseModel):
    """The values that a setting may take: a list, or an interval (whole numbers if both ends are)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    values: tuple[Value, ...] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = None
    only_if: dict[str, tuple[Value, ...]] = {}
    """What other settings must be, each one of some values, for this one to mean anything."""

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        if (self.values is None) == (self.low is None or self.high is None):
            raise ValueError("give either values = [...] or low and high")
        if self.values is not None and (not self.values or (self.log or self.step)):
            raise ValueError("values must be a list that is not empty, without log and step")
        if self.low is not None and self.high is not None:
            whole = isinstance(self.low, int) and isinstance(self.high, int)
            if self.step is not None and (self.step <= 0 or (whole and self.step != int(self.step))):
                raise ValueError(f"step must be above 0, and whole if both ends are, got {self.step}")
            if self.low >= self.high:
                raise ValueError(f"low must be below high, got {self.low} and {self.high}")
            if self.log and (self.low <= 0 or self.step):
                raise ValueError("log needs a low above 0 and no step")
        return self

    def distribution(self) -> BaseDistribution:
        """Return it as Optuna's, which `suggest` gives a trial."""
        if self.values is not None:
            return CategoricalDistribution(self.values)
        assert self.low is not None
        assert self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """Ask an Optuna trial for a value."""
        if self.values is not None:
            return cast(Value, trial.suggest_categorical(name, self.values))
        assert self.low is not None
        assert self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def __str__(self) -> str:
        """Return it as it is shown: its values, or its ends."""
        if self.values is not None:
            return ", ".join(map(str, self.values))
        return f"{self.low} to {self.high}{' (log)' if self.log else ''}"

    def ends(self) -> tuple[Value, ...]:
        """Return values that between them show whether a setting takes this range."""
        if self.values is not None:
            return self.values
        assert self.low is not None
        assert self.high is not None
        return (self.low, self.high)

    def place(self, value: Value) -> float:
        """Return where a value lies in the range, from 0 to 1; in the logarithm where that is what is searched."""
        if self.values is not None:
            return self.values.index(value) / max(1, len(self.values) - 1)
        assert self.low is not None
        assert self.high is not None
        low, high, place = (math.log(it) if self.log else float(it) for it in (self.low, self.high, float(value)))
        return (place - low) / (high - low)

    def holds(self, value: Value) -> bool:
        """Say whether a value is in the range."""
        if self.values is not None:
            return value in self.values
        if isinstance(value, bool | str) or self.low is None or self.high is None:
            return False
        if not self.low <= value <= self.high or (isinstance(self.low + self.high, int) and value != int(value)):
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-9

    def grid(self, points: int = 4) -> list[Value]:
        """Return the values of a grid: all of a list, some of an interval, evenly in its own scale."""
        if self.values is not None:
            return list(self.values)
        assert self.low is not None
        assert self.high is not None
        low, high = self.low, self.high
        whole = isinstance(low, int) and isinstance(high, int)
        places = [place / (points - 1) for place in range(points)]
        spread = [low * (high / low) ** place if self.log else low + (high - low) * place for place in places]
        if self.step:
            spread = [low + round((value - low) / self.step) * self.step for value in spread]
        return list(dict.fromkeys(round(value) if whole else float(value) for value in spread))
