"""Halving the learning rate on a plateau, as the field's base set-up does (He et al., arXiv 1901.05534)."""

from __future__ import annotations

from study.config.settings import TrainingSettings
from study.training.checkpoints import Progress


def must_halve(progress: Progress, value: float, training: TrainingSettings) -> bool:
    """Say whether validation has stayed worse for so long that the rate is halved; counts the epochs that it has.

    `value` is the criterion of the epoch that has ended. Not before `first_halving_epoch`, pretraining not counted.
    """
    if progress.plateau_value is None or value <= progress.plateau_value:
        progress.plateau_value, progress.epochs_without_better = value, 0
        return False
    progress.epochs_without_better += 1
    epoch = progress.epoch - training.pretraining_epochs
    if progress.epochs_without_better < training.halving_patience or epoch < training.first_halving_epoch:
        return False
    progress.plateau_value, progress.epochs_without_better = value, 0
    progress.num_halvings += 1
    return True
