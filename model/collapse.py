"""How much of its input a latent variable carries, and when that is nothing; imports no torch.

Judged by the mutual information I(x; z) under q, which is 0 exactly where every input has the same posterior. KL and
active units are neither necessary nor sufficient: a posterior that is the same for all inputs can be far from the
prior, and one unit can move a little without telling any input from another.
"""

import math
from enum import StrEnum

COLLAPSED_MI_NATS = 0.1
"""A posterior has collapsed if its mutual information is below this, beyond its error; a setting may say otherwise."""

LITTLE_MI_NATS = 0.5
"""A latent variable that carries less says little about its input, collapsed or not."""

ERRORS = 2.0
"""Standard errors that an estimate is given: about 95 %."""

ACTIVE_VARIANCE = 0.01
"""A latent dimension is active if its posterior mean varies by at least this over the inputs."""


class Use(StrEnum):
    """What a latent variable carries of its input."""

    COLLAPSED = "collapsed"
    LITTLE = "carries little"
    USED = "used"


def highest_mi(mi_nats: float, error_nats: float) -> float:
    """Return the most that a mutual information may be, by its estimate and standard error; an unknown error is 0."""
    return mi_nats + ERRORS * (0.0 if math.isnan(error_nats) else error_nats)


def use_of(mi_nats: float, error_nats: float, collapsed_below: float = COLLAPSED_MI_NATS) -> Use:
    """Return what a latent variable carries, by its mutual information and that estimate's standard error.

    It has collapsed if even the estimate and twice its error are below the threshold; a threshold of 0 is never met.
    """
    if collapsed_below > 0 and highest_mi(mi_nats, error_nats) < collapsed_below:
        return Use.COLLAPSED
    return Use.LITTLE if mi_nats < LITTLE_MI_NATS else Use.USED


def is_collapsed(mi_nats: float, error_nats: float, collapsed_below: float = COLLAPSED_MI_NATS) -> bool:
    """Say whether a latent variable carries nothing."""
    return use_of(mi_nats, error_nats, collapsed_below) == Use.COLLAPSED
