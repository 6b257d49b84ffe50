"""Several studies beside each other: what each searched, found and cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from data.files import write_text
from study.analysis.findings import answer
from study.analysis.seed_noise import known_noise, seed_noise
from study.metrics import METRICS, SHOWN
from study.record.formats import show_params
from study.record.ledger import Ledger
from study.record.trials import TrialRecord, best_trial, counts
from study.reporting.document import check_target, now, to_html
from study.reporting.figures import studies_trade_off
from study.search.definition import Definition


def measured(definitions: Sequence[Definition]) -> tuple[str, ...]:
    """Return the metrics that are shown of studies: of each what it ranks by."""
    ranked = list(dict.fromkeys(definition.goal.ranked for definition in definitions))
    return (*ranked, *(name for name in SHOWN if name not in ("nll", *ranked)), "bits_per_byte")


def columns(definitions: Sequence[Definition]) -> tuple[str, ...]:
    """Return the headings of a table of studies."""
    return ("study", "corpus", "trials", *measured(definitions), "seed s.d.", "hours", "best settings")


def compared(studies: list[tuple[Definition, list[TrialRecord]]]) -> list[list[str]]:
    """Return the cells of a table with a row for each study, as `columns` names them; metrics of its best trial."""
    rows, metrics = [], measured([definition for definition, _ in studies])
    for definition, trials in studies:
        best = best_trial(trials)
        cells = (
            ["-"] * len(metrics)
            if best is None
            else [METRICS[name].show(best.best.get(f"valid/{name}")) for name in metrics]
        )
        states = ", ".join(f"{count} {state}" for state, count in counts(definition, trials).items())
        noise, settings = seed_noise(trials)
        rows.append(
            [
                definition.name,
                definition.corpus_name,
                states,
                *cells,
                f"{noise:.2f}" if settings else "-",
                f"{sum(trial.seconds for trial in trials) / 3600:.2f}",
                "-" if best is None else show_params(best.params),
            ]
        )
    return rows


def compared_table(ledgers: list[Ledger]) -> Table:
    """Return that table for a terminal."""
    table = Table(title="Studies, best trial on validation", title_justify="left", box=None, pad_edge=False)
    for name in columns([ledger.definition for ledger in ledgers]):
        words = name in ("study", "corpus", "best settings")
        table.add_column(name, justify="left" if words else "right", overflow="fold")
    for row in compared([(ledger.definition, ledger.trials()) for ledger in ledgers]):
        table.add_row(*row)
    return table


def incomparable(ledgers: list[Ledger]) -> str:
    """Return why the studies' numbers cannot be compared, or nothing."""
    if len({each.definition.goal.ranked for each in ledgers}) > 1:
        return "These studies rank by different numbers, nll and elbo, which cannot be compared."
    evaluated = {(each.definition.corpus_fingerprint, each.definition.space.fixed.evaluation) for each in ledgers}
    if len(evaluated) == 1:
        return ""
    return (
        "These studies differ in corpus or in how validation is measured: their numbers cannot be compared. Of the same"
        " text cut into other tokens bits_per_byte can, while nll and ppl count other things."
    )


def write_studies(ledgers: list[Ledger], path: Path) -> None:
    """Write all of it as one HTML file that needs no network, aside and then renamed; raise StudyError."""
    check_target(path, ".html")
    studies = [(ledger.definition, ledger.trials()) for ledger in ledgers]
    answers = []
    for ledger, (definition, trials) in zip(ledgers, studies, strict=True):
        nats, noise = known_noise(ledger, trials)
        answers.append(f"{definition.name}: {answer(definition, trials, noise, nats)[0]}")
    content = {
        "names": [definition.name for definition, _ in studies],
        "answers": answers,
        "warning": incomparable(ledgers),
        "header": columns([definition for definition, _ in studies]),
        "rows": compared(studies),
        "commands": [definition.command for definition, _ in studies],
        "written": now(),
        "following": "",
    }
    # Of different numbers there is no figure.
    is_one = len({definition.goal.ranked for definition, _ in studies}) == 1
    write_text(path, to_html("studies.html.j2", content, {"trade-off": studies_trade_off(studies)} if is_one else {}))
