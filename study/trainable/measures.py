"""From what a trainable yields to an epoch's metrics: those it computed, and those that follow from its posterior."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model import diagnostics
from model.posterior import Posterior
from study.errors import StudyError
from study.metrics import METRICS
from study.trainable.posteriors import NAMES, as_numbers, posterior_metrics, read_dump, renamed, some_inputs
from study.training.evaluation import NOISE_SEED

NEEDED = ("kl", "mi", "au")
POSTERIOR = "posterior"
"""The key of a file, .npz or .parquet, with the posterior's `mean` and `log_variance`."""
KL_WEIGHT = "kl_weight"
"""Of the epoch: a figure draws it."""
OF_EPOCH = ("epoch", "step")
"""Keys that count, and are no metrics."""
RESERVED = ("train/", "valid/", "system/", "own/")
EXPECTED = (
    "expected nll, or elbo with --objective elbo (nats an input, of the validation set), and either kl, mi and au, or"
    " mean and log_variance [inputs, latent] of the validation set's posteriors"
)


def measure(given: object, ranked: str = "nll") -> dict[str, float]:
    """Return the metrics of an epoch: `valid/NAME` of those that are known, `own/NAME` of others; raise StudyError.

    Of the posterior's means and log-variances, KL, mutual information with its error, active units and, where there
    are features, dispersion are computed here, and win over what was computed elsewhere.
    """
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise StudyError(f"the trainable yielded {shown(given)}, not a mapping by names; {EXPECTED}")
    arrays = {name for others in NAMES.values() for name in others} | {POSTERIOR}
    found = {known_name(name): number(name, value) for name, value in given.items() if name not in {*arrays, *OF_EPOCH}}
    posterior = posterior_of(given)
    if posterior is not None:
        found |= {f"valid/{name}": value for name, value in of_posterior(posterior).items()}
    missing = [name for name in (ranked, *NEEDED) if f"valid/{name}" not in found]
    if missing[:1] == ["nll"] and "valid/elbo" in found:
        raise StudyError(
            "the trainable yielded elbo and no nll; --objective elbo has the study rank by it, and call it so"
        )
    if missing:
        raise StudyError(f"the trainable yielded no {', '.join(missing)}: it yielded {', '.join(given)}; {EXPECTED}")
    return found


def known_name(name: str) -> str:
    """Return the full name under which a number is kept."""
    if name in METRICS:
        return f"valid/{name}"
    if name == KL_WEIGHT:
        return f"train/{name}"
    return name if name.startswith(RESERVED) else f"own/{name.replace(' ', '_')}"


def number(name: str, value: object) -> float:
    """Return a number, also one of NumPy's or PyTorch's; raise StudyError for anything else."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if getattr(value, "shape", None) == () and callable(item := getattr(value, "item", None)):
        return number(name, item())
    raise StudyError(f"the trainable yielded {name} = {shown(value)}, which is no number")


def shown(value: object) -> str:
    """Return a value for a message: its beginning, or the shape of an array."""
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} {list(shape)}" if shape is not None else repr(value)[:60]


def posterior_of(given: Mapping[str, Any]) -> Posterior | None:
    """Return the posterior that was yielded, of some inputs if there are many; None without one. Raises StudyError."""
    file = given.get(POSTERIOR)
    arrays = renamed(given) | ({} if file is None else read_dump(Path(file)))
    if "mean" not in arrays and "log_variance" not in arrays:
        return None
    for name in ("mean", "log_variance"):
        if name not in arrays:
            raise StudyError(f"the trainable yielded half a posterior, without {name}; {EXPECTED}")
    tensors = {name: as_numbers(name, arrays[name]).double() for name in ("mean", "log_variance")}
    mean = tensors["mean"]
    tensors["features"] = as_numbers("features", arrays.get("features", torch.zeros(len(mean), 1))).double()
    fits = mean.ndim == 2 and mean.shape == tensors["log_variance"].shape and len(mean) > 1
    if not fits or tensors["features"].ndim != 2 or len(tensors["features"]) != len(mean):
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items() if name in arrays)
        raise StudyError(f"the trainable yielded {shapes}; {EXPECTED}, and features [inputs, size] if any")
    chosen = some_inputs(len(mean))
    return Posterior(mean[chosen], tensors["log_variance"][chosen], tensors["features"][chosen])


def of_posterior(posterior: Posterior) -> dict[str, float]:
    """Return what is known of a posterior, by the names of metrics."""
    found = posterior_metrics(posterior)
    known = {name: float(found[name]) for name in ("kl", "mi", "mi_se", "au", "dispersion")}
    generator = torch.Generator().manual_seed(NOISE_SEED)
    noise = torch.randn(posterior.mean.shape, generator=generator, dtype=torch.float64)
    known["mi_in_batch"] = diagnostics.mutual_information_in_batch(posterior, noise)
    return {name: value for name, value in known.items() if not math.isnan(value)}
