"""From what the user gave to the definition of a study."""

from __future__ import annotations

import os
import random
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from study.config.connectivity import check_database, check_mps, check_ray_address, check_tracking_uri
from study.config.naming import (
    absolute_database,
    check_apart,
    check_study_name,
    default_tracking_uri,
    free_name,
)
from study.config.own_code import OwnCode
from study.config.provenance import here
from study.config.request import RunRequest
from study.config.run_options import CORPORA, SAMPLER_NAMES, SCHEDULER_NAMES, RunOptions, find_corpus
from study.config.settings import Params, Table, merge, nest, own_name, parse_assignment, read_preset, read_toml
from study.errors import StudyError, did_you_mean
from study.planning.own import check_trainable
from study.planning.points import asked_points
from study.planning.takeover import take_over
from study.record.ledger import Ledger
from study.search.definition import Definition
from study.search.objective import Goal
from study.search.pooling_test import test_points, why_not, with_test
from study.search.space import SearchSpace, build_space
from study.tracking.experiments import taken_names
from study.training.gpus import Sharing, check_share, choose_share, needed_bytes, num_cpus, shown_gpus, slots

if TYPE_CHECKING:
    from data.corpus import Corpus

REMOTE_CONCURRENT = 16


class DataOf(NamedTuple):
    """What a study's trials learn from: a corpus, or the name of a trainable that reads its own; see `Definition`."""

    corpus: str
    corpus_name: str
    corpus_fingerprint: str
    code: OwnCode | None = None


def silent(line: str) -> None:
    """Say nothing."""


def new_study(
    request: RunRequest, command: str, over: Table | None = None, say: Callable[[str], None] = silent
) -> Definition:
    """Return the definition of a new study; settings `over` those asked for win, and `say` tells what is taken over.

    Raises StudyError or CorpusError.
    """
    tracking_uri = check_servers(request)
    layers = layers_of(request)
    run_tables = [layer.pop("study", {}) for layer in layers]
    # What a preset takes of a GPU is for a cluster, whose GPUs are not known yet; here they are looked at.
    preset_share = run_tables[0].pop("gpus_per_trial", 0.0) if request.preset is not None else 0.0
    space = asked_space(request, layers, over)
    asked = {name: getattr(request, name) for name in request.given & RunOptions.model_fields.keys()}
    earlier = None if request.from_study is None else earlier_study(request, asked, say)
    options = RunOptions.resolve(*run_tables, asked)
    check_choices(options, is_own=request.code is not None)
    check_trainable(request, space)
    tested = pooling_test(options, space, asked, over)
    num_searched = num_trials(options, space) if "search" in options.stages else 0
    grid = grid_points(options.sampler, space, space.fixed.seed, num_searched)
    tries = asked_points(request.tries, space, may_be_outside=request.try_outside)
    planned = each_once((*tested, *tries, *grid))
    if tested:
        space = with_test(space, tested)
    goal = Goal.parse(options.objective, options.floors, space.fixed.evaluation.collapse_mi_nats)
    data, share = data_and_share(request, options, space, preset_share)
    storage, stem = request.storage, request.preset or data.corpus_name
    address = absolute_database(tracking_uri) or default_tracking_uri(storage)
    definition = Definition(
        name=name_of(request, stem, address),
        identifier=uuid.uuid4().hex,
        corpus=data.corpus,
        corpus_name=data.corpus_name,
        corpus_fingerprint=data.corpus_fingerprint,
        code=data.code,
        space=space,
        goal=goal,
        num_trials=len(planned) if grid else len(tested) + max(num_searched, len(tries)),
        sampler=options.sampler,
        scheduler=options.scheduler,
        grace_epochs=options.grace_epochs or space.warm_epoch(),
        seed=space.fixed.seed,
        concurrent=choose_concurrent(options, request.address, share),
        cpus_per_trial=options.cpus_per_trial,
        gpus_per_trial=share,
        max_retries=options.max_retries,
        tracking_uri=address,
        optuna_url=request.optuna_url or "",
        command=command,
        provenance=here(),
        planned=planned,
        num_tested=len(tested),
    )
    if earlier is not None:
        definition = taking_over(earlier, definition, num_searched, len(tested) + len(tries), say)
    return checked(definition, storage)


def checked(definition: Definition, storage: Path) -> Definition:
    """Return a definition; raise StudyError if its sampler cannot serve it, or its folder has no room."""
    check_sampler(definition)
    check_apart(storage, definition.name, definition.tracking_uri)
    return definition


def name_of(request: RunRequest, stem: str, address: str) -> str:
    """Return the name that was asked for, or a free one; raise StudyError for one that a study cannot have."""
    if request.name is not None:
        return check_study_name(request.name)
    return free_name(request.storage, stem, taken_names(address))


