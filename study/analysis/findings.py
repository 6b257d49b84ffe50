"""What a study found, in words and small tables: the answer, what collapsed trials share, what it cost."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from model.collapse import LITTLE_MI_NATS
from study.analysis.answer import answer_of, sentences
from study.analysis.confirmation import key, without_seed
from study.analysis.seed_noise import BEYOND_LUCK
from study.record.formats import show_params, show_value
from study.record.states import State
from study.record.trials import TrialRecord, best_row, best_trial, has_collapsed, pareto_trials
from study.search.definition import Definition


def answer(definition: Definition, trials: list[TrialRecord], noise: str, noise_nats: float = math.nan) -> list[str]:
    """Return a study's answer in sentences: pooling, the best settings, what using z costs, how sure that is.

    `noise_nats` is the standard deviation of the nll over seeds alone, nan where it was not measured.
    """
    best = best_trial(trials)
    measured = [trial for trial in trials if trial.best]
    collapsed = [trial for trial in measured if has_collapsed(definition, trial)]
    told = sentences(definition, answer_of(definition, trials))
    if best is not None and (other := informative_alternative(best, pareto_trials(trials))):
        told.append(other)
    if not collapsed:
        return [*told, f"None of {counted(len(trials))} collapsed.", noise]
    second = f"{len(collapsed)} of {counted(len(trials))} collapsed"
    if best is None:
        return [*told, f"{second}; the section on collapse says what they share, `study diagnose` what to try.", noise]
    second += over_other_seeds(definition, best, measured)
    return [*told, f"{second}{price_of_use(definition, best, collapsed, noise_nats)}.", noise]


def counted(number: int) -> str:
    """Return a number of trials in words."""
    return f"{number} trial{'' if number == 1 else 's'}"


def over_other_seeds(definition: Definition, best: TrialRecord, measured: list[TrialRecord]) -> str:
    """Return how often the winner's settings collapsed with other seeds; nothing if they never did."""
    settings = key(without_seed(best.params))
    others = [t for t in measured if t.number != best.number and key(without_seed(t.params)) == settings]
    collapsed = sum(has_collapsed(definition, trial) for trial in [best, *others])
    return f", the best settings with {collapsed} of {len(others) + 1} seeds" if collapsed and others else ""


def price_of_use(definition: Definition, best: TrialRecord, collapsed: list[TrialRecord], noise_nats: float) -> str:
    """Return how the collapsed trials' likelihood compares with the winner's, after equally many epochs.

    Collapsed trials are ended early: their last numbers and the winner's are not of equal training. A difference counts
    if it is beyond twice what seeds make of the difference of two runs.
    """
    others = [trial for trial in collapsed if trial.number != best.number]
    if not others:
        return ""
    lowest = min(others, key=lambda trial: trial.score)
    number, epochs = lowest.number, lowest.rows[-1].number
    earlier = best_row([row for row in best.rows if row.number <= epochs], definition)
    if not earlier:
        return ""
    gap = lowest.score - earlier[f"valid/{best.ranked}"]
    how = f"; the best of them (trial {number}) was {abs(gap):.2f} nats {'better' if gap < 0 else 'worse'} than trial"
    how += f" {best.number} after the same {epochs} epochs"
    if math.isnan(noise_nats):
        return f"{how}, of one seed each"
    if abs(gap) < BEYOND_LUCK * noise_nats:
        return f"{how}, which is within what seeds alone do"
    return f"{how}: here, using z {'costs likelihood' if gap < 0 else 'pays'}"


def informative_peer(trials: list[TrialRecord]) -> str:
    """Return which trial of the same study to do as, where one carries much more; nothing if none does."""
    # Of those that were trained as long as any.
    ended = [trial for trial in trials if trial.best and trial.state == State.COMPLETE]
    usable = [trial for trial in ended if trial.best["valid/mi"] >= LITTLE_MI_NATS]
    if not usable:
        return ""
    best = min(usable, key=lambda trial: trial.score)
    return (
        f"do as trial {best.number} of this study, which carries {best.best['valid/mi']:.2f} nats at an {best.ranked}"
        f" of {best.score:.2f}: {show_params(best.params)}"
    )


