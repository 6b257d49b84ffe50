"""Optuna's samplers by name, set up for the kind of space and goal that studies have."""

from __future__ import annotations

import warnings

import numpy as np
import optuna

from study.config.run_options import SAMPLER_NAMES
from study.errors import StudyError
from study.search.objective import Goal
from study.search.space import SearchSpace

STARTUP_TRIALS = 8
"""Random trials before a model-based sampler trusts its model."""


def make_sampler(  # noqa: PLR0911 - one a sampler
    name: str, space: SearchSpace, goal: Goal, seed: int, num_trials: int, num_tested: int = 0
) -> optuna.samplers.BaseSampler:
    """Return the sampler of that name for a study that has so many trials, the first of them a pooling test's.

    Its random numbers follow from the seed and that count alone, so that a resumed study goes on as it
    would have. Raises StudyError if the name is unknown or the sampler cannot do what the goal asks.
    """
    # What the pooling test tries is the same but for pooling and weight: it starts no model, but every model knows it.
    startup = STARTUP_TRIALS + num_tested
    drawn = int(np.random.SeedSequence([seed, num_trials]).generate_state(1)[0])
    if name == "cma-es" and goal.is_pareto:
        raise StudyError("cma-es cannot search for a Pareto set; use tpe, nsga2, gp, qmc or random")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "tpe":
                return optuna.samplers.TPESampler(
                    seed=drawn, n_startup_trials=startup, group=True, multivariate=True, constant_liar=True
                )
            case "random":
                return optuna.samplers.RandomSampler(seed=drawn)
            case "grid":
                # Its points are enqueued when the study is created.
                return optuna.samplers.RandomSampler(seed=drawn)
            case "qmc":
                return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
            case "gp":
                return optuna.samplers.GPSampler(seed=drawn, n_startup_trials=startup)
            case "cma-es":
                return optuna.samplers.CmaEsSampler(
                    seed=drawn, n_startup_trials=startup, warn_independent_sampling=False
                )
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=drawn, population_size=STARTUP_TRIALS)
    raise StudyError(f"unknown sampler {name!r}; expected one of {', '.join(SAMPLER_NAMES)}")
