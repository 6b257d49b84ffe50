"""How values are shown: numbers, settings, means with their spread; and texts of users in Markdown, never as markup."""

from __future__ import annotations

import math
import re

from study.config.settings import Params

LINE_BREAK = "  \n"
"""Markdown's, between the lines of a description: MLflow shows its first 100 pixels until one asks for more."""
MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~])")


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


def plain(text: object) -> str:
    """Return a text in which nothing is markup, on one line; in a cell of a table as well."""
    flat = " ".join(str(text).split("\n")).replace("&", "&amp;").replace("<", "&lt;")
    return MARKS.sub(r"\\\1", flat).replace("://", "\\://").replace("www.", "www\\.")


def prose(sentence: str, *names: str) -> str:
    """Return a sentence of ours, in which the names that users gave are no markup."""
    for name in filter(None, names):
        sentence = sentence.replace(name, plain(name))
    return sentence


def code(text: str) -> str:
    """Return a text as a span of code, whatever backquotes it holds."""
    flat = " ".join(text.split("\n"))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    return f"{fence}{flat}{fence}" if fence == "`" else f"{fence} {flat} {fence}"


def code_block(text: str, language: str = "sh") -> str:
    """Return a text as a block of code, whatever backquotes it holds."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"
