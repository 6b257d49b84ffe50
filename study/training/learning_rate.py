"""How the learning rate moves: a warm-up, then halving on a plateau or half a cosine.

Halving is the field's base set-up (He et al., arXiv 1901.05534), the cosine that of Loshchilov and Hutter
(arXiv 1608.03983) without restarts.
"""

from __future__ import annotations

import math

from study.config.training import TrainingSettings
from study.training.checkpoints import Progress


def must_halve(progress: Progress, value: float, training: TrainingSettings) -> bool:
    """Say whether validation has stayed worse for so long that the rate is halved; counts the epochs that it has.

    `value` is the criterion of the epoch that has ended. Not before `first_halving_epoch`, pretraining not counted.
    """
    if training.decay != "halving":
        return False
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


def rate_factor(training: TrainingSettings, done: float) -> float:
    """Return what a step's learning rate is of the full one, when so much of all training is done, from 0 to 1."""
    if done < training.warmup_fraction:
        return done / training.warmup_fraction
    if training.decay != "cosine":
        return 1.0
    after = (done - training.warmup_fraction) / (1.0 - training.warmup_fraction)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, after)))
