"""What training minimises: reconstruction plus weighted KL, with free bits."""

import torch
from torch import Tensor

from model.config import ObjectiveSettings
from model.shapes import Float


def penalised_kl(kl: Float[Tensor, "batch latent"], settings: ObjectiveSettings) -> Float[Tensor, ""]:
    """Return the batch's mean KL in nats a sequence, held up to what free bits leave unpenalised."""
    match settings.free_bits:
        case "none":
            return kl.sum(1).mean()
        case "total":
            return kl.sum(1).clamp(min=settings.free_bits_nats).mean()
        case "per-dimension":
            return kl.clamp(min=settings.free_bits_nats / kl.shape[1]).sum(1).mean()
        case "batch-mean":
            return kl.sum(1).mean().clamp(min=settings.free_bits_nats)


def negative_elbo(
    reconstruction: Float[Tensor, " batch"],
    kl: Float[Tensor, "batch latent"],
    weight: float | Tensor,
    settings: ObjectiveSettings,
) -> Float[Tensor, ""]:
    """Return the training loss in nats a sequence: reconstruction + weight * penalised KL."""
    if isinstance(weight, Tensor):
        return reconstruction.mean() + weight * penalised_kl(kl, settings)
    return torch.add(reconstruction.mean(), penalised_kl(kl, settings), alpha=weight)
