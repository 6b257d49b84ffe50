"""Text to token ids and back, as a corpus or a model that was trained on it has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from data.corpus import Corpus
from data.errors import CorpusError
from data.files import first_problem
from data.tokens.cleaning import CleaningSettings, tokenize_texts, tokenizer_of
from data.tokens.subwords import Subwords
from data.tokens.tokenizers import Tokenizer
from data.vocabulary import SPECIAL_TOKENS, Vocabulary


def codec_of(corpus: Corpus) -> Codec:
    """Return how a prepared corpus' text became ids; raise CorpusError if its manifest is damaged."""
    try:
        cleaning = CleaningSettings.model_validate(corpus.cleaning)
    except ValidationError as error:
        raise CorpusError(f"{corpus.folder} is damaged: {first_problem(error)}; prepare it again") from None
    return Codec(corpus.vocabulary, cleaning)


@dataclass(frozen=True)
class Codec:
    """A vocabulary and how text was cleaned and cut into its tokens."""

    vocabulary: Vocabulary
    cleaning: CleaningSettings

    @cached_property
    def subwords(self) -> Subwords:
        """The byte-pair encoding that is in the vocabulary."""
        return Subwords(self.vocabulary.tokens[len(SPECIAL_TOKENS) :], self.vocabulary.merges)

    @property
    def tokenizer(self) -> Tokenizer:
        """How text becomes tokens, and tokens text."""
        return tokenizer_of(self.cleaning)

    def tokens(self, texts: list[str]) -> list[list[str]]:
        """Return the tokens of each text; a list without any of a text of white space."""
        found = tokenize_texts(texts, self.cleaning)
        if not self.tokenizer.is_trained:
            return found
        distinct = list(dict.fromkeys(piece for pieces in found for piece in pieces))
        encoded = dict(zip(distinct, self.subwords.encode(distinct), strict=True))
        return [[token for piece in pieces for token in encoded[piece]] for pieces in found]

    def encode(self, texts: list[str]) -> list[NDArray[np.int64]]:
        """Return the token ids of each text, without `<s>` and `</s>`; those of unknown tokens are `<unk>`'s."""
        return [np.array(self.vocabulary.encode(tokens), np.int64) for tokens in self.tokens(texts)]

    def join(self, tokens: Sequence[str]) -> str:
        """Return the text that tokens stand for."""
        return self.tokenizer.join(tokens)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids up to the first `</s>`."""
        return self.join(self.vocabulary.decode(ids))
