"""When training is over: its epochs or halvings are spent, it has gone on too long without a best, or it collapsed."""

from __future__ import annotations

import math

from model.collapse import is_collapsed
from study.config.settings import Settings
from study.record.states import State
from study.training.checkpoints import Progress


def outcome(progress: Progress, settings: Settings, valid: dict[str, float]) -> State | None:
    """Return why training is over after an epoch, or None if it goes on; counts the epochs collapsed in a row."""
    training, evaluation = settings.training, settings.evaluation
    epoch = progress.epoch - training.pretraining_epochs
    is_warm = epoch >= math.ceil(settings.objective.warmup_fraction * training.epochs)
    collapsed = settings.model.has_latent and is_collapsed(valid["kl"], int(valid["au"]), evaluation.collapse_kl_nats)
    progress.collapsed_epochs = progress.collapsed_epochs + 1 if is_warm and collapsed else 0
    if progress.collapsed_epochs >= evaluation.collapse_epochs:
        return State.COLLAPSED
    patience = training.early_stop_patience
    if patience is not None and progress.epochs_since_best >= patience:
        return State.COMPLETE
    if epoch >= training.epochs or progress.num_halvings >= training.max_halvings:
        return State.COMPLETE
    return None
