"""Every metric of a split in one table: what it is called, its unit, which way is better, how it is shown, what it is.

A trial's epoch has them as `valid/NAME`, a final evaluation as `NAME`; `docs/glossary.md` has a line of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Direction = Literal["lower", "higher", ""]


@dataclass(frozen=True)
class Metric:
    """One metric; `level` says where it is shown: 1 in every table, 2 in wide ones, 3 in comparisons, 4 on record."""

    name: str
    heading: str
    unit: str
    direction: Direction
    level: int
    meaning: str
    decimals: int = 2
    axis: str = ""
    """How a figure names it; the heading and the unit if empty."""
    has_floor: bool = False
    """Whether a study can ask for the least of it (`--floor`)."""

    def show(self, value: float | None) -> str:
        """Return a value with the metric's decimals, whole if it is an integer; a dash if there is none."""
        if value is None or math.isnan(value):
            return "-"
        return str(value) if isinstance(value, int) else f"{value:z.{self.decimals}f}"

    @property
    def title(self) -> str:
        """What stands beside a figure's axis."""
        return self.axis or (f"{self.heading} ({self.unit})" if self.unit else self.heading)


NATS = "nats a sequence"

METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "nll",
            "NLL",
            NATS,
            "lower",
            1,
            "the importance-weighted negative log-likelihood, in studies without the first term of its bias",
            axis="negative log-likelihood (nats a sequence)",
        ),
        Metric(
            "nll_se", "NLL s.e.", NATS, "", 4, "its standard error from drawing samples, not from the choice of text"
        ),
        Metric(
            "nll_bias_bound",
            "bias bound",
            NATS,
            "",
            4,
            "about how much `nll` may be too high for want of samples, at most",
        ),
        Metric("elbo", "ELBO", NATS, "lower", 2, "minus the evidence lower bound: reconstruction + KL"),
        Metric("reconstruction", "reconstruction", NATS, "lower", 3, "-log p(x|z) of one draw of z from the posterior"),
        Metric(
            "kl",
            "KL",
            NATS,
            "",
            1,
            "the divergence of the posterior q(z|x) from the prior, mean over sequences: the rate",
            axis="KL divergence from the prior, the rate (nats a sequence)",
            has_floor=True,
        ),
        Metric(
            "mi",
            "MI",
            NATS,
            "higher",
            1,
            "mutual information I(x; z) under q, over the whole split; at most the log of its number of sequences; an"
            " estimate, so that 0 may read a little below it",
            axis="mutual information of input and latent variable (nats)",
            has_floor=True,
        ),
        Metric("mi_se", "MI s.e.", NATS, "", 4, "the standard error of `mi` from drawing z, given the sequences"),
        Metric(
            "mi_in_batch",
            "MI in batch",
            NATS,
            "higher",
            3,
            "the same within batches of 32, as earlier papers give it; at most 3.47",
        ),
        Metric(
            "au",
            "AU",
            "",
            "higher",
            1,
            "active units: latent dimensions whose posterior mean has a variance of at least 0.01 over the sequences",
            decimals=1,
            has_floor=True,
        ),
        Metric("ppl", "PPL", "", "lower", 1, "perplexity: the exponential of nll a token, `</s>` counted", decimals=1),
        Metric(
            "bits_per_byte",
            "bits a byte",
            "bits",
            "lower",
            4,
            "`nll` of all sequences over their UTF-8 bytes: comparable between tokenizers",
            decimals=3,
        ),
        Metric(
            "dispersion",
            "cosine",
            "",
            "lower",
            1,
            "the mean cosine similarity of the features over all pairs of sequences: 1 where they are all alike",
            axis="mean cosine similarity of the encoder's features",
        ),
    )
}
"""By name, in the order in which tables have them."""


def names_to(level: int) -> tuple[str, ...]:
    """Return the names of the metrics that are shown at a level: 1 in every table, 2 in wide ones, 3 in comparisons."""
    return tuple(metric.name for metric in METRICS.values() if metric.level <= level)


def with_ranked(names: tuple[str, ...], ranked: str) -> tuple[str, ...]:
    """Return names of metrics with the one by which trials rank in the place of `nll`."""
    return tuple(dict.fromkeys(ranked if name == "nll" else name for name in names))


SHOWN, WIDE, COMPARED = names_to(1), names_to(2), names_to(3)
"""The metrics of every table, of wide ones, and of comparisons."""
FLOORS = tuple(metric.name for metric in METRICS.values() if metric.has_floor)
"""The metrics that can have a floor."""
