"""One epoch of training: what training yields, journals keep, schedules rank and reports show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

PRETRAINING = "pretraining"
"""The `phase` of epochs before the decoder is reset; they cannot be a run's best."""

MEASURED = "measured/"
"""What the metrics of a trial's best epoch, measured again at the trial's end, begin with; its last epoch has them."""
BEST_EPOCH = "measured/epoch"
"""Which epoch that was."""

Stored = int | float | str | None
"""What a line of a journal holds under a name."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. `NO_EPOCH`, which stands for none, is false."""

    number: int
    """From 1, those of pretraining counted."""
    step: int
    """Optimiser steps so far."""
    seconds: float
    """Time of training so far, validation included."""
    metrics: Mapping[str, float]
    """`train/...`, `valid/...` (see `study.metrics`), `system/...`; of the last epoch also `measured/...`."""
    outcome: str = ""
    """The trial's state, if this epoch ended it by itself."""
    phase: str = ""
    """`pretraining`, or nothing."""
    node: str = ""
    """The machine that trained it; empty where no study ran it."""
    recorded_at: float | None = None
    """Seconds since 1970; None before it is on record."""

    def __bool__(self) -> bool:
        """Say whether there is an epoch at all."""
        return self.number > 0

    def __getitem__(self, name: str) -> float:
        """Return a metric by its name; raise KeyError without it."""
        return self.metrics[name]

    def get(self, name: str, default: float = math.nan) -> float:
        """Return a metric by its name, or the default without it."""
        return self.metrics.get(name, default)

    @property
    def counts(self) -> bool:
        """Whether the epoch may be a run's best: one of pretraining may not."""
        return self.phase != PRETRAINING

    @property
    def valid(self) -> dict[str, float]:
        """The metrics of the validation split, by their names without `valid/`."""
        return {name[6:]: value for name, value in self.metrics.items() if name.startswith("valid/")}

    @property
    def is_measured(self) -> bool:
        """Whether its validation metrics are those of the measurement at the trial's end."""
        return BEST_EPOCH in self.metrics

    def with_metrics(self, more: Mapping[str, float]) -> Epoch:
        """Return the epoch with more metrics, or other values of those it has."""
        return replace(self, metrics={**self.metrics, **more})

    def to_json(self) -> dict[str, Stored]:
        """Return the epoch flat, as a journal's line has it."""
        stored: dict[str, Stored] = {"epoch": self.number, "step": self.step, "seconds": self.seconds, **self.metrics}
        stored |= {"phase": self.phase} if self.phase else {}
        stored["outcome"] = self.outcome
        stored |= {"node": self.node} if self.node else {}
        return stored if self.recorded_at is None else stored | {"recorded_at": self.recorded_at}

    @classmethod
    def from_json(cls, stored: Mapping[str, Stored]) -> Epoch:
        """Rebuild an epoch from what `to_json` made of it."""
        when = stored.get("recorded_at")
        return cls(
            number=int(number(stored, "epoch")),
            step=int(number(stored, "step")),
            seconds=number(stored, "seconds"),
            metrics={name: number(stored, name) for name in stored if "/" in name},
            outcome=str(stored.get("outcome") or ""),
            phase=str(stored.get("phase") or ""),
            node=str(stored.get("node") or ""),
            recorded_at=None if when is None else number(stored, "recorded_at"),
        )


def number(stored: Mapping[str, Stored], name: str) -> float:
    """Return a number, 0 if there is none; raise TypeError if it is a word."""
    value = stored.get(name)
    if isinstance(value, str):
        raise TypeError(f"{name} is {value[:60]!r}, expected a number")
    return 0 if value is None else value


NO_EPOCH = Epoch(0, 0, 0.0, {})
"""What stands for the best epoch of a trial that has none yet."""
