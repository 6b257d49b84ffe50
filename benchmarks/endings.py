"""What ending collapsed trials early saves, and whom it would have lost: the rule over recorded learning curves.

    python benchmarks/endings.py

Of curves in which nothing was ended (see benchmarks/search.py), each is read until the rule of
`study.training.ending` ends it. A trial that is not collapsed at the end of its curve would have recovered.
"""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.search import CURVES, Curves
from model.collapse import is_collapsed


@click.command()
@click.option("--curves", "path", type=click.Path(path_type=Path), default=CURVES, show_default=True)
def main(path: Path) -> None:
    """Print what the rule does to the curves of a table."""
    curves = Curves.read(path, within=0.005)
    ended = {}
    for number, rows in enumerate(curves.rows):
        epoch = next((row.number for row in rows if curves.is_ended_as_collapsed(number, row.number)), None)
        if epoch is not None and epoch < len(rows):
            ended[number] = epoch
    lost = [number for number in ended if not is_collapsed(curves.rows[number][-1]["valid/mi"], float("nan"))]
    saved = sum(len(curves.rows[number]) - epoch for number, epoch in ended.items())
    epochs = sum(map(len, curves.rows))
    most = stats.binomtest(len(lost), max(1, len(ended))).proportion_ci(0.95, "exact").high
    table = Table("trials", "ended early", "would have recovered", "95 % at most", "epochs saved", box=None)
    table.add_row(
        str(len(curves.rows)),
        str(len(ended)),
        str(len(lost)),
        f"{most:.0%}",
        f"{saved} of {epochs} ({saved / epochs:.0%})",
    )
    Console().print(table)


if __name__ == "__main__":
    main()
