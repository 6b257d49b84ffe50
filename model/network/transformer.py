"""Transformers as an encoder's and a decoder's layers: normalised before each part, a cache of keys and values."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.config import NetworkSettings
from model.errors import ModelError
from model.network.pooling import valid_steps
from model.network.protocols import SequenceDecoder, SequenceEncoder, State
from model.network.recurrence import copied
from model.shapes import Bool, Float, Int

Mask = Bool[Tensor, "#batch 1 #queries _"]
Heads = Float[Tensor, "batch heads _ size"]
SLOWEST = 10_000.0
"""The wavelength of the slowest sinusoid, in tokens over 2 pi (Vaswani et al., arXiv 1706.03762)."""
REPEATABLE = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
"""Kernels whose backward pass adds up in one order: the memory-efficient one of CUDA does not."""
WIDENING = 4
"""Units of the layer between, for each of a state's."""


class Positions(nn.Module):
    """A vector for each place in a sequence: sinusoids, which have no end, or learned ones up to the longest."""

    def __init__(self, settings: NetworkSettings, longest: int) -> None:
        super().__init__()
        self.size, self.longest = settings.hidden_size, longest
        self.learned = nn.Embedding(longest, settings.hidden_size) if settings.positions == "learned" else None

    def forward(self, start: int, num_steps: int, device: torch.device) -> Float[Tensor, "steps hidden"]:
        """Return the vectors from a place on; raise ModelError beyond the last that there is."""
        places = torch.arange(start, start + num_steps, device=device)
        if self.learned is None:
            return sinusoids(places, self.size)
        if start + num_steps > self.longest:
            raise ModelError(
                f"a sequence of {start + num_steps} tokens is longer than the {self.longest} that this network has"
                " learned positions for; model.positions = sinusoidal has no end"
            )
        found: Tensor = self.learned(places)
        return found


def sinusoids(places: Int[Tensor, " steps"], size: int) -> Float[Tensor, "steps hidden"]:
    """Return sines and cosines of each place, of wavelengths from 2 pi to 20,000 pi in turn (arXiv 1706.03762)."""
    pairs = torch.arange(0, size, 2, device=places.device)
    angles = places[:, None] * torch.exp(pairs * (-math.log(SLOWEST) / size))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :size]


class Block(nn.Module):
    """Attention and two layers in between, each added to what it was given normalised."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        width = settings.hidden_size
        self.num_heads, self.dropout = settings.num_heads, settings.inner_dropout
        self.before_attention = nn.LayerNorm(width)
        self.to_heads = nn.Linear(width, 3 * width)
        self.from_heads = nn.Linear(width, width)
        self.before_between = nn.LayerNorm(width)
        self.between = nn.Sequential(nn.Linear(width, WIDENING * width), nn.GELU(), nn.Linear(WIDENING * width, width))

    def forward(
        self,
        states: Float[Tensor, "batch queries width"],
        mask: Mask | None,
        past: tuple[Heads, Heads] | None = None,
    ) -> tuple[Float[Tensor, "batch queries width"], Heads, Heads]:
        """Return the new states, and the keys and values of `past` and of these; the mask is false where none looks."""
        parts = self.to_heads(self.before_attention(states)).chunk(3, 2)
        query, key, value = (split(part, self.num_heads) for part in parts)
        if past is not None:
            key, value = torch.cat([past[0].to(key.dtype), key], 2), torch.cat([past[1].to(value.dtype), value], 2)
        with sdpa_kernel(REPEATABLE):
            looked = F.scaled_dot_product_attention(query, key, value, mask, self.dropout if self.training else 0.0)
        joined = self.from_heads(looked.transpose(1, 2).flatten(2))
        states = states + F.dropout(joined, self.dropout, self.training)
        between = self.between(self.before_between(states))
        return states + F.dropout(between, self.dropout, self.training), key, value


def split(states: Float[Tensor, "batch steps width"], num_heads: int) -> Heads:
    """Return states divided among heads, `[batch, heads, steps, size]`."""
    return states.view(*states.shape[:2], num_heads, -1).transpose(1, 2)


class TransformerEncoder(SequenceEncoder):
    """Every token looks at every token of its sequence."""

    def __init__(self, settings: NetworkSettings, longest: int) -> None:
        super().__init__(settings, longest)
        self.to_width = nn.Linear(settings.embedding_size, settings.hidden_size)
        self.positions = Positions(settings, longest)
        self.blocks = nn.ModuleList([Block(settings) for _ in range(settings.num_encoder_layers)])
        self.norm = nn.LayerNorm(settings.hidden_size)

    def forward(
        self, embedded: Float[Tensor, "batch time embedding"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time hidden"]:
        """Return the last layer's normalised state at each token; none looks at padding."""
        states = self.to_width(embedded) + self.positions(0, embedded.shape[1], embedded.device)
        mask = valid_steps(states, copied(lengths, states.device))[:, None, None, :, 0]
        for block in self.blocks:
            states, _, _ = block(states, mask)
        normalised: Tensor = self.norm(states)
        return normalised


