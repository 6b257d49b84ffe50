"""What to try for more use of z: the cheap and effective first, each with what was measured and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model.registry import POOLINGS
from study.config.settings import Settings


@dataclass(frozen=True)
class Measure:
    """Something to do against collapse."""

    do: str
    evidence: str
    """What it did on this project's corpora, as `source` has it; empty where nothing was measured."""
    source: str
    helps: Callable[[Settings], bool] = lambda settings: True
    """Whether a model of these settings has not done it yet."""


RESULTS, QUICK = "docs/results.md", "README.md, the quick study"

MEASURES = (
    Measure(
        "lower the final KL weight to 0.1 to 0.3 (objective.kl_weight)",
        "in the quick study every run at 0.6 collapsed, and no pooled one at 0.15 and 0.3",
        QUICK,
        lambda given: given.objective.kl_weight > 0.3 and given.objective.minimum_rate_nats is None,
    ),
    Measure(
        "start from PyTorch's initialisation (model.init=default)",
        "on synthetic-topics at a KL weight of 1, pooled encoders collapsed with 3 of 3 seeds from U(-0.01, 0.01), with"
        " none from PyTorch's",
        RESULTS,
        lambda given: given.model.init == "uniform",
    ),
    Measure(
        "pool the encoder's states (mean) instead of taking the last (model.pooling)",
        "at a KL weight of 0.4, pooled encoders carried 2 to 3 times the information on chat messages; at a weight of 1"
        " it was enough on synthetic-topics, and not on PTB, short Yelp and chat messages",
        RESULTS,
        lambda given: takes_few_states(given.model.pooling),
    ),
    Measure(
        "bound the KL from below (method=bn-vae)",
        "it kept 2.4 to 3.1 nats on four corpora, at the plain VAE's cost and at a likelihood no worse, by up to 0.9"
        " nats better",
        RESULTS,
        lambda given: given.model.posterior != "batch-norm",
    ),
    Measure(
        "pretrain as an autoencoder, reset the decoder, train with per-dimension free bits (method=autoencoder)",
        "7 nats of KL on four corpora, a third more training",
        RESULTS,
        lambda given: given.objective.free_bits == "none" or not given.training.pretraining_epochs,
    ),
    Measure(
        "weaken the decoder (model.word_dropout, model.input_dropout), or train the encoder first (method=aggressive)",
        "the latter cost 6.5 to 7.6 times as much and all but collapsed on two of four corpora",
        RESULTS,
    ),
    Measure(
        "ask whether z is worth its cost here: if method=language-model has as low an nll, a collapsed model is right",
        "",
        "",
    ),
)
POOL = MEASURES[2]


def takes_few_states(pooling: str) -> bool:
    """Say whether a pooling is known to take one state or two; a stranger's may be any."""
    return pooling in POOLINGS and not POOLINGS[pooling].uses_all_states


def advice(
    settings: Settings | None,
    cosine_by_pooling: Mapping[str, float],
    tested: Mapping[str, str] | None = None,
    *,
    with_evidence: bool = False,
) -> list[str]:
    """Return what to try, in order; of a stranger's model, whose `settings` are None, nothing is left out.

    `tested` has the verdicts of the study's own pooling test, which are what counts on its corpus. `with_evidence`,
    what was measured on this project's corpora is said beside each.

    `cosine_by_pooling` is the mean cosine similarity of the features that poolings would make of the same states; empty
    where the states are not known.
    """
    found = []
    for measure in MEASURES:
        if settings is not None and not measure.helps(settings):
            continue
        if measure is POOL and tested:
            more = [pooling for pooling, verdict in tested.items() if verdict == "more"]
            if more:
                found.append(
                    f"pool the encoder's states ({' or '.join(more)}): it carries more here (the pooling test)"
                )
            continue
        if measure is not POOL or not cosine_by_pooling:
            shown = with_evidence and measure.evidence
            found.append(f"{measure.do}: {measure.evidence} ({measure.source})" if shown else measure.do)
            continue
        # Where the last states are the least alike, pooling promises nothing.
        best = min(cosine_by_pooling, key=lambda name: cosine_by_pooling[name])
        if best != "last":
            found.append(
                f"pool the encoder's states ({best}) instead of taking the last (model.pooling): it lowers the cosine"
                f" similarity here from {cosine_by_pooling['last']:.2f} to {cosine_by_pooling[best]:.2f}"
            )
    return found
