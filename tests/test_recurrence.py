"""Recurrent networks as they are run: the same numbers as PyTorch's own, whatever the lengths and the precision around them."""

import pytest
import torch
from torch import nn

from model.network.recurrence import differentiable, run, run_both_ways

pytestmark = pytest.mark.on_device

LENGTHS = torch.tensor([3, 6, 1, 6, 2])


def inputs():
    torch.manual_seed(0)
    return torch.randn(5, 6, 4)


def test_both_ways_each_sequence_is_run_as_if_it_were_alone():
    lstm, given = nn.LSTM(4, 3, batch_first=True, bidirectional=True), inputs()
    states = run_both_ways(lstm, given, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(states[row, :length], lstm(given[row : row + 1, :length])[0][0])
        assert bool((states[row, length:] == 0).all())


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstms_compute_in_float32_where_autocast_has_all_else_in_bfloat16(bidirectional):
    lstm, given = nn.LSTM(4, 3, batch_first=True, bidirectional=bidirectional), inputs()

    def states_of():
        return run_both_ways(lstm, given, LENGTHS) if bidirectional else run(lstm, given)[0]

    plain = states_of()
    with torch.autocast(given.device.type, torch.bfloat16):
        assert (given @ given.mT).dtype == torch.bfloat16
        states = states_of()
    assert states.dtype == torch.float32
    assert torch.equal(states, plain)


def test_a_state_in_bfloat16_is_taken_too():
    lstm, given = nn.LSTM(4, 3, batch_first=True), inputs()
    state = torch.zeros(1, 5, 3, dtype=torch.bfloat16)
    with torch.autocast(given.device.type, torch.bfloat16):
        states, (hidden, cell) = run(lstm, given, (state, state))
    assert states.dtype == hidden.dtype == cell.dtype == torch.float32
    assert torch.equal(states, lstm(given)[0])


def test_what_is_evaluated_is_differentiated_without_dropout_and_left_as_it_was():
    gru, given = nn.GRU(4, 3, num_layers=2, batch_first=True, dropout=0.9).eval(), inputs()
    with differentiable(gru):
        assert torch.equal(run(gru, given)[0], run(gru, given)[0])
        assert gru.training
    assert not gru.training
    assert gru.dropout == 0.9
