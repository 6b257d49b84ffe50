"""Methods beside each other over seeds: one table, what each costs, and a verdict on each claim of the pooled VAE.

The claims are those of the two abstracts of arXiv 1911.03976. A verdict compares two settings seed by seed and,
for likelihoods, sequence by sequence on the test split; its interval is a bootstrap over seeds and sequences.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.table import Table
from safetensors.numpy import load_file

from study.ledger import Ledger
from study.trial import FINAL, FINAL_SCORES

METRICS = ("nll", "elbo", "reconstruction", "kl", "mi", "au", "ppl", "dispersion")
POOLED = ("max", "mean", "max+mean", "logsumexp", "attention")
REFERENCE = ("vae", "last")
BOOTSTRAPS = 10_000
CONFIDENCE = 0.95
COLLAPSED_KL_NATS = 0.1
COMPARABLE_NATS = 0.005
"""Likelihoods within this fraction of each other count as comparable: half of the field's whole spread."""


@dataclass(frozen=True)
class Verdict:
    """What the measurements say of one claim."""

    claim: str
    verdict: str
    evidence: str
    low: float | None = None
    high: float | None = None


def points(methods: list[str], poolings: list[str], seeds: int) -> list[dict[str, Any]]:
    """Return the searched values of every trial, seed by seed; a language model has no pooling."""
    made = []
    for seed in range(seeds):
        for method in methods:
            for pooling in poolings[:1] if method == "language-model" else poolings:
                point = {"method": method, "seed": seed}
                made.append(point if method == "language-model" else point | {"model.pooling": pooling})
    return made


def results(ledger: Ledger) -> pl.DataFrame:
    """Return one row a trial that was evaluated on the test split: method, pooling, seed, metrics, costs, `folder`."""
    rows = []
    for trial in ledger.trials():
        folder = ledger.trial_folder(trial.number)
        if trial.state not in ("complete", "collapsed") or not (folder / FINAL).is_file():
            continue
        last = trial.rows[-1]
        rows.append({
            "method": trial.params["method"], "pooling": trial.params.get("model.pooling", "-"),
            "seed": trial.params["seed"],
            **{name: float(value) for name, value in json.loads((folder / FINAL).read_text("utf-8")).items()},
            "epochs": len(trial.rows), "seconds": last["seconds"], "decoder_tokens": last["train/decoder_tokens"],
            "folder": str(folder),
        })  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def summary(frame: pl.DataFrame) -> pl.DataFrame:
    """Return mean and standard deviation over seeds by method and pooling, and costs relative to the plain VAE's."""
    costs = ("seconds", "decoder_tokens")
    grouped = frame.group_by("method", "pooling", maintain_order=True).agg(
        pl.len().alias("seeds"),
        *[pl.col(name).mean() for name in (*METRICS, *costs)],
        *[pl.col(name).std().alias(f"{name}_sd") for name in METRICS],
    )
    plain = grouped.filter((pl.col("method") == REFERENCE[0]) & (pl.col("pooling") == REFERENCE[1]))
    if plain.height == 0:
        return grouped
    return grouped.with_columns(*[(pl.col(name) / plain[name][0]).alias(f"relative_{name}") for name in costs])


def log_likelihoods(frame: pl.DataFrame, method: str, pooling: str) -> NDArray[np.float64]:
    """Return each test sequence's log-likelihood by seed, `[seeds, sequences]`."""
    found = frame.filter((pl.col("method") == method) & (pl.col("pooling") == pooling)).sort("seed")
    return np.stack([load_file(Path(folder) / FINAL_SCORES)["log_p"] for folder in found["folder"]])


