"""Which settings make no sense together, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from model.config import NetworkSettings, ObjectiveSettings
from study.config.training import TrainingSettings


class Chosen(NamedTuple):
    """The tables of settings that are looked at."""

    model: NetworkSettings
    objective: ObjectiveSettings
    training: TrainingSettings


USED: dict[str, Callable[[Chosen], bool]] = {
    "model.posterior = none": lambda each: not each.model.has_latent,
    "model.posterior = von-mises-fisher": lambda each: each.model.posterior == "von-mises-fisher",
    "model.posterior = delta": lambda each: each.model.posterior == "delta",
    "model.posterior = batch-norm": lambda each: each.model.posterior == "batch-norm",
    "model.latent_to_output": lambda each: each.model.latent_to_output,
    "model.refinement_steps": lambda each: each.model.refinement_steps > 0,
    "model.bidirectional": lambda each: each.model.bidirectional,
    "objective.free_bits": lambda each: each.objective.free_bits != "none",
    "objective.minimum_rate_nats": lambda each: each.objective.minimum_rate_nats is not None,
    "objective.target_kl_nats": lambda each: each.objective.target_kl_nats is not None,
    "training.procedure = aggressive": lambda each: each.training.procedure == "aggressive",
    "training.pretraining_epochs": lambda each: each.training.pretraining_epochs > 0,
    "training.max_batch_tokens": lambda each: each.training.max_batch_tokens is not None,
    "training.batch_size = 1": lambda each: each.training.batch_size < 2 and each.training.max_batch_tokens is None,
    "training.cuda_graph": lambda each: each.training.cuda_graph,
}
"""What can be in use, and how to tell."""

HELD_UP = ("objective.free_bits", "objective.minimum_rate_nats")

REFUSED: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "model.posterior = none",
        (
            "training.procedure = aggressive",
            "training.pretraining_epochs",
            *HELD_UP,
            "objective.target_kl_nats",
            "model.latent_to_output",
        ),
        "{name} is about the latent variable, and model.posterior = none has none",
    ),
    (
        "model.posterior = von-mises-fisher",
        (*HELD_UP, "objective.target_kl_nats"),
        "{name} would move a KL that is constant with model.posterior = von-mises-fisher",
    ),
    (
        "objective.free_bits",
        ("objective.minimum_rate_nats",),
        "objective.free_bits and {name} both bound the KL from below; choose one",
    ),
    (
        "objective.target_kl_nats",
        (*HELD_UP, "model.refinement_steps"),
        "objective.target_kl_nats moves the KL weight after the KL of a batch, which makes no sense with {name}",
    ),
    (
        "model.posterior = delta",
        HELD_UP,
        "model.posterior = delta commits to a rate by itself; leave out free bits and objective.minimum_rate_nats",
    ),
    (
        "model.refinement_steps",
        HELD_UP,
        "model.refinement_steps descends on the ELBO, not on one with free bits or a minimum rate; choose one",
    ),
    (
        "model.posterior = batch-norm",
        ("training.batch_size = 1",),
        "model.posterior = batch-norm needs training.batch_size of at least 2",
    ),
    (
        "training.cuda_graph",
        (
            "model.bidirectional",
            "model.refinement_steps",
            "training.procedure = aggressive",
            "training.max_batch_tokens",
        ),
        "training.cuda_graph records steps that are all alike, which {name} does not take",
    ),
)
"""What is refused beside any of what, and the reason."""


def refuse_combination(model: NetworkSettings, objective: ObjectiveSettings, training: TrainingSettings) -> str:
    """Return why some settings make no sense together, or nothing."""
    chosen = Chosen(model, objective, training)
    for one, others, reason in REFUSED:
        if USED[one](chosen):
            for name in others:
                if USED[name](chosen):
                    return reason.format(name=name)
    return ""
