"""What `study evaluate` prints: numbers by what they are about, named, with their units and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from study.metrics import METRICS

LIKELIHOOD = ("nll", "nll_debiased", "ppl", "bits_per_byte", "elbo", "reconstruction", "bleu")
USE = ("kl", "mi", "mi_in_batch", "au", "active_dimensions", "dispersion", "maxima")
GROUPS = {"Likelihood": LIKELIHOOD, "Use of z": USE}
"""What is not in them is about how it was measured."""
ERRORS = {"nll": "nll_se", "mi": "mi_se"}
NAMES = {
    "nll_debiased": "NLL less its bias",
    "bleu": "BLEU",
    "active_dimensions": "active dimensions",
    "maxima": "where maxima lie",
    "proposal_power": "proposal power",
    "decoder_tokens": "decoder tokens",
}
WORDS = {
    "nll_debiased": "nats a sequence, without the first term of the bias",
    "nll_bias_bound": "nats by which NLL may be too high for want of samples, at most",
    "proposal_power": "b of the proposal q^b p^(1-b); 1: the posterior itself",
    "samples": "a sequence, in the mean",
    "untrusted": "of the sequences have weights that k-hat does not trust",
    "bleu": "of greedy reconstructions",
    "maxima": "in the sequence, by tenths of its words",
    "active_dimensions": "from the most informative on",
}
WHOLE = 10_000
"""From here on a number is shown without decimals."""


def measured_table(metrics: Mapping[str, object], title: str) -> Table:
    """Return a table of a final evaluation's numbers, grouped by what they are about."""
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=False, overflow="fold")
    table.add_column(overflow="fold")
    known = {name for group in GROUPS.values() for name in group} | set(ERRORS.values())
    others = tuple(name for name in metrics if name not in known)
    for heading, names in {**GROUPS, "How it was measured": others}.items():
        found = [name for name in names if name in metrics]
        if found:
            table.add_row(heading, "", "", style="bold")
        for name in found:
            table.add_row(f"  {heading_of(name)}", shown(name, metrics), words(name))
    return table


def heading_of(name: str) -> str:
    """Return what a number is called."""
    return METRICS[name].heading if name in METRICS else NAMES.get(name, name)


def words(name: str) -> str:
    """Return a number's unit, or what it is."""
    return WORDS.get(name) or (METRICS[name].unit if name in METRICS else "")


def shown(name: str, metrics: Mapping[str, object]) -> str:
    """Return a value as it is shown, with its standard error where that is known."""
    match metrics[name]:
        case dict() as shares:
            return "  ".join(f"{place} {share:.0%}" for place, share in shares.items())
        case list() as values:
            return " ".join(map(str, values)) or "none"
        case int() | float() as value:
            pass
        case other:
            return str(other)
    if math.isnan(value) or name == "untrusted":
        return "-" if math.isnan(value) else f"{value:.0%}"
    if name not in METRICS and name not in NAMES:
        return f"{value:,.0f}" if value == int(value) else f"{value:.2f}"
    error = metrics.get(ERRORS.get(name, ""))
    decimals = METRICS[name].decimals if name in METRICS else 2
    number = f"{value:,.0f}" if isinstance(value, int) or value >= WHOLE else f"{value:z.{decimals}f}"
    return f"{number} ± {error:.{decimals}f}" if isinstance(error, float) and not math.isnan(error) else number
