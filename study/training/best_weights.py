"""Where a run keeps the weights of its best epochs, and which of them nothing needs any more."""

from __future__ import annotations

import shutil
from pathlib import Path

from data.corpus import VOCABULARY, Corpus
from data.files import remove_files
from model.network.vae import SequenceVAE
from model.weights import DESCRIPTION, WEIGHTS, save_network
from study.record.places import BEST, best_folder
from study.training.checkpoints import Progress

BEST_FILES = (WEIGHTS, DESCRIPTION, VOCABULARY)
"""What is in a folder of weights."""


def keep_if_best(
    folder: Path,
    progress: Progress,
    value: float,
    network: SequenceVAE,
    corpus: Corpus,
    *,
    valid: dict[str, float],
    dimensions: dict[str, list[float]],
) -> None:
    """Write a network's weights, and what is known of them, if its `value` after this epoch is the lowest so far."""
    if progress.best_value is not None and value >= progress.best_value:
        progress.epochs_since_best += 1
        return
    progress.best_value, progress.best_epoch, progress.epochs_since_best = value, progress.epoch, 0
    best = best_folder(folder, progress.epoch)
    best.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(corpus.folder / VOCABULARY, best / VOCABULARY)
    save_network(
        network,
        best,
        corpus=corpus.name,
        corpus_fingerprint=corpus.fingerprint,
        settings=progress.settings,
        epoch=progress.epoch,
        valid=valid,
        dimensions=dimensions,
        cleaning=corpus.cleaning,
    )
    remove_unneeded_best(folder, progress)


def remove_unneeded_best(folder: Path, progress: Progress) -> None:
    """Remove best weights but the newest three: two checkpoints and the present may each need one."""
    for old in best_folders(folder)[:-3]:
        if old != best_folder(folder, progress.best_epoch):
            remove_files(old, BEST_FILES)


def best_folders(folder: Path) -> list[Path]:
    """Return where a run has weights of epochs that were its best so far, the newest last."""
    return sorted(path.parent for path in folder.glob(f"{BEST}-*/{WEIGHTS}") if path.parent.name[5:].isdecimal())
