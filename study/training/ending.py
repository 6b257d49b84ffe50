"""When training is over: its epochs or halvings are spent, it has gone on too long without a best, or it collapsed.

Collapse ends a run by evidence alone, since a latent variable may come back after the KL weight has stopped rising. It
must have carried nothing for several epochs in a row that were at the final weight from their first step on, its KL
must not have risen over them, and half of training must be over. `benchmarks/endings.py` counts on recorded curves what
that saves, and whom it would have lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from model.collapse import is_collapsed
from study.config.settings import Settings
from study.record.states import State
from study.training.checkpoints import Progress

LEAST_FRACTION = 0.5
"""The part of training before whose end nothing is ended as collapsed."""
RISEN = 1.2
"""A latent variable whose KL has become so many times what it was is on its way back."""


def outcome(progress: Progress, settings: Settings, valid: Mapping[str, float]) -> State | None:
    """Return why training is over after an epoch, or None if it goes on; notes the epochs collapsed in a row."""
    training = settings.training
    epoch = progress.epoch - training.pretraining_epochs
    progress.collapsed_kl = collapsed_so_far(progress.collapsed_kl, epoch, settings, valid)
    if collapse_ends(progress.collapsed_kl, epoch, settings):
        return State.COLLAPSED
    patience = training.early_stop_patience
    if patience is not None and progress.epochs_since_best >= patience:
        return State.COMPLETE
    if epoch >= training.epochs or progress.num_halvings >= training.max_halvings:
        return State.COMPLETE
    return None


def collapsed_so_far(before: list[float], epoch: int, settings: Settings, valid: Mapping[str, float]) -> list[float]:
    """Return the KL of each epoch that carried nothing, in a row up to this one and at the final weight throughout."""
    at_final_weight = epoch > math.ceil(settings.objective.warmup_fraction * settings.training.epochs)
    threshold = settings.evaluation.collapse_mi_nats
    collapsed = settings.model.has_latent and is_collapsed(valid["mi"], valid["mi_se"], threshold)
    return [*before, valid["kl"]] if at_final_weight and collapsed else []


def collapse_ends(kl_nats: Sequence[float], epoch: int, settings: Settings) -> bool:
    """Say whether training ends as collapsed, by the KL of the epochs collapsed in a row."""
    needed = settings.evaluation.collapse_epochs
    if len(kl_nats) < needed or epoch < LEAST_FRACTION * settings.training.epochs:
        return False
    return kl_nats[-1] <= RISEN * kl_nats[-needed]