class TransformerDecoder(SequenceDecoder):
    """Every token looks at itself and those before, and at z.

    `latent_to_input` adds a projection of z to each embedding; `latent_to_state` gives each layer a position before the
    first, whose key and value are a projection of z: the memory of Optimus (Li et al., arXiv 2004.04092).
    """

    def __init__(self, settings: NetworkSettings, longest: int) -> None:
        super().__init__(settings, longest)
        width, latent = settings.hidden_size, settings.latent_size
        self.num_heads = settings.num_heads
        self.to_width = nn.Linear(settings.embedding_size, width)
        self.positions = Positions(settings, longest)
        self.blocks = nn.ModuleList([Block(settings) for _ in range(settings.num_decoder_layers)])
        self.norm = nn.LayerNorm(width)
        sees = settings.has_latent
        self.to_embedding = nn.Linear(latent, width, bias=False) if sees and settings.latent_to_input else None
        has_memory = sees and settings.latent_to_state
        self.to_memory = nn.Linear(latent, len(self.blocks) * width, bias=False) if has_memory else None

    def initial_state(self, latent: Float[Tensor, "batch latent"]) -> State:
        """Return each layer's keys and values before the first token: z as memory, or none."""
        if self.to_memory is None:
            return ()
        memories = self.to_memory(latent).chunk(len(self.blocks), 1)
        return tuple(split(memory.unsqueeze(1), self.num_heads) for memory in memories for _ in range(2))

    def forward(
        self,
        embedded: Float[Tensor, "batch steps embedding"],
        latent: Float[Tensor, "batch latent"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "batch steps hidden"], State]:
        """Return the last layer's normalised state after each token, and every layer's keys and values so far."""
        past = self.initial_state(latent) if state is None else state
        num_before, num_steps = (past[0].shape[2] if past else 0), embedded.shape[1]
        num_read = num_before - (1 if self.to_memory is not None else 0)
        states = self.to_width(embedded) + self.positions(num_read, num_steps, embedded.device)
        if self.to_embedding is not None:
            states = states + self.to_embedding(latent).unsqueeze(1)
        mask = causal_mask(num_steps, num_before, embedded.device)
        kept: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            states, *heads = block(states, mask, (past[2 * index], past[2 * index + 1]) if past else None)
            kept += heads
        return self.norm(states), tuple(kept)

    def reorder(self, state: State, rows: Int[Tensor, " kept"]) -> State:
        """Return the keys and values of some sequences."""
        return tuple(part.index_select(0, rows) for part in state)


def causal_mask(num_steps: int, num_before: int, device: torch.device) -> Mask | None:
    """Return which of so many tokens before and of themselves tokens look at; None of one token, which sees all."""
    if num_steps == 1:
        return None
    ones = torch.ones(num_steps, num_before + num_steps, dtype=torch.bool, device=device)
    return ones.tril(num_before)[None, None]
