"""Texts of users and corpora as they stand in Markdown: shown as they are, never taken for markup or links."""

from __future__ import annotations

import re

MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~])")


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
