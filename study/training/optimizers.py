"""The optimisers of a network, and the clipping of its gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from model.network.vae import SequenceVAE
from study.config.settings import Settings


def make_optimizers(network: SequenceVAE, settings: Settings) -> dict[str, torch.optim.Optimizer]:
    """Return one optimiser for the encoder and one for the decoder, as the field's base set-up has them.

    Plain SGD on the CPU moves only the embeddings of the words in a batch: the gradient of all others is zero. (Adam
    moves every word by its momentum; on a GPU, finding the words of a batch would have the host wait.)
    """
    training = settings.training
    learning_rate: float | Tensor = training.learning_rate
    device = next(network.parameters()).device
    graphed = training.cuda_graph and device.type == "cuda"
    if graphed:
        # What a recorded step reads anew each time.
        learning_rate = torch.tensor(training.learning_rate, device=device)
    made: dict[str, torch.optim.Optimizer] = {}
    for name, part in (("encoder", network.encoder), ("decoder", network.decoder)):
        if part is None:
            continue
        parameters = [parameter for parameter in part.parameters() if parameter.requires_grad]
        sparse = training.optimizer == "sgd" and parameters[0].device.type == "cpu"
        part.embedding.sparse = sparse
        match training.optimizer:
            case "sgd":
                made[name] = torch.optim.SGD(parameters, learning_rate, fused=not sparse)
            case "adam":
                made[name] = torch.optim.Adam(parameters, learning_rate, fused=True, capturable=graphed)
            case "adamw":
                made[name] = torch.optim.AdamW(
                    parameters, learning_rate, weight_decay=training.weight_decay, fused=True, capturable=graphed
                )
    return made


def clip_gradients(parameters: Iterable[nn.Parameter], largest_norm: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `largest_norm`; return the norm that they had.

    As `torch.nn.utils.clip_grad_norm_`, and of sparse gradients too. Does not wait for a GPU.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            # A word that stands twice in a batch has one gradient.
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad._values())
        else:
            values.append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(values)
    torch._foreach_mul_(values, (largest_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
