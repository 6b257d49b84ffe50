"""Numbers that papers report, to print beside one's own for the same corpus and split; never for any other.

Those of Yahoo and Yelp are from He et al. (arXiv 1901.05534); those of PTB and SNLI are as Optimus
(arXiv 2004.04092) quotes them. Mutual information is in-batch in the first and over the whole set in the second.
"""

from __future__ import annotations

from typing import Any

from rich.table import Table

from data.corpus import Corpus
from study.errors import StudyError
from study.search.definition import Definition

TEST_SEQUENCES = {"yahoo": 10_000, "yelp": 10_000, "ptb": 3_761, "snli": 10_000}
VOCABULARY = {"yahoo": 20_000, "yelp": 20_000, "ptb": 10_000}
SAME_SIZE = 0.05
"""Vocabularies differ by so much at most: special tokens are counted differently."""

IN_BATCH = ("model", "nll", "kl", "mi_in_batch")
WHOLE_SET = ("model", "ppl", "mi", "au")
PUBLISHED: dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]] = {
    "yahoo": (
        IN_BATCH,
        [
            ("LSTM language model", 328.0, None, None),
            ("VAE + annealing", 328.6, 0.0, 0.0),
            ("beta-VAE 0.4", 328.5, 3.8, 2.2),
            ("semi-amortized + annealing", 327.4, 3.5, 1.9),
            ("aggressive", 328.0, 5.4, 3.0),
            ("aggressive + annealing", 326.6, 6.7, 3.2),
        ],
    ),
    "yelp": (
        IN_BATCH,
        [
            ("LSTM language model", 358.1, None, None),
            ("VAE + annealing", 358.1, 0.0, 0.0),
            ("beta-VAE 0.4", 358.8, 4.0, 1.8),
            ("semi-amortized + annealing", 355.9, 2.3, 1.3),
            ("aggressive", 357.0, 3.8, 2.6),
            ("aggressive + annealing", 355.9, 3.7, 2.3),
        ],
    ),
    "ptb": (
        WHOLE_SET,
        [
            ("LSTM language model", 100.47, None, None),
            ("VAE + annealing", 101.40, 0.0, 0),
            ("cyclical", 108.81, 1.27, 5),
            ("aggressive", 99.83, 0.83, 4),
            ("autoencoder + free bits", 96.86, 5.31, 32),
        ],
    ),
    "snli": (
        WHOLE_SET,
        [
            ("LSTM language model", 21.44, None, None),
            ("VAE + annealing", 21.50, 1.42, 2),
            ("aggressive", 21.16, 1.38, 5),
        ],
    ),
}


def published_rows(definition: Definition) -> list[dict[str, Any]]:
    """Return what papers report on a study's corpus; raise StudyError unless its own numbers are measured as theirs."""
    corpus_name, evaluation = definition.corpus_name, definition.space.fixed.evaluation
    if corpus_name not in PUBLISHED:
        raise StudyError(f"nothing published is known for {corpus_name}; there are rows for {', '.join(PUBLISHED)}")
    corpus = Corpus.open(definition.with_corpus().corpus)
    num_test, num_types = len(corpus.split("test")), corpus.vocabulary_size
    if num_test != TEST_SEQUENCES[corpus_name]:
        why = f"are on {TEST_SEQUENCES[corpus_name]:,} test sequences, this corpus has {num_test:,}"
    elif abs(num_types / VOCABULARY.get(corpus_name, num_types) - 1) > SAME_SIZE:
        why = f"are of a vocabulary of about {VOCABULARY[corpus_name]:,} words, this corpus has {num_types:,}"
    elif evaluation.final_num_sequences is not None:
        why = "are on the whole test split; leave out evaluation.final_num_sequences"
    elif definition.space.fixed.training.num_sequences is not None:
        why = "are of models trained on the whole training split; leave out training.num_sequences"
    else:
        names, rows = PUBLISHED[corpus_name]
        return [dict(zip(names, row, strict=True)) for row in rows]
    raise StudyError(f"published numbers of {corpus_name} {why}; they cannot stand beside each other")


def published_table(definition: Definition) -> Table:
    """Return those rows as a table; raise StudyError where there are none or they cannot stand beside a study's own."""
    rows = published_rows(definition)
    table = Table(title="Published, not run here", title_justify="left", box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    return table
