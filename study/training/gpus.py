"""How trials share the GPUs of a machine: what one needs, how many fit, and what each is held to."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.config import EVALUATION_ROWS
from study.errors import StudyError

DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What is there where a driver is: of NVIDIA, of AMD, and of Windows in its Linux. Without one there is no GPU."""

CONTEXT_BYTES = 2**29
"""What a process keeps of a GPU's memory before its first tensor: CUDA's context and its libraries."""

MOST_ON_ONE = 16
"""Trials on one GPU: more of them wait for each other's kernels."""

SLACK = 1.5
"""How much more than what is counted a trial is taken to need: the allocator's blocks, cuDNN's workspace."""


@dataclass(frozen=True)
class Sharing:
    """How a study's trials lie on this machine's GPUs."""

    memory_bytes: tuple[int, ...]
    """Of each GPU."""
    share: float
    """Of a GPU, for each trial."""
    needed_bytes: int
    """What the largest trial is estimated to need, CUDA's context included."""

    @property
    def on_one(self) -> int:
        """Trials that run on a GPU at once."""
        return slots(1, self.share)

    def __str__(self) -> str:
        least = min(self.memory_bytes)
        line = (
            f"{self.on_one} trial{'s' * (self.on_one > 1)} on each of {len(self.memory_bytes)} GPUs of"
            f" {least / 2**30:.0f} GiB, {self.share * least / 2**30:.1f} GiB a trial, of which CUDA itself takes"
            f" {CONTEXT_BYTES / 2**30:.1f} and the largest is estimated to need {self.needed_bytes / 2**30:.1f};"
            f" --gpus-per-trial {self.share:g} says so, 0 trains on the CPU"
        )
        return line if self.needed_bytes <= self.share * least else f"{line}. IT MAY RUN OUT OF MEMORY: give more"


def shown_gpus() -> tuple[int, ...]:
    """Return the bytes of memory of each GPU that PyTorch shows on this machine."""
    if not any(Path(path).exists() for path in DRIVERS):
        return ()
    import torch

    return tuple(torch.cuda.get_device_properties(place).total_memory for place in range(torch.cuda.device_count()))


def num_cpus() -> int:
    """Return the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_share(memory_bytes: tuple[int, ...], needed_bytes: int, trials: int, cpus_per_trial: float) -> float:
    """Return the share of a GPU that a trial is given: as small as memory, CPUs and trials leave it."""
    if not memory_bytes:
        return 0.0
    on_one = min(
        MOST_ON_ONE,
        int(0.95 * min(memory_bytes) / needed_bytes),
        int(num_cpus() / cpus_per_trial / len(memory_bytes)),
        math.ceil(trials / len(memory_bytes)),
    )
    return share_of(max(1, on_one))


def share_of(on_one: int) -> float:
    """Return the largest share of which so many fit a GPU, in Ray's ten thousandths."""
    return math.floor(10_000 / on_one) / 10_000


def slots(num_gpus: int, share: float) -> int:
    """Return how many trials run on so many GPUs at once: a share lies on one of them."""
    return num_gpus * int(1.0 / share + 1e-9)


def check_share(share: float, num_gpus: int) -> None:
    """Raise StudyError for a share of a GPU that no trial of this machine could have."""
    if share > 1.0:
        raise StudyError(f"--gpus-per-trial {share:g}: expected at most 1, since a trial trains on one GPU")
    if share and not num_gpus:
        raise StudyError(
            f"--gpus-per-trial {share:g}, but this machine shows 0 GPUs; use 0 to train on the CPU,"
            " or look at `study doctor`"
        )


def needed_bytes(most: Callable[[str], int], vocabulary_size: int, longest: int) -> int:
    """Estimate the GPU memory of the largest trial of a study, from above, CUDA's context included.

    Weights with gradients and two moments; the states of a batch of the longest sequences, of so many tokens, and three
    copies of its logits; or validation's, if those are more. `most` tells the largest value of a setting.
    """
    hidden, embedding, latent = (most(f"model.{name}_size") for name in ("hidden", "embedding", "latent"))
    both_ways = max(1, most("model.num_encoder_layers")) * (2 if most("model.bidirectional") else 1)
    layers = both_ways + max(1, most("model.num_decoder_layers"))
    tokens = max(most("training.batch_size") * longest, most("training.max_batch_tokens"))
    weights = vocabulary_size * (2 * embedding + hidden) + 4 * hidden * (layers * (embedding + hidden * 3) + 2 * latent)
    # A Transformer's layer keeps some 16 widths a token, and looks at every token from every other.
    states = 2 * (2 * embedding + latent + (8 * hidden + longest) * layers)
    training = tokens * (states + 3 * vocabulary_size)
    evaluating = most("evaluation.max_decoder_tokens") * states // 2 + 3 * EVALUATION_ROWS * vocabulary_size
    return CONTEXT_BYTES + int(SLACK * 4 * (4 * weights + max(training, evaluating)))