def each_once(points: Sequence[Params]) -> tuple[Params, ...]:
    """Return points without repetitions, in their order: the number of a planned trial is its place."""
    return tuple(point for place, point in enumerate(points) if point not in points[:place])


def taking_over(
    earlier: Ledger, definition: Definition, num_searched: int, place: int, say: Callable[[str], None]
) -> Definition:
    """Return a definition with what is taken over of an earlier study, its points at a place among those planned."""
    taken = take_over(earlier, definition, num_searched)
    for line in taken.notes:
        say(line)
    planned = each_once((*definition.planned[:place], *taken.points, *definition.planned[place:]))
    total = len(planned) if definition.sampler == "grid" else max(definition.num_trials, place + len(taken.points))
    return replace(definition, planned=planned, learned=taken.learned, num_trials=total)


def data_and_share(
    request: RunRequest, options: RunOptions, space: SearchSpace, preset_share: float
) -> tuple[DataOf, float]:
    """Return what a study's trials learn from, its corpus prepared if it has a name, and their share of a GPU."""
    from data.corpus import Corpus

    if (code := request.code) is not None:
        # What it needs of a GPU nobody knows but who asks.
        return DataOf("", code.name.split(" ")[0].replace(":", "."), "", code), options.gpus_per_trial or 0.0
    with tempfile.TemporaryDirectory() as scratch:
        # A dry run leaves nothing behind, a corpus that it had to prepare included.
        corpora = Path(scratch) if request.dry_run else CORPORA
        corpus = Corpus.open(find_corpus(options.corpus, options.vocabulary_size, corpora))
        share = choose_gpus(options, request.address, space, corpus, preset_share)
        return DataOf(str(corpus.folder), corpus.name, corpus.fingerprint), share


def layers_of(request: RunRequest) -> list[Table]:
    """Return the tables of a request's preset and file, in that order."""
    layers = [read_preset(request.preset)] if request.preset is not None else []
    given = [each for each in (request.config, request.space) if each]
    return [*layers, *(dict(each) if isinstance(each, dict) else read_toml(each) for each in given)]


def earlier_study(request: RunRequest, asked: dict[str, object], say: Callable[[str], None]) -> Ledger:
    """Return the study of `--from`; what was not `asked` for is its corpus, and no second pooling test of that."""
    from data.corpus import Corpus

    earlier = Ledger.open(request.storage / check_study_name(request.from_study or "", "--from"))
    definition, name = earlier.definition, request.from_study
    if request.code is not None and definition.goal.ranked != "nll":
        # What the same code yields.
        asked.setdefault("objective", definition.goal.name)
    if request.code is not None or definition.code is not None:
        was, now = (each.name if each else "this package's own network" for each in (definition.code, request.code))
        if was != now:
            raise StudyError(f"--from {name}: its trials are trained by {was}, those of the new study by {now}")
        return earlier
    corpus = asked.setdefault("corpus", definition.corpus)
    is_same = Path(str(corpus)).is_dir() and Corpus.open(str(corpus)).fingerprint == definition.corpus_fingerprint
    if definition.num_tested and is_same and "stages" not in asked:
        asked["stages"] = ("search",)
        say(f"from {name}: its pooling test of this corpus is not repeated; --stages pooling,search does")
    return earlier


def asked_space(request: RunRequest, layers: list[Table], over: Table | None) -> SearchSpace:
    """Return the space that a request's preset, file and options leave; raise StudyError."""
    named = own_name if request.code else str
    by_hand = nest(dict(parse_assignment(text, named) for text in request.assignments))
    if request.seed is not None:
        by_hand["seed"] = request.seed
    # A preset is where one starts from; a file or an option is what one wants.
    own = [{name: table for name, table in layer.items() if name != "search"} for layer in layers]
    wanted = merge([*(own[1:] if request.preset is not None else own), by_hand])
    return build_space([*layers, by_hand, over or {}], request.also, frozenset(wanted), is_own=request.code is not None)


def pooling_test(
    options: RunOptions, space: SearchSpace, asked: Mapping[str, object], over: Table | None
) -> list[Params]:
    """Return the trials of a study's pooling test; none where its space has no room for one and none was asked for.

    Raises StudyError where one was asked for that cannot be had.
    """
    if "pooling" not in options.stages or over is not None:
        return []
    if reason := why_not(space):
        if wanted := [name for name in ("stages", "poolings", "seeds", "test_weights") if name in asked]:
            raise StudyError(f"--{wanted[0].replace('_', '-')}: there can be no pooling test: {reason}")
        if "search" not in options.stages:
            raise StudyError(f"there can be no pooling test, and no search was asked for: {reason}")
        return []
    return test_points(space, options.poolings, options.test_weights, options.seeds)


