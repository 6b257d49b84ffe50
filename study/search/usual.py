"""The ranges that settings are usually searched in, and which of them mean something only beside which others."""

from __future__ import annotations

from model.annealing import ANNEALING_NAMES
from model.registry import DECODERS, ENCODERS, POOLINGS_OF_ALL, poolings_with
from study.config.methods import METHODS, PLAIN, method_settings
from study.search.ranges import Range

SEARCHED: dict[str, Range] = {
    "model.pooling": Range(values=POOLINGS_OF_ALL),
    "model.latent_size": Range(values=(8, 16, 32, 64)),
    "objective.kl_weight": Range(low=0.1, high=1.0),
    "objective.annealing": Range(values=ANNEALING_NAMES),
    "objective.annealing_fraction": Range(low=0.1, high=0.6),
    "objective.num_cycles": Range(low=2, high=6),
}
"""What is searched unless it is given."""

OPTIONAL: dict[str, Range] = {
    "training.learning_rate": Range(low=1e-4, high=1e-2, log=True),
    "objective.free_bits": Range(values=("none", "total", "per-dimension", "batch-mean")),
    "objective.free_bits_nats": Range(low=1.0, high=8.0),
    "model.init": Range(values=("default", "uniform")),
    "model.word_dropout": Range(low=0.0, high=0.6),
    "model.hidden_size": Range(values=(64, 128, 256, 512)),
    "model.encoder": Range(values=tuple(ENCODERS)),
    "model.decoder": Range(values=tuple(DECODERS)),
    "model.num_encoder_layers": Range(low=1, high=4),
    "model.num_decoder_layers": Range(low=1, high=4),
    "model.num_heads": Range(values=(1, 2, 4, 8)),
    "model.positions": Range(values=("sinusoidal", "learned")),
    "model.inner_dropout": Range(low=0.0, high=0.5),
    "training.warmup_fraction": Range(low=0.0, high=0.2),
    "objective.target_kl_nats": Range(low=1.0, high=8.0),
}
"""What `--search NAME` adds, with these ranges unless a `[search]` table gives others."""

ANNEALED = frozenset(ANNEALING_NAMES) - {"constant"}
WITH_HEADS = {
    "model.encoder": frozenset(name for name, layers in ENCODERS.items() if layers.has_heads),
    "model.decoder": frozenset(name for name, layers in DECODERS.items() if layers.has_heads),
}
CONDITIONS: dict[str, dict[str, frozenset[str]]] = {
    "model.pooling_temperature": {"model.pooling": poolings_with("temperature")},
    "model.bidirectional": {"model.encoder": frozenset(n for n, layers in ENCODERS.items() if not layers.sees_all)},
    "model.num_heads": WITH_HEADS,
    "model.positions": WITH_HEADS,
    "objective.annealing_fraction": {"objective.annealing": ANNEALED},
    "objective.initial_kl_weight": {"objective.annealing": ANNEALED},
    "objective.num_cycles": {"objective.annealing": frozenset({"cyclical", "cyclical-cosine"})},
    "objective.cycle_rise": {"objective.annealing": frozenset({"cyclical", "cyclical-cosine"})},
    "objective.free_bits_nats": {"objective.free_bits": frozenset({"total", "per-dimension", "batch-mean"})},
}
"""Settings that mean something only while another one, or one of several others, has one of these values."""

OF_ENCODER = (
    "model.pooling",
    "model.pooling_temperature",
    "model.latent_size",
    "model.bidirectional",
    "model.encoder",
    "model.num_encoder_layers",
)
"""Settings that mean nothing to a language model."""

DECIDED = frozenset(name for method in METHODS for name in method_settings(method))
SWITCHES = frozenset(PLAIN) - {"objective.kl_weight", "objective.initial_kl_weight"}
"""What tells methods apart: given beside several methods, it would make one of them out of another."""
