"""What a study is: everything that running and resuming it needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from study.objectives import Goal
from study.space import SearchSpace

SCHEMA_VERSION = 1


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

    def to_json(self) -> dict[str, Any]:
        """Return the definition as JSON values."""
        return self.__dict__ | {
            "schema_version": SCHEMA_VERSION,
            "space": self.space.to_json(),
            "goal": self.goal.to_json(),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Definition:
        """Rebuild a definition that `to_json` made; raise KeyError, TypeError or ValueError if it is none."""
        if stored.pop("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"expected schema version {SCHEMA_VERSION}")
        space, goal = SearchSpace.from_json(stored.pop("space")), Goal.from_json(stored.pop("goal"))
        return cls(space=space, goal=goal, **stored)
