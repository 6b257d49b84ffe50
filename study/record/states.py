"""What can become of a trial, and of a run of a study."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """What became of a trial; written as these words."""

    COMPLETE = "complete"
    """Trained to its end."""
    PRUNED = "pruned"
    """Ended by the schedule."""
    COLLAPSED = "collapsed"
    """Ended because its posterior collapsed."""
    FAILED = "failed"
    """Broken, with a reason."""
    RUNNING = "running"
    """Being trained."""
    WAITING = "waiting"
    """Interrupted, to be gone on with by --resume, or never started."""


ENDS = (State.COMPLETE, State.PRUNED, State.COLLAPSED, State.FAILED)
STATES = tuple(State)
USABLE = (State.COMPLETE, State.PRUNED, State.RUNNING, State.WAITING)
"""States of trials that have something to compare."""


class StudyEnd(StrEnum):
    """How a run of a study ended."""

    COMPLETE = "complete"
    """Every trial that was asked for is over."""
    BUDGET_SPENT = "budget spent"
    INTERRUPTED = "interrupted"
    ALL_FAILED = "all failed"
    """Its first trials failed one and all, so that no more were tried."""


@dataclass(frozen=True)
class Ending:
    """How a run of a study ended, and why in words; no words where it is complete."""

    end: StudyEnd
    reason: str = ""


COMPLETE = Ending(StudyEnd.COMPLETE)
INTERRUPTED = Ending(StudyEnd.INTERRUPTED, "interrupted")
