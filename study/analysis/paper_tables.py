"""A comparison's tables as papers and pages take them: LaTeX and Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from study.analysis.comparison import COLUMNS, TOGETHER, Comparison, comparison_rows, notes, tables
from study.record.formats import code

SPECIAL = str.maketrans({"±": r"$\pm$", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$"})
"""What LaTeX reads otherwise than as a letter, in what tables and names of settings hold."""


def markdown(comparison: Comparison, columns: tuple[str, ...] = COLUMNS) -> str:
    """Return a comparison's tables, notes and command as Markdown."""
    return as_markdown(tables(comparison, columns), [*notes(comparison), code(comparison.ledger.definition.command)])


def as_markdown(shown: Sequence[Table], below: Sequence[str]) -> str:
    """Return tables as Markdown, with what is said below them."""
    parts = []
    for table in map(copy, shown):
        parts.append(f"**{table.title}**")
        table.title, table.box, table.pad_edge = None, box.MARKDOWN, True
        console = Console(file=StringIO(), width=100_000, highlight=False, emoji=False)
        with console.capture() as captured:
            console.print(table)
        parts.append(re.sub("-{4,}", "---", re.sub(" {2,}", " ", captured.get().strip())))
    return "\n\n".join([*parts, *below]) + "\n"


def latex(comparison: Comparison, columns: tuple[str, ...] = COLUMNS) -> str:
    """Return a comparison's first table in LaTeX, for the package booktabs, with its notes as comments."""
    import pandas as pd

    headings, rows = comparison_rows(comparison, columns)
    frame = pd.DataFrame([[cell.translate(SPECIAL) for cell in row] for row in rows])
    frame.columns = [heading.translate(SPECIAL) for heading in headings]
    name, together = comparison.ledger.definition.corpus_name.translate(SPECIAL), TOGETHER.translate(SPECIAL)
    made: str = frame.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="ll" + "r" * (len(headings) - 2),
        caption=f"Test split of {name}: mean and standard deviation over seeds, {together}.",
        position_float="centering",
    )
    comments = [*notes(comparison), comparison.ledger.definition.command]
    return "".join(f"% {' '.join(line.split())}\n" for line in comments) + made
