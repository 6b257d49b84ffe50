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
    DROPPED = "dropped"
    """Ended, and then taken out by its user, who says why: it counts nowhere."""
    WAITING = "waiting"
    """Interrupted, to be gone on with by --resume, or never started."""


COUNTED = (State.COMPLETE, State.PRUNED, State.COLLAPSED, State.FAILED)
"""Ends of trials that count."""
ENDS = (*COUNTED, State.DROPPED)
STATES = tuple(State)
USABLE = (State.COMPLETE, State.PRUNED, State.RUNNING, State.WAITING)
"""States of trials that have something to compare."""


class StudyEnd(StrEnum):
    """How a run of a study ended."""

    COMPLETE = "complete"
    """Every trial that was asked for is over."""
    BUDGET_SPENT = "budget spent"
    SETTLED = "settled"
    """Nothing more than the luck of a seed was to be gained."""
    INTERRUPTED = "interrupted"
    ALL_FAILED = "all failed"
    """Its first trials failed one and all, so that no more were tried."""


@dataclass(frozen=True)
class Ending:
    """How a run of a study ended, and why in words; no words where it is complete."""

    end: StudyEnd
    reason: str = ""


COMPLETE = Ending(StudyEnd.COMPLETE)
SETTLED = Ending(StudyEnd.SETTLED, "as many trials again can be expected to gain less than the seed noise")
INTERRUPTED = Ending(StudyEnd.INTERRUPTED, "interrupted")
