"""Step 1: which card and versions; loss and gradients of one step of each kind against float64 on the CPU."""

from __future__ import annotations

import copy
import os
import platform
import subprocess
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_check.common import Sizes, arguments, make_stepper, precisions, random_batch, tell
from benchmarks.gpu_check.speed import waits
from data.batches import Batch
from model.config import NetworkSettings, ObjectiveSettings
from model.network.vae import SequenceVAE
from model.objective import negative_elbo
from model.registry import POOLINGS_OF_ALL
from study.config.training import TrainingSettings
from study.training.devices import autocast, choose_device

SMALL = Sizes(16, 20, 64, 64, 16, 500)
KINDS: dict[str, dict[str, Any]] = {
    **{f"pooling {name}": {"pooling": name} for name in POOLINGS_OF_ALL},
    **{f"posterior {name}": {"posterior": name} for name in ("batch-norm", "delta", "von-mises-fisher", "none")},
    "bidirectional": {"bidirectional": True, "pooling": "mean"},
    "two layers": {"num_encoder_layers": 2, "num_decoder_layers": 2},
    "GRU": {"encoder": "gru", "decoder": "gru"},
    "Transformer": {
        "encoder": "transformer",
        "decoder": "transformer",
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
    },
}
ALLOWED = {"float32": 1e-4, "TF32": 2e-2, "bfloat16": 1e-1}
"""Relative distance of the gradient from float64's."""


def loss_and_gradient(network: SequenceVAE, tokens: Tensor, lengths: Tensor, noise: Tensor) -> tuple[float, Tensor]:
    """Return the negative ELBO of a batch, and its gradient by all weights as one vector, in float64 on the CPU."""
    posterior = network.encode(tokens, lengths)
    reconstruction = network.reconstruction(tokens, lengths, posterior.sample(noise))
    loss = negative_elbo(reconstruction, posterior.kl(), 0.5, ObjectiveSettings())
    parameters = [each for each in network.parameters() if each.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return float(loss), torch.cat([each.flatten().double().cpu() for each in found if each is not None])


def waits_in(given: dict[str, Any], model: dict[str, Any]) -> str:
    """Return what is said of a step of one kind, a batch's way to the GPU included, that waits."""
    stepper = make_stepper(given, SMALL, model, {"tf32": False})
    tokens, lengths = random_batch(SMALL)
    batch = Batch(tokens, lengths, np.arange(len(tokens)))

    def step() -> None:
        stepper(batch.to(stepper.device), 0.5)

    step()
    return waits(step, stepper.device)


def main() -> None:
    """Print the findings."""
    given = arguments("numbers")
    device = torch.device(given["device"])
    warnings.simplefilter("ignore")
    tell(given, "Python, PyTorch, CUDA", f"{platform.python_version()}, {torch.__version__}, {torch.version.cuda}")
    tell(given, "CPUs", len(os.sched_getaffinity(0)))
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(0)
        tell(given, "card", f"{card.name}, {card.total_memory / 2**30:.1f} GiB, cuDNN {torch.backends.cudnn.version()}")
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, check=False
        )
        tell(given, "driver", done.stdout.decode().strip())
    tokens, lengths = random_batch(SMALL)
    lengths = lengths - torch.arange(len(lengths)) % 9
    tokens = tokens.masked_fill(torch.arange(tokens.shape[1]) >= lengths[:, None], 0)
    for precision, values in precisions(given).items():
        training = TrainingSettings(device=given["device"], **values)
        choose_device(training)
        worst, where = 0.0, ""
        for kind, model in KINDS.items():
            settings = NetworkSettings(
                embedding_size=SMALL.embedding_size,
                hidden_size=SMALL.hidden_size,
                latent_size=SMALL.latent_size,
                input_dropout=0.0,
                output_dropout=0.0,
                **model,
            )
            torch.manual_seed(0)
            network = SequenceVAE(settings, SMALL.vocabulary_size)
            exact_network = copy.deepcopy(network).double()
            noise = torch.randn(len(tokens), settings.noise_size)
            exact_loss, exact = loss_and_gradient(exact_network, tokens, lengths, noise.double())
            network.to(device)
            with autocast(device, training):
                loss, gradient = loss_and_gradient(network, tokens.to(device), lengths, noise.to(device))
            distance = float((gradient - exact).norm() / exact.norm())
            distance = max(distance, abs(loss - exact_loss) / abs(exact_loss))
            if distance > worst:
                worst, where = distance, kind
        if device.type == "cuda" and precision == "float32":
            waiting = [kind for kind, model in KINDS.items() if waits_in(given, model) != "no"]
            tell(given, f"of {len(KINDS)} kinds, steps that wait for the GPU", ", ".join(waiting) or "none")
        verdict = "holds" if worst <= ALLOWED[precision] else "DOES NOT HOLD"
        tell(
            given,
            f"{precision}: furthest of {len(KINDS)} kinds from float64, relative",
            f"{worst:.1e} ({where}); at most {ALLOWED[precision]:g}: {verdict}",
        )


if __name__ == "__main__":
    main()
