"""Has it collapsed, since when and where, does the decoder use z, are features dispersed, and what to try.

`diagnose_features` asks of any encoder's numbers, whoever's model it is; `diagnose_model` adds what the decoder
makes of z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from data.corpus import Split
from model import diagnostics
from model.collapse import LITTLE_MI_NATS, Use, is_collapsed, use_of
from model.network import pooling
from model.network.vae import SequenceVAE
from model.posterior import Posterior
from study.config.settings import Settings
from study.epoch import Epoch
from study.errors import StudyError
from study.inference.advice import advice
from study.inference.latent_use import groups, latent_use
from study.trainable.posteriors import as_numbers, posterior_metrics, some_inputs
from study.training.evaluation import score

ALIKE = 0.9
"""Features with a mean cosine similarity above this hardly depend on the input."""

USED_NATS = 0.1
"""A decoder uses z if another sequence's z costs it at least this much."""

COMPARED = ("last", "mean", "max")


@dataclass(frozen=True)
class Diagnosis:
    """What was found, most important first; `advice` is in the order to try it, each with its reason."""

    verdict: str
    findings: list[str]
    advice: list[str]
    metrics: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return asdict(self)


def diagnose_features(
    features: ArrayLike | None,
    mean: ArrayLike,
    log_variance: ArrayLike,
    lengths: ArrayLike | None = None,
    *,
    with_evidence: bool = False,
) -> Diagnosis:
    """Diagnose an encoder by its numbers for N inputs, of any kind and from any model with Gaussian posteriors.

    `features` is what enters the layer that gives the posterior, `[N, H]`, or the encoder's states over time
    `[N, T, H]` with `lengths` `[N]`; without them nothing is said of their dispersion. `mean` and `log_variance` are
    the posterior's, `[N, L]`. Of more than 5,000 inputs, a random 5,000 are looked at, the same each time. Raises
    StudyError if shapes do not fit or numbers are
    not finite.
    """
    arrays = {"features": features, "mean": mean, "log_variance": log_variance}
    tensors = {name: as_numbers(name, array) for name, array in arrays.items() if array is not None}
    # As many zeros have no direction, and so no similarity.
    tensors.setdefault("features", torch.zeros(len(tensors["mean"]), 1))
    places = as_numbers("lengths", lengths) if lengths is not None else None
    check_shapes(tensors, places)
    given = len(tensors["mean"])
    chosen = some_inputs(given)
    tensors = {name: tensor[chosen].double() for name, tensor in tensors.items()}
    places = places[chosen] if places is not None else None
    steps = tensors["features"] if tensors["features"].ndim == 3 else None
    if steps is not None:
        places = torch.full((len(steps),), steps.shape[1]) if places is None else places.long()
        # States after a sequence's end belong to no sequence.
        steps = steps.masked_fill(torch.arange(steps.shape[1])[None, :, None] >= places[:, None, None], 0.0)
        tensors["features"] = steps
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise StudyError(f"{name} holds numbers that are not finite")
    cosines: dict[str, float] = {}
    if steps is not None and places is not None:
        cosines = {name: diagnostics.dispersion(pooling.pool(name, steps, places)) for name in COMPARED}
        flat = pooling.final_step(steps, places)
    else:
        flat = tensors["features"]
    posterior = Posterior(tensors["mean"], tensors["log_variance"], flat)
    metrics = posterior_metrics(posterior)
    metrics["cosine_by_pooling"] = cosines
    metrics["num_given"] = given
    found = conclude(metrics, None, with_evidence=with_evidence)
    if float(tensors["log_variance"].min()) > 0.0:
        found.findings.append(
            "log_variance is nowhere below 0: is it the variance itself? Then take its logarithm first"
        )
    return found


def check_shapes(tensors: dict[str, Tensor], lengths: Tensor | None) -> None:
    """Raise StudyError unless arrays fit each other."""
    features, mean, log_variance = tensors["features"], tensors["mean"], tensors["log_variance"]
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
    if mean.ndim != 2 or mean.shape != log_variance.shape or features.ndim not in (2, 3) or len(features) != len(mean):
        raise StudyError(f"expected features [N, H] or [N, T, H], mean [N, L] and log_variance [N, L], got {shapes}")
    if len(mean) < 2 or not all(tensor.numel() for tensor in tensors.values()):
        raise StudyError(f"expected at least 2 inputs, and sizes of at least 1, got {shapes}")
    if lengths is None:
        return
    steps = features.shape[1] if features.ndim == 3 else 0
    whole = lengths == lengths.round() if lengths.is_floating_point() else torch.tensor(True)
    if lengths.shape != (len(mean),) or not bool(((lengths >= 1) & (lengths <= steps) & whole).all()):
        raise StudyError(f"expected whole lengths [N] from 1 to T for features [N, T, H], got {shapes}")


