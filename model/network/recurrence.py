"""Running LSTMs and GRUs as a GPU wants it: in float32 whatever autocast says, packed without waiting for the GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from model.shapes import Float, Int

State = tuple[Float[Tensor, "layers batch hidden"], ...]
"""Hidden and cell state of an LSTM, the hidden state alone of a GRU."""


def run(
    rnn: nn.RNNBase, inputs: Float[Tensor, "batch time inputs"], state: State | None = None
) -> tuple[Float[Tensor, "batch time hidden"], State]:
    """Return the top layer's states and the last ones, in the weights' own precision, which is float32.

    Autocast would have cuDNN's LSTM in float16, whatever type it was asked for (PyTorch's AutocastRNN.cpp), and without
    loss scaling gradients vanish in it. TF32 keeps the products on tensor cores.
    """
    with without_autocast(inputs):
        dtype = weights_dtype(rnn)
        given = None if state is None else tuple(part.to(dtype) for part in state)
        if not isinstance(rnn, nn.LSTM):
            states, last = rnn(inputs.to(dtype), None if given is None else given[0])
            return states, (last,)
        states, last = rnn(inputs.to(dtype), given)
    return states, last


@contextmanager
def differentiable(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through what is evaluated: cuDNN's recurrences have no backward pass out of training."""
    recurrent = [each for each in module.modules() if isinstance(each, nn.RNNBase) and not each.training]
    dropout = [each.dropout for each in recurrent]
    for each in recurrent:
        each.train()
        each.dropout = 0.0
    try:
        yield
    finally:
        for each, share in zip(recurrent, dropout, strict=True):
            each.eval()
            each.dropout = share


def run_both_ways(
    rnn: nn.RNNBase, inputs: Float[Tensor, "batch time inputs"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch time hidden"]:
    """Return the states of a bidirectional network that never sees padding; `lengths` are on the CPU.

    Sorted here, by indices that are copied without waiting: `pack_padded_sequence` would wait for its own.
    """
    order = lengths.argsort(descending=True, stable=True)
    back = order.argsort()
    with without_autocast(inputs):
        packed = pack_padded_sequence(
            inputs.to(weights_dtype(rnn)).index_select(0, copied(order, inputs.device)),
            lengths[order],
            batch_first=True,
            enforce_sorted=True,
        )
        states, _ = pad_packed_sequence(rnn(packed)[0], batch_first=True, total_length=inputs.shape[1])
    return states.index_select(0, copied(back, inputs.device))


def copied(index: Int[Tensor, " any"], device: torch.device) -> Int[Tensor, " any"]:
    """Return a CPU tensor on a device; from pinned memory, so that the host does not wait for a GPU."""
    if device.type == "cuda" and index.device.type == "cpu":
        return index.pin_memory().to(device, non_blocking=True)
    return index.to(device)


def without_autocast(inputs: Tensor) -> torch.autocast:
    """Return a context in which autocast changes nothing where the inputs are; it knows no meta device."""
    return torch.autocast("cpu" if inputs.is_meta else inputs.device.type, enabled=False)


def weights_dtype(rnn: nn.RNNBase) -> torch.dtype:
    """Return the precision in which a recurrent network computes."""
    return next(rnn.parameters()).dtype
