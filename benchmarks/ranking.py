"""How good the number is that ranks: each complete trial of a study measured again with many samples.

    python benchmarks/ranking.py quick [--storage runs] [--samples 500]

The reference is `study evaluate STUDY:TRIAL --split valid` on the sequences that the study validates on, less the first
term of its bias.
"""

from __future__ import annotations

import json
import subprocess
import sys

import click
from rich.console import Console
from rich.table import Table

STUDY = [sys.executable, "-c", "from study.cli.main import entry; entry()"]


def ask(*arguments: str) -> str:
    """Return what a command of the product prints."""
    return subprocess.run([*STUDY, *arguments], stdout=subprocess.PIPE, check=True, text=True).stdout


@click.command()
@click.argument("study")
@click.option("--storage", default="runs", show_default=True)
@click.option("--samples", default="500", show_default=True)
@click.option("--sequences", default="400", show_default=True, help="The study's evaluation.num_sequences.")
def main(study: str, storage: str, samples: str, sequences: str) -> None:
    """Print the ranked and the reference nll of STUDY's complete trials, and which trial either names."""
    where = ("--storage", storage)
    trials = [json.loads(line) for line in ask("report", study, "--json", *where).splitlines()]
    complete = [each for each in trials if each["state"] == "complete"]
    table = Table("trial", "KL", "nll, ranked", "nll, reference", "difference", "untrusted", "feasible", box=None)
    ranked, reference, errors = {}, {}, []
    for trial in complete:
        number, measured = trial["trial"], trial["valid"]
        name = f"{study}:{number}"
        asked = ("--split", "valid", "--samples", samples, "--sequences", sequences, "--json")
        found = json.loads(ask("evaluate", name, *asked, *where))
        difference = measured["nll"] - found["nll_debiased"]
        if trial["feasible"]:
            ranked[number], reference[number] = measured["nll"], found["nll_debiased"]
        if found["untrusted"] <= 0.05:
            errors.append(abs(difference))
        table.add_row(
            str(number),
            f"{measured['kl']:.2f}",
            f"{measured['nll']:.3f}",
            f"{found['nll_debiased']:.3f}",
            f"{difference:+.3f}",
            f"{found['untrusted']:.0%}",
            "yes" if trial["feasible"] else "no",
        )
    console = Console(width=120)
    console.print(table)
    named, best = (min(values, key=values.__getitem__) for values in (ranked, reference))
    console.print(
        f"{study}: of {len(ranked)} feasible trials, {named} is named, {reference[named] - reference[best]:.3f} nats"
        f" behind the reference's best, {best}; largest difference of the {len(errors)} of {len(complete)} trials with"
        f" no more than 5 % untrusted: {max(errors):.3f}"
    )


if __name__ == "__main__":
    main()