def diagnose_model(
    network: SequenceVAE,
    split: Split,
    settings: Settings | None,
    history: list[Epoch],
    num: int = 500,
    *,
    tested: Mapping[str, str] | None = None,
    with_evidence: bool = False,
) -> Diagnosis:
    """Diagnose a trained model on a split; `history` is its epochs, oldest first, empty where unknown.

    `tested` has the verdicts of its study's pooling test, and `with_evidence` is said what was measured elsewhere.
    """
    if not network.settings.has_latent:
        raise StudyError("the model is a language model: it has no latent variable that could collapse")
    found = score(network, split, num_samples=1, num_sequences=num)
    dimensions = found.dimensions()
    metrics: dict[str, Any] = {**found.metrics(), "kl_by_dimension": dimensions["kl"]}
    metrics["active_dimensions"] = diagnostics.active_dimensions(dimensions["variance"])
    metrics["num_inputs"] = len(found.reconstruction)
    metrics |= asdict(latent_use(network, split, num))
    metrics["collapsed_since"] = collapsed_since(history) if is_collapsed_now(metrics) else None
    return conclude(metrics, settings, tested, with_evidence=with_evidence)


def where_saved(saved: Mapping[str, float], used: float) -> str:
    """Return in words where in the sequence its own z saves nats."""
    *words, end = groups()
    first = sum(saved[name] for name in words[:3])
    return (
        f"of the {used:.2f} nats that its own z saves, {first:.2f} are of the first three tokens,"
        f" {saved[end]:.2f} of the end ({end}), which says how long it is, and"
        f" {used - first - saved[end]:.2f} of all between"
    )


def is_collapsed_now(metrics: dict[str, Any]) -> bool:
    """Say whether metrics are those of a collapsed posterior."""
    return is_collapsed(metrics["mi"], metrics["mi_se"])


def collapsed_since(history: list[Epoch]) -> int | None:
    """Return the first epoch of the collapse that a run ended in, or None if it did not end in one."""
    since = None
    for row in reversed(history):
        if not is_collapsed(float(row["valid/mi"]), float(row.get("valid/mi_se"))):
            break
        since = int(row.number)
    return since


def conclude(
    metrics: dict[str, Any],
    settings: Settings | None,
    tested: Mapping[str, str] | None = None,
    *,
    with_evidence: bool = False,
) -> Diagnosis:
    """Return the diagnosis that metrics give; `settings` is the model's, None for a stranger's."""
    size = len(metrics["kl_by_dimension"])
    findings = [
        f"KL {metrics['kl']:z.2f} nats, MI {metrics['mi']:z.2f} ± {metrics['mi_se']:z.2f} nats,"
        f" {metrics['au']} of {size} latent dimensions active"
        + (f" ({', '.join(map(str, metrics['active_dimensions'][:12]))})" if metrics["au"] else "")
        + f"; over {metrics['num_inputs']:,} inputs"
        + (f" of {metrics['num_given']:,}" if metrics.get("num_given", 0) > metrics["num_inputs"] else ""),
    ]
    if metrics.get("collapsed_since"):
        findings.append(f"collapsed since epoch {metrics['collapsed_since']}")
    used = math.nan
    if "nll_own_z" in metrics:
        used = metrics["nll_shuffled_z"] - metrics["nll_own_z"]
        findings.append(
            f"the decoder {'uses' if used >= USED_NATS else 'ignores'} z: reconstruction costs"
            f" {metrics['nll_own_z']:.2f} nats with a sequence's own z, {metrics['nll_shuffled_z']:.2f} with another's,"
            f" {metrics['nll_prior_z']:.2f} with one of the prior"
        )
        if used >= USED_NATS:
            findings.append(where_saved(metrics["saved"], used))
    if not math.isnan(metrics["dispersion"]):
        how = "nearly all alike" if metrics["dispersion"] > ALIKE else "dispersed"
        findings.append(f"features are {how}: mean cosine similarity {metrics['dispersion']:z.2f}")
    if metrics.get("cosine_by_pooling"):
        shown = ", ".join(f"{name} {value:z.2f}" for name, value in metrics["cosine_by_pooling"].items())
        findings.append(f"mean cosine similarity of the same states by pooling: {shown}")
    use = use_of(metrics["mi"], metrics["mi_se"])
    if use == Use.COLLAPSED and metrics["kl"] >= LITTLE_MI_NATS:
        verdict = "collapsed in effect: the posterior is far from the prior, and the same for every input"
    elif use == Use.COLLAPSED:
        verdict = "collapsed: the posterior is nearly the prior for every input, and carries nothing"
    elif used < USED_NATS:
        verdict = "nearly collapsed: the posterior moves, but the decoder makes little of it"
    elif use == Use.LITTLE:
        verdict = f"not collapsed, but z carries little: less than {LITTLE_MI_NATS:g} nats about its input"
    else:
        return Diagnosis("not collapsed", findings, [], metrics)
    cosines = metrics.get("cosine_by_pooling", {})
    return Diagnosis(verdict, findings, advice(settings, cosines, tested, with_evidence=with_evidence), metrics)
