"""Decoding text from the latent variable: greedy, sampled and by beam search, whole batches at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from model.config import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from model.errors import ModelError
from model.network.vae import SequenceVAE
from model.shapes import Float, Int

Tokens = Int[Tensor, "batch steps"]
Latent = Float[Tensor, "batch latent"]
Logits = Float[Tensor, "batch vocabulary"]

NEVER_GENERATED = [PAD_ID, BOS_ID, UNK_ID]


def greedy(network: SequenceVAE, latent: Latent, max_tokens: int) -> Tokens:
    """Decode the most probable token at each step, up to `</s>` or `max_tokens`."""
    return _decode(network, latent, max_tokens, lambda logits: logits.argmax(1))


def sample(
    network: SequenceVAE,
    latent: Latent,
    max_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
) -> Tokens:
    """Draw each token from the decoder's distribution, sharpened by `temperature` and cut to its head.

    `top_k` keeps that many tokens; `top_p` the fewest that hold that much probability (Holtzman et al.,
    arXiv 1904.09751). Raises ModelError if one of them is out of range.
    """
    if not 0 < temperature < float("inf"):
        raise ModelError(f"temperature must be a number above 0, got {temperature}; decode greedily instead")
    if top_k is not None and top_k < 1:
        raise ModelError(f"top_k must be at least 1, got {top_k}")
    if not 0 < top_p <= 1:
        raise ModelError(f"top_p must be above 0 and at most 1, got {top_p}")
    generator = torch.Generator().manual_seed(seed)

    def choose(logits: Logits) -> Int[Tensor, " batch"]:
        head = restrict(logits / temperature, top_k, top_p).softmax(1)
        return torch.multinomial(head.cpu(), 1, generator=generator).squeeze(1).to(logits.device)

    return _decode(network, latent, max_tokens, choose)


def restrict(logits: Logits, top_k: int | None, top_p: float) -> Logits:
    """Set the logits outside the k most probable, or the nucleus of probability p, to minus infinity."""
    if top_k is not None and top_k < logits.shape[1]:
        least = logits.topk(top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=1, descending=True)
        probability = ordered.softmax(1)
        beyond = probability.cumsum(1) - probability >= top_p
        logits = logits.masked_fill(beyond.gather(1, order.argsort(1)), -torch.inf)
    return logits


@torch.no_grad()
def _decode(network: SequenceVAE, latent: Latent, max_tokens: int, choose: Callable[[Tensor], Tensor]) -> Tokens:
    decoder = network.decoder
    token = torch.full((len(latent),), BOS_ID, device=latent.device)
    done = torch.zeros(len(latent), dtype=torch.bool, device=latent.device)
    state, chosen = None, []
    for _ in range(max_tokens):
        logits, state = decoder.step(token, latent, state)
        logits[:, NEVER_GENERATED] = -torch.inf
        token = choose(logits).masked_fill(done, PAD_ID)
        chosen.append(token)
        done = done | (token == EOS_ID)
        if bool(done.all()):
            break
    return torch.stack(chosen, dim=1)


@torch.no_grad()
def beam(network: SequenceVAE, latent: Latent, max_tokens: int, width: int = 5) -> Tokens:
    """Decode the most probable of the `width` hypotheses kept at each step, for each latent.

    A finished hypothesis stays in its beam with its score. Raises ModelError if `width` is below 1.
    """
    if width < 1:
        raise ModelError(f"the beam's width must be at least 1, got {width}")
    decoder, num = network.decoder, len(latent)
    width = min(width, network.vocabulary_size)
    spread = latent.repeat_interleave(width, dim=0)
    # All hypotheses of a beam start equal: all but the first are out until the first step.
    scores = torch.full((num, width), -torch.inf, device=latent.device)
    scores[:, 0] = 0.0
    token = torch.full((num * width,), BOS_ID, device=latent.device)
    tokens = token.new_empty(num * width, 0)
    done = torch.zeros(num * width, dtype=torch.bool, device=latent.device)
    state = None
    for _ in range(max_tokens):
        logits, state = decoder.step(token, spread, state)
        logits[:, NEVER_GENERATED] = -torch.inf
        gains = logits.log_softmax(1)
        gains = gains.masked_fill(done[:, None], -torch.inf)
        gains[:, PAD_ID] = torch.where(done, 0.0, -torch.inf)
        total = (scores.view(-1, 1) + gains).view(num, -1)
        scores, best = total.topk(width, dim=1)
        beams = torch.arange(num, device=latent.device)[:, None] * width
        origin = (beams + best // gains.shape[1]).flatten()
        token = (best % gains.shape[1]).flatten()
        tokens = torch.cat([tokens[origin], token[:, None]], dim=1)
        done = done[origin] | (token == EOS_ID)
        state = decoder.layers.reorder(state, origin)
        if bool(done.all()):
            break
    return tokens.view(num, width, -1)[:, 0]


def interpolate(start: Float[Tensor, " latent"], end: Float[Tensor, " latent"], num_points: int) -> Latent:
    """Return points on the straight line between two latent values, both ends included."""
    place = torch.linspace(0.0, 1.0, num_points, device=start.device)[:, None]
    return start + place * (end - start)
