"""Training code of the user's own under a study: a function, or a command that prints; helpers for such code.

A trainable is `train(settings, folder, seed)`: an iterator of mappings, one an epoch. See docs/own-model.md.
"""

from study.trainable.helpers import epochs_done, set_aside

__all__ = ["epochs_done", "set_aside"]
