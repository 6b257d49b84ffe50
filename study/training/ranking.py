"""A run's best epoch measured again when training is over: the number by which a study ranks.

While training, each epoch's nll is from few samples. Even without the first term of its bias it is the higher, the
more the latent variable carries, so that it ranks wrongly those that use it. At the end the best weights are measured
with as many samples as about a tenth of the training's own cost allows.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from data.corpus import Split
from model.network.vae import SequenceVAE
from model.weights import load_network
from study.config.training import EvaluationSettings
from study.epoch import BEST_EPOCH, MEASURED
from study.record.places import best_folder
from study.training.checkpoints import Progress
from study.training.evaluation import choose_power, score

COST = 0.2
"""Decoder tokens that measuring may take, as a share of those that training took: a step of training costs about twice
as much a token as one evaluation, so that this is a tenth of the time."""
FEWEST_SAMPLES, MOST_SAMPLES = 16, 128
PILOT_SEQUENCES = 16
PILOT_POWERS = (1.0, 0.6, 0.35, 0.2, 0.1)


def chosen_power(network: SequenceVAE, split: Split, evaluation: EvaluationSettings) -> float:
    """Return the power of the proposal that a small pilot finds best for a network as it is now."""
    if not network.settings.has_latent:
        return 1.0
    rows = min(len(split), evaluation.num_sequences or len(split))
    most_tokens = evaluation.max_decoder_tokens
    return choose_power(network, split, rows, evaluation.batch_size, most_tokens, PILOT_SEQUENCES, PILOT_POWERS)


def num_samples(progress: Progress, split: Split, evaluation: EvaluationSettings) -> int:
    """Return the importance samples a sequence that a last measurement can afford."""
    lengths = split.lengths[: evaluation.num_sequences]
    tokens = int(lengths.sum()) + len(lengths)
    affordable = int(COST * progress.decoder_tokens / max(1, tokens))
    return max(evaluation.num_samples, min(MOST_SAMPLES, max(FEWEST_SAMPLES, affordable)))


def measure_best(
    folder: Path, progress: Progress, split: Split, evaluation: EvaluationSettings, device: torch.device
) -> dict[str, float]:
    """Return what the best weights of a run come to, as metrics of its last epoch; nothing where there are none."""
    if not progress.best_epoch:
        return {}
    network = load_network(best_folder(folder, progress.best_epoch), device)
    scores = score(
        network,
        split,
        num_samples=num_samples(progress, split, evaluation),
        power=progress.power,
        num_sequences=evaluation.num_sequences,
        batch_size=evaluation.batch_size,
        max_decoder_tokens=evaluation.max_decoder_tokens,
    )
    trust = scores.reliability()
    kept = {name: trust[name] for name in ("samples", "proposal_power", "untrusted") if not math.isnan(trust[name])}
    found = scores.metrics(debiased=True) | kept
    return {f"{MEASURED}{name}": value for name, value in found.items()} | {BEST_EPOCH: float(progress.best_epoch)}