def informative_alternative(best: TrialRecord, front: list[TrialRecord]) -> str:
    """Return which trial to look at as well where the winner's latent variable carries little, or nothing."""
    if best.best["valid/mi"] >= LITTLE_MI_NATS:
        return ""
    others = [trial for trial in front if trial.best["valid/mi"] >= LITTLE_MI_NATS and trial.number != best.number]
    if not others:
        return f"No trial carries {LITTLE_MI_NATS:g} nats at a competitive {best.ranked}."
    other = min(others, key=lambda trial: trial.score)
    return (
        f"Of those that carry at least {LITTLE_MI_NATS:g} nats the best is trial {other.number} ({other.ranked}"
        f" {other.score:.2f}, mutual information {other.best['valid/mi']:z.2f})."
    )


def collapse_pattern(definition: Definition, trials: list[TrialRecord]) -> pl.DataFrame:
    """Return what collapsed trials share: for each searched setting its values there and elsewhere.

    Empty if no trial, or every trial, has collapsed. A sampler chose the trials: nothing here is a test.
    """
    usable = [
        trial for trial in trials if trial.best and trial.state in (State.COMPLETE, State.PRUNED, State.COLLAPSED)
    ]
    rows: list[dict[str, object]] = []
    for name, allowed in definition.space.searched.items():
        known = [trial for trial in usable if name in trial.params]
        collapsed = [trial.params[name] for trial in known if has_collapsed(definition, trial)]
        others = [trial.params[name] for trial in known if not has_collapsed(definition, trial)]
        if name == "seed" or not collapsed or not others or len({*collapsed, *others}) < 2:
            continue
        if allowed.values is None or all(isinstance(value, int | float) for value in allowed.values):
            numbers = [[float(value) for value in group] for group in (collapsed, others)]
            shown = [show_numbers(group) for group in numbers]
        else:
            names = [[str(value) for value in group] for group in (collapsed, others)]
            shown = [show_counts(group) for group in names]
        rows.append({"setting": name, "collapsed": shown[0], "others": shown[1]})
    schema = {"setting": pl.String, "collapsed": pl.String, "others": pl.String}
    return pl.DataFrame(rows, schema=schema)


def show_numbers(values: list[float]) -> str:
    """Return the range and median of numbers, short."""
    return f"{show_value(min(values))} to {show_value(max(values))}, median {show_value(float(np.median(values)))}"


def show_counts(values: list[str]) -> str:
    """Return how often each value occurs, the most frequent first."""
    counts = {value: values.count(value) for value in dict.fromkeys(values)}
    return ", ".join(f"{value} {count}" for value, count in sorted(counts.items(), key=lambda item: -item[1]))


def costs(definition: Definition, trials: list[TrialRecord], price_per_gpu_hour: float | None) -> list[tuple[str, str]]:
    """Return what a study cost: training time, epochs and processors, and money where a price is given."""
    seconds = sum(trial.seconds for trial in trials)
    epochs = sum(len(trial.rows) for trial in trials)
    early = [trial for trial in trials if trial.state in (State.PRUNED, State.COLLAPSED)]
    most = definition.space.most_epochs()
    saved = sum(max(0, most - len(trial.rows)) for trial in early)
    found = [
        ("trials", f"{len(trials)} of {definition.num_trials}"),
        ("epochs trained", f"{epochs:,}"),
        ("epochs saved by ending early", f"{saved:,} (in {len(early)} trials)"),
        ("training time of all trials", f"{seconds / 3600:.2f} h"),
        ("CPU hours", f"{seconds * definition.cpus_per_trial / 3600:.2f}"),
    ]
    gpu_hours = seconds * definition.gpus_per_trial / 3600
    if gpu_hours or price_per_gpu_hour is not None:
        found.append(("GPU hours", f"{gpu_hours:.2f}"))
    if price_per_gpu_hour is not None:
        found.append((f"cost at {price_per_gpu_hour:g} a GPU hour", f"{gpu_hours * price_per_gpu_hour:.2f}"))
    return found
