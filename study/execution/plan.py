"""From what the user gave to a study that starts, and what is said when it ends."""

from __future__ import annotations

import math
import os
import random
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import CorpusError
from study.config.connectivity import check_database, check_ray_address, check_tracking_uri
from study.config.naming import absolute_database, check_apart, check_study_name, default_tracking_uri, free_name
from study.config.request import RunRequest
from study.config.run_options import CORPORA, RunOptions, find_corpus
from study.config.settings import Params, Table, merge, nest, parse_assignment, read_preset, read_toml
from study.errors import StudyError, did_you_mean
from study.record.journal import storage_hint
from study.record.ledger import Ledger
from study.record.provenance import here
from study.record.states import State, StudyEnd
from study.search.definition import NEVER, Definition
from study.search.objective import Goal
from study.search.pooling_test import test_points, why_not, with_test
from study.search.space import SCHEDULER_NAMES, SearchSpace, build_space
from study.training.gpus import Sharing, check_share, choose_share, needed_bytes, num_cpus, shown_gpus, slots

if TYPE_CHECKING:
    from rich.console import Console

    from data.corpus import Corpus
    from study.execution.launch import Outcome

REMOTE_CONCURRENT = 16
RESUME_OPTIONS = {"resume", "storage", "address", "time_budget", "max_gpu_hours", "concurrent", "mps"}
OPTION_NAMES = {"corpus": "CORPUS", "assignments": "--set", "also": "--search", "floors": "--floor"}


def new_study(request: RunRequest, command: str, over: Table | None = None) -> Definition:
    """Return the definition of a new study; settings `over` those asked for win. Raises StudyError or CorpusError."""
    from data.corpus import Corpus

    tracking_uri = check_servers(request)
    layers = [read_preset(request.preset)] if request.preset is not None else []
    if request.config:
        layers.append(read_toml(request.config))
    run_tables = [layer.pop("study", {}) for layer in layers]
    # What a preset takes of a GPU is for a cluster, whose GPUs are not known yet; here they are looked at.
    preset_share = run_tables[0].pop("gpus_per_trial", 0.0) if request.preset is not None else 0.0
    space = asked_space(request, layers, over)
    asked = {name: getattr(request, name) for name in request.given & RunOptions.model_fields.keys()}
    options = RunOptions.resolve(*run_tables, asked)
    check_choices(options)
    tested = pooling_test(options, space, asked, over)
    num_searched = num_trials(options, space) if "search" in options.stages else 0
    grid = grid_points(options.sampler, space, space.fixed.seed, num_searched)
    if tested:
        space = with_test(space, tested)
    goal = Goal.parse(options.objective, options.floors, space.fixed.evaluation.collapse_mi_nats)
    name = check_study_name(request.name) if request.name is not None else None
    with tempfile.TemporaryDirectory() as scratch:
        # A dry run leaves nothing behind, a corpus that it had to prepare included.
        corpora = Path(scratch) if request.dry_run else CORPORA
        corpus = Corpus.open(find_corpus(options.corpus, options.vocabulary_size, corpora))
        share = choose_gpus(options, request.address, space, corpus, preset_share)
    storage = request.storage
    definition = Definition(
        name=name or free_name(storage, request.preset or corpus.name),
        identifier=uuid.uuid4().hex,
        corpus=str(corpus.folder),
        corpus_name=corpus.name,
        corpus_fingerprint=corpus.fingerprint,
        space=space,
        goal=goal,
        num_trials=len(tested) + num_searched,
        sampler=options.sampler,
        scheduler=options.scheduler,
        grace_epochs=options.grace_epochs or space.warm_epoch(),
        seed=space.fixed.seed,
        concurrent=choose_concurrent(options, request.address, share),
        cpus_per_trial=options.cpus_per_trial,
        gpus_per_trial=share,
        max_retries=options.max_retries,
        tracking_uri=absolute_database(tracking_uri) or default_tracking_uri(storage),
        optuna_url=request.optuna_url or "",
        command=command,
        provenance=here(),
        planned=(*tested, *grid),
        num_tested=len(tested),
    )
    check_sampler(definition)
    check_apart(storage, definition.name, definition.tracking_uri)
    return definition


def asked_space(request: RunRequest, layers: list[Table], over: Table | None) -> SearchSpace:
    """Return the space that a request's preset, file and options leave; raise StudyError."""
    by_hand = nest(dict(parse_assignment(text) for text in request.assignments))
    if request.seed is not None:
        by_hand["seed"] = request.seed
    # A preset is where one starts from; a file or an option is what one wants.
    own = [{name: table for name, table in layer.items() if name != "search"} for layer in layers]
    wanted = merge([*(own[1:] if request.preset is not None else own), by_hand])
    return build_space([*layers, by_hand, over or {}], request.also, frozenset(wanted))


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
    check_mps(request)
    check_ray_address(request.address)
    check_tracking_uri(tracking_uri)
    check_database(request.optuna_url)
    return tracking_uri