def paired_interval(difference: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap interval of the mean of `[seeds, sequences]` differences, resampling both.

    The percentile interval; with so few seeds it is rough, and it says so by being wide.
    """
    draw = np.random.default_rng(seed)
    num_seeds, num_sequences = difference.shape
    by_seed = draw.integers(num_seeds, size=(BOOTSTRAPS, num_seeds))
    # Sequences are many and alike in weight: their resampled mean is normal about each seed's own.
    means, errors = difference.mean(1), difference.std(1, ddof=1) / np.sqrt(num_sequences)
    shared = draw.standard_normal((BOOTSTRAPS, 1))
    resampled = (means[by_seed] + errors[by_seed] * shared).mean(1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)


def seed_interval(difference: NDArray[np.float64]) -> tuple[float, float]:
    """Return Student's interval of a mean difference over seeds; infinite with a single seed."""
    from scipy import stats

    if len(difference) < 2:
        return -np.inf, np.inf
    if float(np.ptp(difference)) == 0.0:
        return float(difference[0]), float(difference[0])
    error = stats.sem(difference)
    low, high = stats.t.interval(CONFIDENCE, len(difference) - 1, loc=difference.mean(), scale=error)
    return float(low), float(high)


def verdicts(frame: pl.DataFrame) -> list[Verdict]:
    """Return a verdict on each of the four claims; undecided where the runs that it needs are missing."""
    if frame.height == 0:
        return []
    pooled = best_pooled(frame)
    plain = frame.filter((pl.col("method") == "vae") & (pl.col("pooling") == "last")).sort("seed")
    if pooled is None or plain.height == 0:
        missing = "needs the method vae with pooling last and with a pooled encoder"
        return [Verdict(claim, "undecided", missing) for claim in ("dispersion", "collapse", "likelihood", "cost")]
    found = frame.filter((pl.col("method") == "vae") & (pl.col("pooling") == pooled)).sort("seed")
    return [
        dispersion_verdict(plain, found, pooled),
        collapse_verdict(plain, found, pooled),
        likelihood_verdict(frame, pooled),
        cost_verdict(frame, plain, found, pooled),
    ]


def best_pooled(frame: pl.DataFrame) -> str | None:
    """Return the pooled encoder on which the claims are judged: the first of POOLED that was run."""
    run = frame.filter(pl.col("method") == "vae")["pooling"].unique().to_list()
    return next((name for name in POOLED if name in run), None)


def decide(low: float, high: float) -> str:
    """Return the verdict on a claim that a difference is above 0."""
    return "supported" if low > 0 else "not supported" if high < 0 else "undecided"


def dispersion_verdict(plain: pl.DataFrame, pooled: pl.DataFrame, name: str) -> Verdict:
    """Judge: a last-state encoder's features are more alike than a pooled encoder's."""
    difference = plain["dispersion"].to_numpy() - pooled["dispersion"].to_numpy()
    low, high = seed_interval(difference)
    evidence = f"cosine similarity of last minus {name}: {difference.mean():.3f} [{low:.3f}, {high:.3f}]"
    return Verdict("dispersion", decide(low, high), evidence, low, high)


def collapse_verdict(plain: pl.DataFrame, pooled: pl.DataFrame, name: str) -> Verdict:
    """Judge: at equal settings the last-state VAE collapses and the pooled one does not."""

    def collapsed(frame: pl.DataFrame) -> int:
        return frame.filter((pl.col("kl") < COLLAPSED_KL_NATS) & (pl.col("au") == 0)).height

    difference = pooled["kl"].to_numpy() - plain["kl"].to_numpy()
    low, high = seed_interval(difference)
    all_of_plain, none_of_pooled = collapsed(plain) == plain.height, collapsed(pooled) == 0
    verdict = "supported" if all_of_plain and none_of_pooled and low > 0 else "not supported"
    if plain.height < 2 or (collapsed(plain) not in (0, plain.height) or collapsed(pooled) not in (0, pooled.height)):
        verdict = "undecided"
    evidence = (
        f"collapsed seeds: last {collapsed(plain)} of {plain.height}, {name} {collapsed(pooled)} of {pooled.height};"
        f" KL of {name} minus last: {difference.mean():.2f} nats [{low:.2f}, {high:.2f}]"
    )
    return Verdict("collapse", verdict, evidence, low, high)


def likelihood_verdict(frame: pl.DataFrame, name: str) -> Verdict:
    """Judge: the pooled VAE's nll is below the last-state VAE's, and comparable to aggressive training's."""
    pooled = log_likelihoods(frame, "vae", name)
    gain = pooled - log_likelihoods(frame, *REFERENCE)
    low, high = paired_interval(gain)
    evidence = f"nll of last minus {name}: {gain.mean():.2f} nats [{low:.2f}, {high:.2f}]"
    verdict = decide(low, high)
    if frame.filter((pl.col("method") == "aggressive") & (pl.col("pooling") == "last")).height:
        behind = log_likelihoods(frame, "aggressive", "last") - pooled
        margin = COMPARABLE_NATS * float(-pooled.mean())
        behind_low, behind_high = paired_interval(behind)
        evidence += (
            f"; behind aggressive: {behind.mean():.2f} nats [{behind_low:.2f}, {behind_high:.2f}], margin {margin:.2f}"
        )
        if verdict == "supported" and behind_high > margin:
            verdict = "not supported" if behind_low > margin else "undecided"
    else:
        evidence += "; aggressive training was not run"
        verdict = "undecided" if verdict == "supported" else verdict
    return Verdict("likelihood", verdict, evidence, low, high)


def cost_verdict(frame: pl.DataFrame, plain: pl.DataFrame, pooled: pl.DataFrame, name: str) -> Verdict:
    """Judge: a pooled VAE costs about what a plain one does, and less than aggressive training; in decoder tokens."""
    ratio = float(pooled["decoder_tokens"].mean()) / float(plain["decoder_tokens"].mean())  # type: ignore[arg-type]
    seconds = float(pooled["seconds"].mean()) / float(plain["seconds"].mean())  # type: ignore[arg-type]
    evidence = f"{name} against last: {ratio:.2f} times the decoder tokens, {seconds:.2f} times the seconds"
    aggressive = frame.filter((pl.col("method") == "aggressive") & (pl.col("pooling") == "last"))
    if aggressive.height == 0:
        return Verdict("cost", "undecided", evidence + "; aggressive training was not run")
    more = float(aggressive["decoder_tokens"].mean()) / float(plain["decoder_tokens"].mean())  # type: ignore[arg-type]
    evidence += f"; aggressive: {more:.2f} times the decoder tokens"
    return Verdict("cost", "supported" if ratio < min(1.25, more) else "not supported", evidence, ratio, more)


def comparison_table(frame: pl.DataFrame) -> Table:
    """Return the table of a comparison, test split, mean ± standard deviation over seeds."""
    table = Table(title="Test split, mean ± s.d. over seeds", title_justify="left", box=None, pad_edge=False)
    for name in ("method", "pooling", "seeds", *METRICS, "seconds", "decoder tokens"):
        table.add_column(name, justify="left" if name in ("method", "pooling") else "right")
    for row in summary(frame).iter_rows(named=True):
        cells = [f"{row[name]:.2f} ± {row[f'{name}_sd'] or 0.0:.2f}" for name in METRICS]
        costs = [f"{row.get(f'relative_{name}', float('nan')):.2f}x" for name in ("seconds", "decoder_tokens")]
        table.add_row(row["method"], row["pooling"], str(row["seeds"]), *cells, *costs)
    return table


def write_comparison(frame: pl.DataFrame, folder: Path) -> None:
    """Write the trials, their summary and the verdicts beside the study, as parquet and JSON."""
    frame.drop("folder").write_parquet(folder / "comparison.parquet")
    stored = {"summary": summary(frame).to_dicts(), "claims": [asdict(each) for each in verdicts(frame)]}
    aside = folder / ".comparison.json"
    aside.write_text(json.dumps(stored, indent=1), "utf-8")
    aside.replace(folder / "comparison.json")
