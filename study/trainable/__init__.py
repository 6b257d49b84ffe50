"""Training code of the user's own under a study: a function, or a command that prints; helpers for such code.

A trainable is `train(settings, folder, seed)`: an iterator of mappings, one an epoch. See docs/own-model.md.
"""

from study.trainable.helpers import epochs_done as epochs_done
from study.trainable.helpers import set_aside as set_aside
