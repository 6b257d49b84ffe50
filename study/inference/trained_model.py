"""A trained model to use: text to latent values and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from data.batches import Batch, BatchOrder, collate
from data.corpus import Split
from data.files import first_problem
from data.tokens.cleaning import CleaningSettings
from data.tokens.codec import Codec
from data.vocabulary import Vocabulary
from model import generation
from model.diagnostics import active_dimensions
from model.errors import ModelError
from model.network.vae import SequenceVAE
from model.weights import DESCRIPTION, Description, describe, load_network
from study.inference.texts import texts_in
from study.training.evaluation import evaluating

Texts = Any
"""Texts as `TrainedModel.encode` takes them."""

BATCH_SIZE = 64
DECODINGS = ("greedy", "sample", "beam")


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen: greedy, sampled or by beam search, and for how long at most."""

    method: str = "greedy"
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    beam_width: int = 5
    max_tokens: int | None = None
    """As many as texts of the model's tokenizer usually have at most, if not given."""

    def __call__(self, network: SequenceVAE, latent: Tensor, seed: int, most_tokens: int) -> Tensor:
        """Return token ids `[batch, steps]`; raise ModelError if a setting is out of range."""
        max_tokens = most_tokens if self.max_tokens is None else self.max_tokens
        if max_tokens < 1:
            raise ModelError(f"max_tokens must be at least 1, got {max_tokens}")
        if seed < 0:
            raise ModelError(f"seed must be at least 0, got {seed}")
        if self.method == "greedy":
            return generation.greedy(network, latent, max_tokens)
        if self.method == "beam":
            return generation.beam(network, latent, max_tokens, self.beam_width)
        if self.method == "sample":
            return generation.sample(
                network,
                latent,
                max_tokens,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                seed=seed,
            )
        raise ModelError(f"unknown decoding {self.method!r}; expected one of {', '.join(DECODINGS)}")


