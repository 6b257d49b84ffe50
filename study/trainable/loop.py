"""Training by a trainable of the user's own, as a generator of epochs; it knows neither Ray nor MLflow."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from study.config.settings import Settings, told
from study.epoch import Epoch
from study.errors import StudyError, first_line
from study.record.journal import read_journal
from study.record.states import State
from study.trainable.loading import Trainable
from study.trainable.measures import measure, number
from study.training.ending import collapse_ends, collapsed_so_far

TRACEBACK = "error.txt"
"""In a trial's folder, where the user's code failed."""


class TrainableError(StudyError):
    """The trainable failed, or yielded what is no epoch; repeating it would do the same."""


def train_own(
    function: Trainable,
    settings: Settings,
    folder: Path,
    *,
    ranked: str = "nll",
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Epoch]:
    """Yield each epoch that a trainable yields beyond those on record in the trial's folder.

    A trainable that was interrupted is called again with the same folder. It may begin from the first epoch, whose
    repetitions are left out, or go on from a checkpoint of its own and say by `epoch` where that is. The last epoch,
    of `training.epochs`, has an outcome, and one that ends in collapse; of a trainable that ends by itself none has.
    Raises TrainableError.
    """
    before = read_journal(folder)
    seen, seconds = (before[-1].number, before[-1].seconds) if before else (0, 0.0)
    collapsed: list[float] = []
    for row in before:
        collapsed = collapsed_so_far(collapsed, row.number, settings, known(row.valid))
    last, started = 0, time.monotonic()
    for given in yielded(function, settings, folder):
        last = number_of(given, last)
        if last <= seen:
            started = time.monotonic()
            continue
        row, collapsed = epoch_of(given, last, seconds + time.monotonic() - started, collapsed, settings, ranked)
        yield row
        if row.outcome or should_stop():
            return
        seconds, started = row.seconds, time.monotonic()
    if last == 0 and not before:
        raise TrainableError("the trainable yielded no epoch")


def yielded(function: Trainable, settings: Settings, folder: Path) -> Iterator[object]:
    """Yield what a trainable yields; raise TrainableError for whatever it raises, its traceback in the folder."""
    rows = None
    try:
        found = function(told(settings), folder, settings.seed)
        rows = iter([found] if isinstance(found, Mapping) else found)
        yield from rows
    except StudyError as error:
        raise TrainableError(str(error)) from None
    except Exception as error:
        # Whatever the user's code raises.
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRACEBACK).write_text("".join(traceback.format_exception(error)), "utf-8")
        raise TrainableError(f"{type(error).__name__}: {first_line(error)} (whole in {folder / TRACEBACK})") from None
    finally:
        close = getattr(rows, "close", None)
        if callable(close):
            close()


def number_of(given: object, last: int) -> int:
    """Return the number of a yielded epoch: the one that it says, or the next; raise TrainableError."""
    said = given.get("epoch") if isinstance(given, Mapping) else None
    if said is None:
        return last + 1
    try:
        found = number("epoch", said)
    except StudyError as error:
        raise TrainableError(str(error)) from None
    if found != int(found) or found <= last:
        raise TrainableError(f"the trainable yielded epoch {found:g} after epoch {last}; expected a later whole number")
    return int(found)


def epoch_of(
    given: object, place: int, seconds: float, collapsed: list[float], settings: Settings, ranked: str
) -> tuple[Epoch, list[float]]:
    """Return a yielded epoch, and the KL of each of the epochs collapsed in a row up to it; raise TrainableError."""
    try:
        metrics = measure(given, ranked)
        step = number("step", given.get("step", place)) if isinstance(given, Mapping) else place
    except StudyError as error:
        raise TrainableError(str(error)) from None
    row = Epoch(place, int(step), seconds, metrics)
    if not math.isfinite(score := row[f"valid/{ranked}"]):
        raise TrainableError(f"the {ranked} became {score} in epoch {place}")
    collapsed = collapsed_so_far(collapsed, place, settings, known(row.valid))
    outcome = ""
    if collapse_ends(collapsed, place, settings):
        outcome = State.COLLAPSED.value
    elif place >= settings.training.epochs:
        outcome = State.COMPLETE.value
    return Epoch(place, int(step), seconds, metrics, outcome), collapsed


def known(valid: Mapping[str, float]) -> dict[str, float]:
    """Return validation metrics with a mutual information whose error is unknown as exact."""
    return {"mi_se": 0.0, **valid}
