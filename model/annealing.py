"""The KL weight over training; imports no torch."""

import math
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

AnnealingName = Literal["constant", "linear", "logistic", "cyclical", "cyclical-cosine"]
ANNEALING_NAMES: tuple[str, ...] = get_args(AnnealingName)
LOGISTIC_STEEPNESS = 10.0


class AnnealingSettings(BaseModel):
    """How the KL weight moves from its initial to its final value, in fractions of training.

    `annealing_fraction` is the part of training in which the weight moves; cyclical schedules fit all
    their cycles into it, each rising during `cycle_rise` of its length and then staying (Fu et al.,
    arXiv 1903.10145, use 4 cycles over all of training with a rise of 0.5).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kl_weight: float = Field(default=1.0, ge=0, le=100, description="of the KL in the loss, at its end")
    initial_kl_weight: float = Field(default=0.0, ge=0, le=100, description="at the beginning")
    annealing: AnnealingName = Field(default="linear", description="how the weight gets from one to the other")
    annealing_fraction: float = Field(default=0.2, gt=0, le=1, description="of training, in which it moves")
    num_cycles: int = Field(default=4, ge=1, le=1000, description="of cyclical annealing")
    cycle_rise: float = Field(default=0.5, gt=0, le=1, description="share of a cycle in which the weight rises")

    @property
    def is_cyclical(self) -> bool:
        """Whether the weight rises more than once."""
        return self.annealing.startswith("cyclical")

    @property
    def warmup_fraction(self) -> float:
        """The part of training in which the weight moves; before its end nothing can be said of collapse."""
        return 0.0 if self.annealing == "constant" else self.annealing_fraction

    @property
    def first_full_fraction(self) -> float:
        """The part of training after which the weight first stands at its final value."""
        return self.warmup_fraction * (self.cycle_rise / self.num_cycles if self.is_cyclical else 1.0)

    def weight(self, progress: float) -> float:
        """Return the KL weight when a fraction `progress` of all optimiser steps is done."""
        if self.annealing == "constant" or progress >= self.annealing_fraction:
            return self.kl_weight
        risen = self._risen(progress / self.annealing_fraction)
        return self.initial_kl_weight + (self.kl_weight - self.initial_kl_weight) * risen

    def _risen(self, place: float) -> float:
        if self.annealing == "linear":
            return place
        if self.annealing == "logistic":
            low, high = _logistic(0.0), _logistic(1.0)
            return (_logistic(place) - low) / (high - low)
        within = min(1.0, (place * self.num_cycles) % 1.0 / self.cycle_rise)
        return within if self.annealing == "cyclical" else (1.0 - math.cos(math.pi * within)) / 2.0


def _logistic(place: float) -> float:
    return 1.0 / (1.0 + math.exp(-LOGISTIC_STEEPNESS * (place - 0.5)))
