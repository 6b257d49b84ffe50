"""How values are shown: numbers, settings, means with their spread."""

from __future__ import annotations

import math

from study.config.settings import Params

LINE_BREAK = "  \n"
"""Markdown's, between the lines of a description: MLflow shows its first 100 pixels until one asks for more."""


def show_value(value: object) -> str:
    """Return a setting's or metric's value, short."""
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) else str(value)
    return str(value)


def show_params(params: Params) -> str:
    """Return searched settings in one line, by their last names."""
    return "  ".join(f"{name.rsplit('.', 1)[-1]}={show_value(value)}" for name, value in params.items())


def show_number(value: float | None) -> str:
    """Return a number with two decimals, whole if it is an integer; a dash if there is none."""
    if value is None or math.isnan(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:z.2f}"


def mean_and_spread(mean: float, deviation: float | None) -> str:
    """Return a cell: the mean over seeds, and their standard deviation if there are several."""
    shown, spread = show_number(mean), show_number(deviation)
    return shown if "-" in (shown, spread) else f"{shown} ± {spread}"
