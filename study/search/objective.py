"""What a study looks for: likelihood among models that use their latent variable, or the trade-off itself."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from model.collapse import COLLAPSED_MI_NATS, LITTLE_MI_NATS, highest_mi
from study.config.run_options import OBJECTIVE_NAMES
from study.epoch import Epoch
from study.errors import StudyError, did_you_mean
from study.metrics import FLOORS


@dataclass(frozen=True)
class Goal:
    """`nll` (lowest among feasible trials) or `pareto` (low nll, high mi), and what makes a trial feasible.

    `elbo` is the lowest minus ELBO, for code of the user's own that computes nothing better: a bound, which a better
    posterior lowers at an equal likelihood. All metrics are those of the validation split at KL weight 1, so that no
    searched setting moves them.
    A trial is feasible if it has not collapsed and reaches every floor; unless another is given, the floor of the
    mutual information is 0.5 nats, and 0 takes it away.
    """

    name: str = "nll"
    floors: tuple[tuple[str, float], ...] = ()
    collapse_mi_nats: float = COLLAPSED_MI_NATS

    @classmethod
    def parse(cls, name: str, floors: Sequence[str], collapse_mi_nats: float) -> Goal:
        """Return the goal of an --objective and its --floor METRIC=VALUE; raise StudyError."""
        if name not in OBJECTIVE_NAMES:
            raise StudyError(f"unknown objective {name!r}; {did_you_mean(name, OBJECTIVE_NAMES)}")
        parsed: list[tuple[str, float]] = []
        for floor in floors:
            match = re.fullmatch(r"\s*(\w+)\s*=\s*([0-9.eE+-]+)\s*", floor)
            if match is None or match[1] not in FLOORS:
                raise StudyError(f"expected --floor METRIC=VALUE with one of {', '.join(FLOORS)}, got {floor!r}")
            try:
                least = float(match[2])
            except ValueError:
                raise StudyError(f"--floor {floor}: {match[2]} is no number") from None
            if not math.isfinite(least):
                raise StudyError(f"--floor {floor}: no trial reaches {least}; give a number")
            if any(name == match[1] for name, _ in parsed):
                raise StudyError(f"--floor {match[1]} is given twice; give each metric one floor")
            parsed.append((match[1], least))
        if not any(name == "mi" for name, _ in parsed):
            parsed.append(("mi", LITTLE_MI_NATS))
        return cls(name, tuple((name, least) for name, least in parsed if least > 0), collapse_mi_nats)

    @property
    def is_pareto(self) -> bool:
        """Whether two values are optimised at once."""
        return self.name == "pareto"

    @property
    def ranked(self) -> str:
        """The metric by which trials rank, `nll` or `elbo`."""
        return "elbo" if self.name == "elbo" else "nll"

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Optuna's direction of each value."""
        return ["minimize", "maximize"] if self.is_pareto else ["minimize"]

    @property
    def metric_names(self) -> list[str]:
        """The name of each value."""
        return [f"valid/{self.ranked}", "valid/mi"] if self.is_pareto else [f"valid/{self.ranked}"]

    def values(self, best: Epoch) -> list[float]:
        """Return the values of a trial whose best epoch is this."""
        return [float(best[name]) for name in self.metric_names]

    def constraints(self, best: Epoch) -> dict[str, float]:
        """Return by how much a trial misses each condition, at most 0 where it holds; nothing without an epoch."""
        if not best:
            return {}
        shortfall = self.collapse_mi_nats - highest_mi(float(best["valid/mi"]), float(best.get("valid/mi_se")))
        violations = {"not collapsed": shortfall if self.collapse_mi_nats > 0 else 0.0}
        return violations | {f"{name} floor": least - best[f"valid/{name}"] for name, least in self.floors}

    def missed_by(self, best: Epoch) -> float:
        """Return by how much a trial with this best epoch misses the conditions, all together; 0 where it may win.

        What is not known is missed without bound.
        """
        violations = self.constraints(best).values()
        return sum(math.inf if math.isnan(violation) else max(0.0, violation) for violation in violations)

    def is_feasible(self, best: Epoch) -> bool:
        """Say whether a trial with this best epoch may win; one without any may not."""
        return bool(best) and self.missed_by(best) == 0

    def to_json(self) -> dict[str, object]:
        """Return what `from_json` rebuilds the goal from."""
        return {
            "name": self.name,
            "floors": [list(floor) for floor in self.floors],
            "collapse_mi_nats": self.collapse_mi_nats,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> Goal:
        """Rebuild a goal that `to_json` stored; raise ValueError if it is none."""
        # Of studies of 0.1, whose threshold was one of KL.
        named = {"collapse_mi_nats" if name == "collapse_kl_nats" else name: value for name, value in stored.items()}
        return TypeAdapter(cls).validate_python(named)


def pareto_front(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the `[points, objectives]` (all minimised) that no other point beats or equals in all of them.

    Of points that are equal in everything, each is kept.
    """
    no_worse = np.all(points[None, :, :] <= points[:, None, :], axis=2)
    better = np.any(points[None, :, :] < points[:, None, :], axis=2)
    return np.asarray(~np.any(no_worse & better, axis=1))
