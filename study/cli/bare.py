"""`python -m study train` and `evaluate` where click is not installed: on a machine with PyTorch and little else."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from data.corpus import VOCABULARY, Corpus
from data.errors import CorpusError
from data.vocabulary import Vocabulary
from model.errors import ModelError
from study.config.stored import without_nan
from study.errors import StudyError
from study.training.single import check_vocabulary, evaluate_network, tell, train_model


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of both commands; `study train --help` and `study evaluate --help` explain their options."""
    parser = argparse.ArgumentParser(
        prog="python -m study", description="Without click there are these two; `pip install .` brings all commands."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="Train one model on a prepared corpus, or go on with it.")
    train.add_argument("corpus")
    train.add_argument("--out", type=Path, required=True)
    train.add_argument("--preset")
    train.add_argument("--config", type=Path)
    train.add_argument("--set", dest="assignments", action="append", default=[], metavar="NAME=VALUE")
    evaluate = commands.add_parser("evaluate", help="Measure a model folder on a split.")
    evaluate.add_argument("model", type=Path)
    evaluate.add_argument("--corpus", required=True)
    evaluate.add_argument("--split", choices=["train", "valid", "test"], default="test")
    evaluate.add_argument("--samples", type=int)
    evaluate.add_argument("--tolerance", type=float)
    evaluate.add_argument("--widen", action=argparse.BooleanOptionalAction, default=True)
    evaluate.add_argument("--sequences", type=int)
    return parser


def evaluate_model(given: argparse.Namespace) -> None:
    """Print every metric of a model folder as one JSON object."""
    from importlib.util import find_spec

    from model.weights import describe, load_network
    from study.config.training import TrainingSettings
    from study.training.devices import choose_device

    network = load_network(given.model, choose_device(TrainingSettings()))
    corpus = Corpus.open(given.corpus)
    about = describe(given.model)
    check_vocabulary(corpus, Vocabulary.read(given.model / VOCABULARY), about)
    metrics = evaluate_network(
        network,
        about,
        corpus,
        given.split,
        given.samples,
        given.tolerance,
        given.widen,
        given.sequences,
    )
    if find_spec("arviz_stats") is None:
        tell("`untrusted` is not known: it needs arviz-stats, which is not installed")
    print(json.dumps(without_nan({"model": str(given.model), "split": given.split, **metrics})))


def entry() -> None:
    """Run a command; exit with 1 and one line for a user's mistake."""
    given = make_parser().parse_args()
    try:
        if given.command == "train":
            for row in train_model(given.corpus, given.out, given.preset, given.config, given.assignments):
                print(json.dumps(row.to_json()), flush=True)
        else:
            evaluate_model(given)
    except (CorpusError, ModelError, StudyError) as error:
        sys.exit(f"study: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"study: this needs {error.name}, which is not installed here; `pip install .` brings it")
    except KeyboardInterrupt:
        sys.exit(130)
