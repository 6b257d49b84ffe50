"""The pooling test: a study's first trials, which ask one thing alone, whether pooling helps on this corpus.

Each pooling is trained with each of a few KL weights and each of a few seeds, to the end, all else equal. Encoders of
equal shape start from equal weights and see equal batches where their seeds are equal, so that runs are pairs. What the
search finds afterwards are good settings, and no evidence on pooling: its sampler chose them.
"""

from __future__ import annotations

from collections.abc import Sequence

from study.config.settings import Params, Value, defaults
from study.errors import StudyError, did_you_mean
from study.search.ranges import Range
from study.search.space import SearchSpace

POOLING, WEIGHT, SEED, METHOD = "model.pooling", "objective.kl_weight", "seed", "method"
REFERENCE = "last"
"""What every other pooling is compared with."""
POOLINGS = (REFERENCE, "mean", "max")
WEIGHTS = (0.15, 0.3, 0.6)
"""KL weights of the test where the weight is searched: encoders differ most below the weight at which they collapse."""
LANGUAGE_MODEL = "language-model"


def why_not(space: SearchSpace) -> str:
    """Return why a space has no pooling test, or nothing."""
    pooling = space.ranges.get(POOLING)
    if pooling is None or REFERENCE not in (pooling.values or ()) or len(pooling.values or ()) < 2:
        return f"{POOLING} is not searched among {REFERENCE} and others"
    for name in (SEED, METHOD):
        if name in space.ranges:
            return f"{name} is searched"
    if not space.fixed.model.has_latent:
        return "a language model has no encoder"
    return ""


def test_points(
    space: SearchSpace, poolings: Sequence[str] | None, weights: Sequence[float] | None, num_seeds: int
) -> list[Params]:
    """Return the trials of a space's pooling test, seed by seed, the language model last; raise StudyError.

    Poolings are those asked for, or last, mean and max, or where neither mean nor max is searched all that are. What
    else is searched is held at its default, or where its range has not that, in the middle of it.
    """
    known = [str(value) for value in space.ranges[POOLING].values or ()]
    usual = [name for name in POOLINGS if name in known]
    chosen = list(dict.fromkeys([REFERENCE, *(poolings or (usual if len(usual) > 1 else known))]))
    for name in chosen:
        if name not in known:
            raise StudyError(f"--poolings: {name} is not searched; {did_you_mean(name, known)}")
    if len(chosen) < 2:
        raise StudyError(f"--poolings: expected at least one beside {REFERENCE}, which is always tested")
    held = {name: middle(name, allowed) for name, allowed in space.ranges.items() if name not in (POOLING, WEIGHT)}
    points: list[Params] = []
    for seed in range(space.fixed.seed, space.fixed.seed + num_seeds):
        for weight in test_weights(space, weights):
            for pooling in chosen:
                point: Params = {SEED: seed}
                for name in space.ranges:
                    value = pooling if name == POOLING else weight if name == WEIGHT else held.get(name)
                    if value is not None and space.applies(name, point):
                        point[name] = value
                points.append(point)
    # What of the user's own code would be a language model, nobody knows.
    return points if space.is_own else [*points, {METHOD: LANGUAGE_MODEL, SEED: space.fixed.seed}]


def test_weights(space: SearchSpace, weights: Sequence[float] | None) -> list[float]:
    """Return the KL weights of a test: those asked for, or the usual of those searched, or the one that is fixed."""
    allowed = space.ranges.get(WEIGHT)
    if allowed is None:
        if weights is not None:
            raise StudyError(f"--test-weights: {WEIGHT} is held at {space.fixed.objective.kl_weight:g}; leave one out")
        return [space.fixed.objective.kl_weight]
    if weights is not None:
        for weight in weights:
            if not allowed.holds(weight):
                raise StudyError(f"--test-weights: {weight:g} is not among the KL weights that are searched")
        return list(weights)
    usual = [weight for weight in WEIGHTS if allowed.holds(weight)]
    return usual or [float(value) for value in allowed.grid(3)]


def middle(name: str, allowed: Range) -> Value:
    """Return a setting's default if its range has it, else a value in the middle of the range."""
    usual = defaults().get(name)
    if isinstance(usual, bool | int | float | str) and allowed.holds(usual):
        return usual
    values = allowed.grid(3)
    return values[len(values) // 2]


def with_test(space: SearchSpace, points: Sequence[Params]) -> SearchSpace:
    """Return a space whose planned trials may have what only a pooling test tries: seeds, and a language model."""
    seeds = tuple(dict.fromkeys(point[SEED] for point in points))
    only_planned = {SEED: Range(values=seeds)} | ({} if space.is_own else {METHOD: Range(values=(LANGUAGE_MODEL,))})
    return SearchSpace(space.fixed, space.ranges | only_planned, space.kept, frozenset(only_planned), space.is_own)
