"""Whether a search has settled: what it can still be expected to gain is less than the luck of a seed.

Trials are taken for draws in any order. The best of m of the n so far is on average, over all subsets of that size,
sum_i x_(i) C(n-i, m-1) / C(n, m) with x_(1) <= ... <= x_(n); what the last doubling gained, the best of half of them
less the best of all, bounds what the next one can be expected to gain, since gains shrink as a search goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEAST_TRIALS = 8
"""Fewer say nothing: half of them are what a sampler starts with."""


def expected_best(values: Sequence[float], size: int) -> float:
    """Return the mean, over all subsets of a size, of the lowest value in them; infinite values are trials without one.

    Infinite where a subset can have nothing else.
    """
    ordered, num = np.sort(np.asarray(values, np.float64)), len(values)
    if not 1 <= size <= num:
        raise ValueError(f"expected a size from 1 to {num}, got {size}")
    weights = np.array([math.comb(num - place - 1, size - 1) / math.comb(num, size) for place in range(num)])
    kept = weights > 0
    return float(ordered[kept] @ weights[kept])


def expected_gain(values: Sequence[float]) -> float:
    """Return what as many trials again can be expected to gain at most, in the unit of the values; infinite if unknown.

    `values` has one for each trial so far, lower being better: infinite for one that may not win.
    """
    if len(values) < LEAST_TRIALS:
        return math.inf
    half = expected_best(values, len(values) // 2)
    return half - expected_best(values, len(values)) if math.isfinite(half) else math.inf


def has_settled(values: Sequence[float], noise: float) -> bool:
    """Say whether a search with these values so far can be expected to gain less than the seed noise, in the same unit.

    Never where the noise is not known (nan).
    """
    return expected_gain(values) < noise
