"""Comparisons as studies whose every run is planned: methods on a corpus, or the values of any settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

from study.config.naming import free_name
from study.config.request import RunRequest
from study.config.settings import Params, Table, Value, nest, own_name, parse_assignment
from study.errors import StudyError
from study.planning.plan import asked_space, layers_of, new_study
from study.search.definition import NEVER, Definition
from study.search.pooling_test import METHOD, POOLING, SEED, middle
from study.tracking.experiments import taken_names

AS_PLANNED: dict[str, object] = {"sampler": "random", "scheduler": "none", "stages": ("search",)}


def new_comparison(request: RunRequest, points: list[Params], samples: int, command: str) -> Definition:
    """Return the definition of a comparison of some points: method, pooling, seed. Raises StudyError or CorpusError."""
    if not points or samples < 1:
        raise StudyError(f"--seeds and --samples must be at least 1, got {len(points)} runs and {samples} samples")
    searched: dict[str, object] = {
        name: list(dict.fromkeys(point[name] for point in points if name in point)) or False
        for name in (METHOD, POOLING, SEED)
    }
    searched["model.latent_size"] = False
    return replace(planned(request, points, {}, searched, command), final_num_samples=samples)


def new_variants(request: RunRequest, variants: Sequence[str], seeds: int, command: str) -> Definition:
    """Return the definition of a comparison of settings' values over seeds, all else held. Raises StudyError.

    Each of `variants` is NAME=VALUE,VALUE,...; of several, each combination is a variant. What else is searched is held
    at its default, or in the middle of its range.
    """
    if seeds < 1:
        raise StudyError(f"--seeds must be at least 1, got {seeds}")
    values = dict(parsed(text, is_own=request.code is not None) for text in variants)
    for name, instead in ((SEED, "--seeds"), (METHOD, "--methods")):
        if name in values:
            raise StudyError(f"--variants {name}: give {instead} in its place")
    if len(values) < len(variants):
        raise StudyError("--variants names a setting twice; give all its values at once, NAME=VALUE,VALUE")
    settings = [{name: table for name, table in layer.items() if name != "study"} for layer in layers_of(request)]
    space = asked_space(request, settings, None)
    first = space.fixed.seed
    points = [
        {**dict(zip(values, each, strict=True)), SEED: seed}
        for seed in range(first, first + seeds)
        for each in product(*values.values())
    ]
    held = {name: middle(name, allowed) for name, allowed in space.ranges.items() if name not in (*values, SEED)}
    for point in points:
        for name in values:
            if not space.applies(name, held | point):
                raise StudyError(
                    f"--variants {name}: it means nothing unless {space.condition(name)}; hold that by --set"
                )
    # What means something to one variant is the same for all.
    applied = {
        name: value for name, value in held.items() if any(space.applies(name, held | point) for point in points)
    }
    searched = {name: list(each) for name, each in values.items()} | {SEED: list(range(first, first + seeds))}
    # What means something to none is not there at all.
    left_out = dict.fromkeys(set(space.ranges) - set(applied) - set(searched), False)
    definition = planned(request, points, nest(applied), {**searched, **left_out}, command)
    return replace(definition, compared=tuple(values))


def parsed(text: str, *, is_own: bool) -> tuple[str, list[Value]]:
    """Return the setting that `NAME=VALUE,VALUE,...` names, and its values; raise StudyError."""
    name, _, values = text.partition("=")
    named = own_name if is_own else str
    found = [parse_assignment(f"{name}={value}", named) for value in values.split(",") if value.strip()]
    known = [value for _, value in found if isinstance(value, bool | int | float | str)]
    if len(known) < 2 or len(set(known)) < len(known):
        raise StudyError(
            f"--variants {text}: expected NAME=VALUE,VALUE,... with two different values or more, the first the one"
            " that others are compared with"
        )
    return found[0][0], known


def planned(
    request: RunRequest, points: list[Params], held: Table, searched: Mapping[str, object], command: str
) -> Definition:
    """Return the definition of a study of these points alone, each trained to its end, collapsed or not."""
    evaluation = {**held.get("evaluation", {}), "collapse_epochs": NEVER}
    over = {**held, "evaluation": evaluation, "search": dict(searched)}
    definition = new_study(request.model_copy(update=AS_PLANNED | {"trials": len(points)}), command, over)
    stem = f"compare-{definition.corpus_name}"
    return replace(
        definition,
        num_trials=len(points),
        planned=tuple(points),
        name=request.name or free_name(request.storage, stem, taken_names(definition.tracking_uri)),
    )
