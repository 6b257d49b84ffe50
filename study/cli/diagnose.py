"""Commands for looking: diagnose a run, a checkpoint or someone else's features."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from study.cli.types import complete_model, storage_option
from study.record.places import CHECKPOINTS, DEFINITION

if TYPE_CHECKING:
    from study.epoch import Epoch
    from study.inference.diagnosis import Diagnosis


@click.command("diagnose")
@click.argument("subject", shell_complete=complete_model)
@click.option("--corpus", help="Prepared folder; the one it was trained on if not given and known.")
@click.option("--evidence", "with_evidence", is_flag=True, help="Say what each advice did on this project's corpora.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, every number in it.")
@storage_option
def diagnose_command(subject: str, corpus: str | None, with_evidence: bool, as_json: bool, storage: Path) -> None:
    """Say whether SUBJECT has collapsed, since when, in which dimensions, whether its decoder uses z, and what to try.

    SUBJECT is a study (its best trial), STUDY:TRIAL, a folder that training wrote, or a .npz or .parquet file with
    `mean` and `log_variance` ([N, L]; `mu` and `logvar` will do) of any VAE, and to be told of dispersion `features`
    ([N, H], or [N, T, H] with `lengths`).

    \b
    study diagnose quick:0
    study diagnose features.npz
    """
    from study.config.stored import without_nan

    found = diagnose(subject, corpus, storage, with_evidence=with_evidence)
    if as_json:
        click.echo(json.dumps(without_nan(found.as_json())))
        return
    click.echo(found.verdict)
    for finding in found.findings:
        click.echo(f"  {finding}")
    if found.advice:
        click.echo("what to try, in this order:")
    for number, each in enumerate(found.advice, 1):
        click.echo(f"  {number}. {each}")


def diagnose(subject: str, corpus: str | None, storage: Path, *, with_evidence: bool = False) -> Diagnosis:
    """Return the diagnosis of what a SUBJECT argument names; raise StudyError, ModelError or CorpusError."""
    from study.errors import StudyError
    from study.inference.diagnosis import diagnose_features, diagnose_model
    from study.trainable.posteriors import read_dump

    path = Path(subject)
    if path.suffix in (".npz", ".parquet"):
        if not path.is_file():
            raise StudyError(f"no file {subject}")
        return diagnose_features(**({"features": None} | read_dump(path)), with_evidence=with_evidence)
    from study.analysis.findings import informative_peer
    from study.analysis.pooling_test import verdicts
    from study.inference.lookup import model_corpus, model_folder, settings_of
    from study.inference.trained_model import TrainedModel
    from study.record.ledger import Ledger

    trained = TrainedModel.open(model_folder(subject, storage))
    prepared = model_corpus(trained, subject, corpus, storage)
    # Up to the epoch of these weights.
    history = [row for row in run_history(trained.folder) if row.number <= (trained.about.epoch or math.inf)]
    study = storage / subject.partition(":")[0]
    ledger = Ledger.open(study) if (study / DEFINITION).is_file() else None
    trials = ledger.trials() if ledger is not None else []
    tested = {one.pooling: one.verdict for one in verdicts(ledger.definition, trials)} if ledger is not None else None
    found = diagnose_model(
        trained.network,
        prepared.split("valid"),
        settings_of(trained),
        history,
        tested=tested,
        with_evidence=with_evidence,
    )
    if found.advice and (peer := informative_peer(trials)):
        found.advice.insert(0, peer)
    return found


def run_history(folder: Path) -> list[Epoch]:
    """Return the epochs of the run that a model's folder belongs to; empty if it stands alone."""
    from study.epoch import Epoch
    from study.record.journal import read_journal
    from study.training.checkpoints import load_checkpoint

    rows = read_journal(folder.parent)
    if rows:
        return rows
    found = load_checkpoint(folder.parent / CHECKPOINTS)
    return list(map(Epoch.from_json, found[0].history)) if found else []