def check_servers(request: RunRequest) -> str | None:
    """Return the MLflow address that was asked for; raise StudyError unless it, Ray's and Optuna's can be used."""
    tracking_uri = request.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if request.tracking_uri is not None and not request.tracking_uri.strip():
        raise StudyError("--tracking-uri is empty; leave it out to record in a database beside the studies")
    check_mps(request.mps, request.address)
    check_ray_address(request.address)
    check_tracking_uri(tracking_uri)
    check_database(request.optuna_url)
    return tracking_uri


def create(storage: Path, definition: Definition) -> Ledger:
    """Create and lock a study's ledger."""
    return Ledger.create(storage / definition.name, definition)


def grid_points(sampler: str, space: SearchSpace, seed: int, num: int) -> tuple[Params, ...]:
    """Return the points of a grid in an order of the seed's, as many as are tried; none for other samplers."""
    if sampler != "grid":
        return ()
    points = space.grid()
    random.Random(seed).shuffle(points)  # noqa: S311 - an order, no secret
    return tuple(points[:num])


def check_choices(options: RunOptions, *, is_own: bool) -> None:
    """Raise StudyError unless sampler and scheduler are known, and what ranks is what the trials measure."""
    for kind, name, known in (
        ("sampler", options.sampler, SAMPLER_NAMES),
        ("scheduler", options.scheduler, SCHEDULER_NAMES),
    ):
        if name not in known:
            raise StudyError(f"unknown {kind} {name!r}; {did_you_mean(name, known)}")
    if options.objective == "elbo" and not is_own:
        raise StudyError("--objective elbo is for code of your own; this package's network is ranked by its nll")


def check_sampler(definition: Definition) -> None:
    """Raise StudyError if the sampler cannot serve the goal or the space."""
    from study.search.samplers import make_sampler

    make_sampler(definition.sampler, definition.space, definition.goal, definition.seed, 0)


def num_trials(options: RunOptions, space: SearchSpace) -> int:
    """Return how many trials to run: no more than the points of a grid, and one if nothing is searched."""
    if not space.searched:
        return 1
    return min(options.trials, len(space.grid())) if options.sampler == "grid" else options.trials


def choose_gpus(
    options: RunOptions, address: str | None, space: SearchSpace, corpus: Corpus, preset_share: float
) -> float:
    """Return the share of a GPU that a trial gets: what was asked for, or as little as fits on this machine's GPUs.

    On a cluster it is what was asked for, or what the preset says.

    Raises StudyError for a share that no trial could have, or a device that it contradicts.
    """
    device, share = space.fixed.training.device, options.gpus_per_trial
    if share is None and (address is not None or device == "cpu"):
        share = preset_share if device != "cpu" else 0.0
    if share is None:
        at_once = min(num_trials(options, space), options.concurrent or options.trials)
        share = choose_share(shown_gpus(), estimate(space, corpus), at_once, options.cpus_per_trial)
    elif share:
        check_share(share, len(shown_gpus()) if address is None else 1)
    if share and device == "cpu":
        raise StudyError(f"training.device is cpu, but --gpus-per-trial {share:g} holds GPUs; leave out one of them")
    if not share and device.startswith("cuda"):
        raise StudyError(f"training.device is {device}, but trials are given no GPU; add --gpus-per-trial")
    return share


def estimate(space: SearchSpace, corpus: Corpus) -> int:
    """Return the bytes of GPU memory that the largest trial is estimated to need."""
    lengths = corpus.split("train").lengths
    return needed_bytes(space.largest, corpus.vocabulary_size, 2 + (int(lengths.max()) if len(lengths) else 0))


def sharing(definition: Definition) -> Sharing | None:
    """Return how a study's trials lie on this machine's GPUs; None on a CPU."""
    from data.corpus import Corpus

    memory = shown_gpus() if definition.gpus_per_trial else ()
    # A dry run's corpus may be gone again.
    if not memory or not definition.corpus or not Path(definition.corpus).is_dir():
        return None
    return Sharing(memory, definition.gpus_per_trial, estimate(definition.space, Corpus.open(definition.corpus)))


def choose_concurrent(options: RunOptions, address: str | None, share: float) -> int:
    """Return how many trials to run at once: what was asked for, or what this machine or a cluster that grows can."""
    if address is not None:
        return options.concurrent or REMOTE_CONCURRENT
    places = int(num_cpus() / options.cpus_per_trial)
    if share:
        places = min(places, slots(len(shown_gpus()), share))
    return options.concurrent or max(1, min(places, options.trials))