def new_comparison(request: RunRequest, points: list[Params], samples: int, command: str) -> Definition:
    """Return the definition of a comparison of some points: method, pooling, seed. Raises StudyError or CorpusError."""
    if not points or samples < 1:
        raise StudyError(f"--seeds and --samples must be at least 1, got {len(points)} runs and {samples} samples")
    names = ("method", "model.pooling", "seed")
    searched = {name: list(dict.fromkeys(point[name] for point in points if name in point)) or False for name in names}
    # Each trial is trained to its end, collapsed or not.
    over = {"search": {**searched, "model.latent_size": False}, "evaluation": {"collapse_epochs": NEVER}}
    own = {"sampler": "random", "scheduler": "none", "trials": len(points), "stages": ("search",)}
    definition = new_study(request.model_copy(update=own), command, over)
    return replace(
        definition,
        num_trials=len(points),
        planned=tuple(points),
        final_num_samples=samples,
        name=definition.name if request.name else free_name(request.storage, f"compare-{definition.corpus_name}"),
    )


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


def resume_study(request: RunRequest) -> Ledger:
    """Open and lock a study to go on with; raise StudyError if it has ended or its corpus is another one."""
    from data.corpus import Corpus

    ignored = [name for name in RunRequest.model_fields if name in request.given - RESUME_OPTIONS]
    if ignored:
        names = ", ".join(OPTION_NAMES.get(name, f"--{name.replace('_', '-')}") for name in ignored)
        raise StudyError(f"--resume goes on with a study as it was defined; leave out {names}")
    ledger = Ledger.open(request.storage / check_study_name(request.resume or "", "--resume"))
    definition = ledger.definition
    check_mps(request)
    check_ray_address(request.address)
    check_tracking_uri(definition.tracking_uri)
    ledger.lock()
    if Corpus.open(definition.corpus).fingerprint != definition.corpus_fingerprint:
        raise StudyError(f"{definition.corpus} is not the corpus that {definition.name} was started on; restore it")
    return ledger


def start(ledger: Ledger, request: RunRequest, *, show_report: bool = True) -> int:
    """Run a study, new or resumed, to its end or interruption, and say what came out; return the exit code."""
    from study.console import make_console
    from study.execution.launch import Budget, run_study
    from study.execution.live import LiveView
    from study.execution.mps import serving

    definition, name = ledger.definition, ledger.definition.name
    progress = make_console(stderr=True)
    progress.print(
        f"study {name}: {definition.num_trials} trials on {definition.corpus_name},"
        f" {definition.concurrent} at once; Ctrl-C ends it in order",
        markup=False,
    )
    budget = Budget(
        request.time_budget * 60 if request.time_budget is not None else None,
        math.inf if request.max_gpu_hours is None else request.max_gpu_hours,
    )
    try:
        shared = sharing(definition) if request.address is None else None
        if shared is not None:
            progress.print(f"GPUs: {shared}", markup=False)
        view = LiveView(definition, request.max_gpu_hours)
        memory = shared.memory_bytes if shared is not None else ()
        with serving(definition.gpus_per_trial, memory) if request.mps else nullcontext():
            outcome = run_study(ledger, view, address=request.address, budget=budget, with_report=show_report)
    except (StudyError, CorpusError):
        if request.resume is None and not any(trial.started for trial in ledger.trials()):
            # Its name is free again: nothing has been tried.
            ledger.discard()
        raise
    finally:
        ledger.close()
    return conclude(ledger, outcome, progress, show_report=show_report)


def check_mps(request: RunRequest) -> None:
    """Raise StudyError where MPS is asked for on a cluster, whose nodes start it themselves."""
    if request.mps and request.address is not None:
        raise StudyError("--mps starts MPS on this machine; on a cluster its nodes do (cluster.yaml): leave it out")


def conclude(ledger: Ledger, outcome: Outcome, progress: Console, *, show_report: bool) -> int:
    """Say what came out of a run of a study, and how to go on; return the exit code."""
    from study.analysis.seed_noise import known_noise
    from study.console import make_console
    from study.execution.launch import EXIT_INTERRUPTED
    from study.reporting.tables import study_report

    definition, name = ledger.definition, ledger.definition.name
    if show_report:
        trials = ledger.trials()
        make_console().print(study_report(definition, trials, known_noise(ledger, trials)[1]))
    option = storage_hint(ledger.folder.parent)
    if not outcome.recorded:
        progress.print(
            f"MLflow has not heard everything; `study run --resume {name}{option}` sends the rest", markup=False
        )
    ending = outcome.ending
    if ending.end != StudyEnd.COMPLETE:
        progress.print(f"ended early: {ending.reason}; go on with `study run --resume {name}{option}`", markup=False)
        return {StudyEnd.ALL_FAILED: 1, StudyEnd.INTERRUPTED: EXIT_INTERRUPTED}.get(ending.end, 0)
    if not any(trial.state != State.FAILED for trial in ledger.trials()):
        progress.print("every trial failed; `study report` says why", markup=False)
        return 1
    progress.print(f"look again: study report {name}{option}; browse its runs: study ui {name}{option}", markup=False)
    return 0


def check_choices(options: RunOptions) -> None:
    """Raise StudyError unless sampler and scheduler are known."""
    from study.search.samplers import SAMPLER_NAMES

    for kind, name, known in (
        ("sampler", options.sampler, SAMPLER_NAMES),
        ("scheduler", options.scheduler, SCHEDULER_NAMES),
    ):
        if name not in known:
            raise StudyError(f"unknown {kind} {name!r}; {did_you_mean(name, known)}")


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
    if not memory or not Path(definition.corpus).is_dir():
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
