"""A trial as a study's record has it, and which of its epochs was the best."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from study.definition import Definition

ENDS = ("complete", "pruned", "collapsed", "failed")
STATES = (*ENDS, "running", "waiting")
"""What can have become of a trial: trained to its end; ended by the schedule; ended because its posterior
collapsed; broken (with a reason); being trained; interrupted, to be gone on with by --resume."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the ledger has it."""

    number: int
    state: str
    reason: str
    params: dict[str, Any]
    rows: list[dict[str, Any]] = field(repr=False)
    seconds: float
    feasible: bool
    best: dict[str, Any] = field(repr=False)
    """The row of the best epoch; empty before the first one."""
    run_id: str | None
    started: bool
    """Whether it has ever been handed out: an enqueued trial waits before that."""


def best_row(rows: list[dict[str, Any]], definition: Definition) -> dict[str, Any]:
    """Return the row with the best validation by the study's criterion, or an empty one."""
    criterion = f"valid/{definition.space.fixed.evaluation.criterion}"
    finite = [row for row in rows if math.isfinite(row.get(criterion, math.nan)) and "phase" not in row]
    return min(finite, key=lambda row: row[criterion], default={})
