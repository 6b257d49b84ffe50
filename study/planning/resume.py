"""Going on with a study: as it was defined, with more trials, with points of one's own, or from another place."""

from __future__ import annotations

from collections.abc import Callable

from study.config.connectivity import check_mps, check_ray_address, check_tracking_uri
from study.config.naming import check_study_name
from study.config.request import RunRequest
from study.config.run_options import LARGEST
from study.config.settings import Params
from study.errors import StudyError
from study.planning.plan import grid_points
from study.planning.points import asked_points
from study.record.journal import storage_hint
from study.record.ledger import Ledger
from study.search.definition import Definition
from study.tracking.experiments import move_artifacts
from study.trainable.loading import find

MAY_CHANGE = {
    "resume",
    "storage",
    "address",
    "time_budget",
    "max_gpu_hours",
    "concurrent",
    "mps",
    "trials",
    "tries",
    "try_outside",
    "moved_corpus",
    "stop_when_settled",
    "trainable",
    "function",
}
OPTION_NAMES = {"corpus": "CORPUS", "assignments": "--set", "also": "--search", "floors": "--floor"}
BELONGS_TO_SPACE = {"preset", "config", "assignments", "also"}


def resume_study(request: RunRequest, say: Callable[[str], None]) -> Ledger:
    """Open and lock a study to go on with, and change of it what may change; `say` tells what was found or done.

    Raises StudyError for what may not change, and if the corpus is another one.
    """
    from data.corpus import Corpus

    refuse_changes(request)
    ledger = Ledger.open(request.storage / check_study_name(request.resume or "", "--resume"), request.moved_corpus)
    definition = ledger.definition
    check_code(definition, request)
    check_mps(request.mps, request.address)
    check_ray_address(request.address)
    check_tracking_uri(definition.tracking_uri)
    points = asked_points(request.tries, definition.space, may_be_outside=request.try_outside)
    ledger.lock()
    if definition.corpus and Corpus.open(definition.corpus).fingerprint != definition.corpus_fingerprint:
        raise StudyError(f"{definition.corpus} is not the corpus that {definition.name} was started on; restore it")
    if ledger.moved:
        for line in ledger.moved:
            say(line)
        move_artifacts(definition.tracking_uri)
        ledger.change(corpus=definition.corpus, tracking_uri=definition.tracking_uri, code=definition.code)
    add_trials(ledger, request.trials, points)
    if request.concurrent is not None:
        ledger.change(concurrent=request.concurrent)
    if ledger.num_left() == 0:
        name, hint = definition.name, storage_hint(request.storage)
        say(
            f"{name} has tried all its {ledger.definition.num_trials} trials; nothing is left to do. For more of the"
            f" search: study run --resume {name} --trials N{hint}; for a point of your own: --try"
        )
    return ledger


def check_code(definition: Definition, request: RunRequest) -> None:
    """Raise StudyError unless what trains a study's trials is what trained them, and can be found."""
    code = definition.code
    if request.trainable is not None and (code is None or code.function != request.trainable):
        was = "a network of this package" if code is None else code.name
        raise StudyError(f"{definition.name} is trained by {was}, not by {request.trainable}; start a new study")
    if code is None or request.function is not None:
        return
    if not code.is_in_a_module:
        raise StudyError(f"{code.name} is in no module: give it again, Study.run(function, resume={definition.name!r})")
    find(code)


def refuse_changes(request: RunRequest) -> None:
    """Raise StudyError for an option that a study which goes on does not heed."""
    refused = [name for name in RunRequest.model_fields if name in request.given - MAY_CHANGE]
    if refused:
        names = ", ".join(OPTION_NAMES.get(name, f"--{name.replace('_', '-')}") for name in refused)
        instead = (
            f"; for another space start a new study --from {request.resume}" if BELONGS_TO_SPACE & set(refused) else ""
        )
        raise StudyError(f"--resume goes on with a study as it was defined; leave out {names}{instead}")


def add_trials(ledger: Ledger, trials: int | None, points: list[Params]) -> None:
    """Have the search try so many trials in all, and these points before the others; without a number, on top.

    Raises StudyError for fewer than are on record, for more than a grid has, and of a comparison, whose runs are all
    planned.
    """
    definition = ledger.definition
    if trials is None and not points:
        return
    if definition.is_comparison:
        raise StudyError(f"{definition.name} is a comparison, whose runs are all planned; compare anew by another name")
    total, on_record = definition.num_trials, len(ledger.trials())
    if trials is not None:
        total = definition.num_tested + trials
        if total < on_record:
            raise StudyError(
                f"--trials {trials}: {on_record - definition.num_tested} trials of the search are started or planned;"
                " expected at least so many"
            )
        if definition.sampler == "grid" and total > definition.num_trials:
            total = add_to_grid(ledger, total)
    added = ledger.enqueue(points)
    ledger.change(num_trials=max(total + (added if trials is None else 0), on_record + added))


def add_to_grid(ledger: Ledger, total: int) -> int:
    """Have more of a grid's points tried, up to so many trials in all; return how many those are. Raises StudyError."""
    definition = ledger.definition
    whole = grid_points("grid", definition.space, definition.seed, LARGEST)
    more = [point for point in whole if point not in definition.planned][: total - definition.num_trials]
    if not more:
        raise StudyError(f"the grid of {definition.name} has {len(whole)} points, and each was tried or is planned")
    ledger.change(planned=(*definition.planned, *more))
    ledger.enqueue(more)
    return definition.num_trials + len(more)
