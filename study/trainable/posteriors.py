"""Posteriors that another model wrote down: read, and measured as those of this package are."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from model import diagnostics
from model.posterior import Posterior
from study.errors import StudyError, first_line
from study.training.evaluation import INFORMATION_DRAWS, NOISE_SEED

MOST_INPUTS = 5000
"""Inputs of a stranger's model looked at, drawn at random from more: the aggregate posterior takes their square."""

NAMES = {
    "mean": ("mean", "means", "mu", "z_mean", "latent_mean"),
    "log_variance": ("log_variance", "logvar", "log_var", "z_log_var", "log_variances"),
    "features": ("features", "pooled", "hidden"),
    "lengths": ("lengths",),
}
"""What others call what is needed, the usual name first."""


def renamed(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has one of the names that are known, under the usual one; raise StudyError if two are given."""
    found: dict[str, Any] = {}
    for usual, others in NAMES.items():
        given = [name for name in others if name in arrays]
        if len(given) > 1:
            raise StudyError(f"{' and '.join(given)} would both be the {usual}; leave one out")
        if given:
            found[usual] = arrays[given[0]]
    return found


def some_inputs(num: int) -> Tensor:
    """Return the places of the inputs that are looked at, in order, the same each time."""
    return torch.randperm(num, generator=torch.Generator().manual_seed(NOISE_SEED))[:MOST_INPUTS].sort().values


def as_numbers(name: str, array: ArrayLike) -> Tensor:
    """Return an array or a tensor, of any device and precision, as a tensor; raise StudyError without numbers."""
    if isinstance(array, Tensor):
        return array.detach().cpu()
    found = np.asarray(array)
    if found.dtype.kind not in "biuf":
        raise StudyError(f"{name} holds {found.dtype} values, expected an array of real numbers")
    return torch.as_tensor(found)


def posterior_metrics(posterior: Posterior) -> dict[str, Any]:
    """Return KL, MI, active dimensions and dispersion of a posterior; raise StudyError if its KL is not finite."""
    by_dimension = posterior.kl().double().mean(0)
    if not bool(torch.isfinite(by_dimension).all()):
        raise StudyError(
            "the KL of these posteriors is not finite; log_variance is the natural logarithm of a variance"
        )
    variance = posterior.mean.double().var(0)
    generator = torch.Generator().manual_seed(NOISE_SEED)
    draws = torch.randn(INFORMATION_DRAWS, *posterior.mean.shape, generator=generator)
    mi, mi_se = diagnostics.mutual_information_and_error(posterior, draws)
    active = diagnostics.active_dimensions(variance.tolist())
    return {
        "kl": float(by_dimension.sum()),
        "mi": mi,
        "mi_se": mi_se,
        "au": len(active),
        "active_dimensions": active,
        "kl_by_dimension": by_dimension.tolist(),
        "dispersion": diagnostics.dispersion(posterior.features),
        "num_inputs": len(posterior.mean),
    }


def padded(features: list[Any], arrays: dict[str, Any]) -> dict[str, Any]:
    """Return features as one array; states over time of unequal number are padded, and their `lengths` found."""
    counts = [len(each) for each in features]
    if "lengths" in arrays or len(set(counts)) <= 1 or not all(counts) or not isinstance(features[0][0], list):
        return {"features": np.array(features)}
    found = np.zeros((len(features), max(counts), len(features[0][0])))
    for row, each in zip(found, features, strict=True):
        row[: len(each)] = each
    return {"features": found, "lengths": np.array(counts)}


def read_dump(path: Path) -> dict[str, Any]:
    """Read `mean`, `log_variance` and maybe `features` and `lengths` from .npz or .parquet; raise StudyError.

    What is called otherwise is found by the names in `NAMES`.
    """
    import polars as pl

    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        else:
            frame = pl.read_parquet(path)
            arrays = {name: np.array(frame[name].to_list()) for name in frame.columns if name != "features"}
            arrays |= padded(frame["features"].to_list(), arrays) if "features" in frame.columns else {}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        # NumPy's advice is to unpickle whatever it does not know.
        said = "it is no .npz file of plain numbers" if "pickle" in str(error) else first_line(error)
        raise StudyError(f"{path} cannot be read: {said}") from None
    found = renamed(arrays)
    if missing := {"mean", "log_variance"} - set(found):
        raise StudyError(
            f"{path} has no {', '.join(sorted(missing))}; it holds {', '.join(sorted(arrays)) or 'nothing'}."
            " Expected mean [N, L] and log_variance [N, L] (mu and logvar will do), and to be told of dispersion"
            " features [N, H] or [N, T, H] (with lengths [N])"
        )
    return found