@dataclass(frozen=True)
class TrainedModel:
    """A network with its vocabulary, and how its corpus was tokenised: text in, text out."""

    folder: Path
    network: SequenceVAE
    codec: Codec
    about: Description

    @classmethod
    def open(cls, folder: Path | str, device: str | None = None) -> TrainedModel:
        """Open a folder that training wrote, on a GPU if there is one; raise ModelError if it is foreign or damaged."""
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        folder = Path(folder)
        about = describe(folder)
        network = load_network(folder, device)
        vocabulary = Vocabulary.read(folder / "vocabulary.json")
        if len(vocabulary) != network.vocabulary_size:
            raise ModelError(
                f"{folder} is damaged: a vocabulary of {len(vocabulary)} for a network of {network.vocabulary_size}"
            )
        try:
            cleaning = CleaningSettings.model_validate(about.cleaning)
        except ValidationError as error:
            raise ModelError(f"{folder / DESCRIPTION} is damaged: {first_problem(error)}; train again") from None
        return cls(folder, network, Codec(vocabulary, cleaning), about)

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that the model knows."""
        return self.codec.vocabulary

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.network.parameters()).device

    def batches(self, texts: list[str]) -> list[Batch]:
        """Tokenise texts as the corpus was, and batch them by length."""
        sequences = self.codec.encode(texts)
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        return [
            collate([sequences[index] for index in indices], indices).to(self.device)
            for indices in BatchOrder(lengths, BATCH_SIZE).in_order_of_length()
        ]

    def encode(self, texts: Texts) -> NDArray[np.float32]:
        """Return the posterior mean of each text, `[texts, latent]`.

        `texts` are a list, a series, or a frame (polars or pandas) with a column `text`; raises StudyError for a bare
        string, which is no list of texts.
        """
        texts = texts_in(texts)
        means = np.zeros((len(texts), self.network.settings.latent_size), np.float32)
        with evaluating(self.network):
            for batch in self.batches(texts):
                means[batch.indices] = self.network.encode(batch.tokens, batch.lengths).mean.cpu().numpy()
        return means

    def decode(self, latent: NDArray[np.float32], decoding: Decoding = Decoding(), seed: int = 0) -> list[str]:
        """Return one text for each latent value `[texts, latent]`."""
        texts: list[str] = []
        with evaluating(self.network):
            for start in range(0, len(latent), BATCH_SIZE):
                part = torch.from_numpy(latent[start : start + BATCH_SIZE]).to(self.device)
                ids = decoding(self.network, part, seed + start, self.codec.tokenizer.usual_length)
                texts += [self.codec.decode(row) for row in ids.tolist()]
        return texts

    def reconstruct(self, texts: Texts, decoding: Decoding = Decoding()) -> list[str]:
        """Return each text decoded from its own posterior mean."""
        return self.decode(self.encode(texts), decoding)

    def sample(self, num: int, decoding: Decoding = Decoding("sample"), seed: int = 0) -> list[str]:
        """Return texts decoded from draws of the prior."""
        if seed < 0:
            raise ModelError(f"seed must be at least 0, got {seed}")
        draws = np.random.default_rng(seed).standard_normal((num, self.network.settings.latent_size), np.float32)
        return self.decode(self.within(draws), decoding, seed)

    def interpolate(self, start: str, end: str, num: int, decoding: Decoding = Decoding()) -> list[str]:
        """Return texts along the line between two texts' posterior means, both ends included."""
        first, last = torch.from_numpy(self.encode([start, end]))
        return self.decode(self.within(generation.interpolate(first, last, num).numpy()), decoding)

    def traverse(
        self, text: str | None, dimensions: list[int], num: int, reach: float = 2.0, decoding: Decoding = Decoding()
    ) -> list[tuple[int, float, str]]:
        """Return (dimension, its value, text) along each dimension in turn, from -reach to reach standard deviations.

        The other dimensions stay at the text's posterior mean, or at the prior's mean without a text. Raises
        ModelError if a dimension does not exist or the latent space is a sphere, which has no such lines.
        """
        size = self.network.settings.latent_size
        if self.network.settings.posterior == "von-mises-fisher":
            raise ModelError("the latent space of a von-mises-fisher posterior is a sphere; there is no axis to follow")
        wrong = [dimension for dimension in dimensions if not 0 <= dimension < size]
        if wrong:
            raise ModelError(f"no latent dimension {wrong[0]}; the model has {size}, numbered from 0")
        start = np.zeros(size, np.float32) if text is None else self.encode([text])[0]
        values = np.linspace(-reach, reach, num, dtype=np.float32)
        places = [(dimension, float(value)) for dimension in dimensions for value in values]
        latent = np.tile(start, (len(places), 1))
        for row, (dimension, value) in enumerate(places):
            latent[row, dimension] = value
        texts = self.decode(latent, decoding)
        return [(dimension, value, text) for (dimension, value), text in zip(places, texts, strict=True)]

    def within(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return latent values `[rows, latent]` as the prior has them: on the unit sphere, where that is its space."""
        if self.network.settings.posterior != "von-mises-fisher":
            return latent
        return np.asarray(latent / np.linalg.norm(latent, axis=1, keepdims=True), np.float32)

    @property
    def active_dimensions(self) -> list[int]:
        """The latent dimensions that were active on the validation split when training ended, the most active first."""
        variance: list[float] = self.about.dimensions.get("variance", [])
        return active_dimensions(variance)

    def bleu(self, texts: list[str], decoding: Decoding = Decoding()) -> float:
        """Return the BLEU, 0 to 100, of the reconstructions of texts, by their own tokens."""
        import sacrebleu

        wanted = [" ".join(tokens) for tokens in self.codec.tokens(texts)]
        found_texts = self.reconstruct(texts, decoding)
        if self.codec.tokenizer.is_exact:
            # Else they are tokens joined by blanks already.
            found_texts = [" ".join(tokens) for tokens in self.codec.tokens(found_texts)]
        found = sacrebleu.corpus_bleu(found_texts, [wanted], tokenize="none", force=True)
        return float(found.score)

    def texts(self, split: Split, num: int) -> list[str]:
        """Return the first texts of a split, as the model sees them."""
        return [self.codec.decode(split.sequence(index)) for index in range(min(num, len(split)))]
