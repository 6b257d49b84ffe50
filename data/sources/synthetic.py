"""A corpus whose exact log-likelihood is known: a mixture of unigram topics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from data.corpus import Split


@dataclass(frozen=True)
class Topics:
    """Sequences of uniform length, each drawn word by word from one of several word distributions.

    A sequence of n words has p(x) = p(n) * mean over topics of the product of its words' probabilities,
    which no model can beat on average.
    """

    seed: int = 0
    num_sequences: int = 8000
    num_topics: int = 16
    num_words: int = 500
    concentration: float = 0.1
    min_length: int = 15
    max_length: int = 44

    @property
    def words(self) -> tuple[str, ...]:
        """The word types, `w000` and on."""
        return tuple(f"w{index:03d}" for index in range(self.num_words))

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Each topic's word probabilities, `[topics, words]`."""
        generator = np.random.default_rng([self.seed, 0])
        return generator.dirichlet(np.full(self.num_words, self.concentration), self.num_topics)

    def sample(self) -> list[list[str]]:
        """Draw the corpus; the same seed gives the same corpus."""
        generator = np.random.default_rng([self.seed, 1])
        words = np.array(self.words)
        topics = generator.integers(self.num_topics, size=self.num_sequences)
        lengths = generator.integers(self.min_length, self.max_length + 1, size=self.num_sequences)
        return [
            words[generator.choice(self.num_words, size=length, p=self.probabilities[topic])].tolist()
            for topic, length in zip(topics, lengths, strict=True)
        ]

    def log_likelihood(self, word_ids: NDArray[np.int64]) -> float:
        """Return log p(x) in nats of one sequence of word numbers (`w007` is 7), its end included."""
        with np.errstate(divide="ignore"):
            by_topic = np.log(self.probabilities[:, word_ids]).sum(axis=1)
        num_lengths = self.max_length - self.min_length + 1
        return float(np.logaddexp.reduce(by_topic) - np.log(self.num_topics) - np.log(num_lengths))


def exact_nll(split: Split, seed: int) -> float:
    """Return the mean exact -log p(x) in nats of a split of the prepared corpus `synthetic-topics`."""
    topics = Topics(seed=seed)
    # Word number 0 has the id after the special tokens'.
    return float(
        np.mean([-topics.log_likelihood(split.sequence(index).astype(np.int64) - 4) for index in range(len(split))])
    )
