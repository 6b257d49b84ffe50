"""The field's fixes for posterior collapse by name: each a bundle of settings that any study can fix or search."""

from __future__ import annotations

PLAIN: dict[str, object] = {
    "model.posterior": "gaussian",
    "model.latent_to_output": False,
    "model.refinement_steps": 0,
    "objective.annealing": "constant",
    "objective.kl_weight": 1.0,
    "objective.initial_kl_weight": 0.0,
    "objective.free_bits": "none",
    "objective.minimum_rate_nats": None,
    "objective.target_kl_nats": None,
    "training.procedure": "plain",
    "training.pretraining_epochs": 0,
}

METHODS: dict[str, dict[str, object]] = {
    "language-model": {"model.posterior": "none"},
    "vae": {},
    "annealing": {"objective.annealing": "linear", "objective.annealing_fraction": 0.25},
    "cyclical": {"objective.annealing": "cyclical", "objective.annealing_fraction": 1.0, "objective.num_cycles": 4},
    "free-bits": {
        "objective.free_bits": "total",
        "objective.free_bits_nats": 4.0,
        "objective.annealing": "linear",
        "objective.annealing_fraction": 0.25,
    },
    "aggressive": {
        "training.procedure": "aggressive",
        "objective.initial_kl_weight": 0.1,
        "objective.annealing": "linear",
        "objective.annealing_fraction": 0.25,
    },
    "autoencoder": {
        "training.pretraining_epochs": 5,
        "objective.free_bits": "per-dimension",
        "objective.free_bits_nats": 8.0,
        "objective.annealing": "linear",
        "objective.annealing_fraction": 0.25,
    },
    "bn-vae": {"model.posterior": "batch-norm", "model.batch_norm_scale": 0.6},
    "delta-vae": {"model.posterior": "delta", "model.committed_rate_nats": 4.0},
    "vmf-vae": {"model.posterior": "von-mises-fisher", "model.concentration": 40.0},
    "skip-vae": {"model.latent_to_output": True},
    "semi-amortized": {
        "model.refinement_steps": 20,
        "objective.initial_kl_weight": 0.1,
        "objective.annealing": "linear",
        "objective.annealing_fraction": 0.25,
    },
    "minimum-rate": {"objective.minimum_rate_nats": 4.0},
    "scale-vae": {"model.posterior": "scaled", "model.scaled_spread": 1.0},
    "control-vae": {"objective.target_kl_nats": 4.0},
}
"""What sets each method apart from the plain VAE, as its paper's recipe has it (FIELD names in the README)."""

SOURCES: dict[str, str] = {
    "language-model": "no latent variable; its likelihood is exact",
    "vae": "Bowman et al., arXiv 1511.06349",
    "annealing": "KL weight linear to 1, Bowman et al., arXiv 1511.06349",
    "cyclical": "Fu et al., arXiv 1903.10145",
    "free-bits": "Kingma et al., arXiv 1606.04934",
    "aggressive": "He et al., arXiv 1901.05534",
    "autoencoder": "pretrained as an autoencoder, decoder reset, free bits: Li et al., arXiv 1909.00868",
    "bn-vae": "Zhu et al., arXiv 2004.12585",
    "delta-vae": "Razavi et al., arXiv 1901.03416, the bound of an independent prior",
    "vmf-vae": "Xu and Durrett, arXiv 1808.10805",
    "skip-vae": "Dieng et al., arXiv 1807.04863",
    "semi-amortized": "each posterior refined by 20 steps of descent, Kim et al., arXiv 1802.02550",
    "scale-vae": "means scaled up for the decoder, the KL of the unscaled: Song et al., LREC-COLING 2024",
    "control-vae": "KL weight moved by a controller towards a KL, Shao et al., ICML 2020",
    "minimum-rate": "Pelsmaeker and Aziz, arXiv 1904.08194",
}


def method_settings(name: str) -> dict[str, object]:
    """Return every setting that a method decides, flat."""
    return PLAIN | METHODS[name]
