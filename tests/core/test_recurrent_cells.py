"""The cells are torch.nn.RNN, GRU and LSTM with the same weights, reading one-hot tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot
from torch.testing import assert_close

from nqs.core.recurrent import CELLS, Recurrent

TWINS = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def twin_of(model: Recurrent, cell: str) -> nn.RNNBase:
    n_layers = len(model.cells)
    twin = TWINS[cell](model.vocab_size, model.d_model, n_layers, batch_first=True).double()
    with torch.no_grad():
        for layer in range(n_layers):
            hidden = model.cells[layer].hidden
            getattr(twin, f"weight_hh_l{layer}").copy_(hidden.weight)
            getattr(twin, f"bias_hh_l{layer}").copy_(hidden.bias)
            if layer == 0:
                twin.weight_ih_l0.copy_(model.embedding.weight.T)
                twin.bias_ih_l0.zero_()
            else:
                inputs = model.inputs[layer - 1]
                getattr(twin, f"weight_ih_l{layer}").copy_(inputs.weight)
                getattr(twin, f"bias_ih_l{layer}").copy_(inputs.bias)
    return twin


@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_torch_agrees(cell: str, n_layers: int, generator: torch.Generator) -> None:
    model = Recurrent(
        5, 4, 12, d_model=6, n_layers=n_layers, cell=cell, generator=generator
    ).double()
    for parameter in model.parameters():
        parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    tokens = torch.randint(5, (7, 12), generator=generator)
    hidden, _ = twin_of(model, cell)(one_hot(tokens, 5).double())
    logits, _ = model(tokens)
    assert_close(logits, model.head(hidden), rtol=0, atol=1e-12)


@torch.no_grad()
def test_residual_layers_add_their_input(generator: torch.Generator) -> None:
    """With the upper layers' weights zero, a residual stack is its first layer plus a constant."""
    single = Recurrent(5, 4, 8, d_model=6, cell="elman", generator=generator).double()
    stack = Recurrent(5, 4, 8, d_model=6, n_layers=2, cell="elman", residual=True).double()
    stack.embedding.load_state_dict(single.embedding.state_dict())
    stack.cells[0].load_state_dict(single.cells[0].state_dict())
    stack.head.load_state_dict(single.head.state_dict())
    tokens = torch.randint(5, (3, 8), generator=generator)
    for parameter in [*stack.inputs.parameters(), *stack.cells[1].parameters()]:
        parameter.zero_()
    assert_close(stack(tokens)[0], single(tokens)[0], rtol=0, atol=1e-12)
    stack.cells[1].hidden.bias.fill_(0.7)
    lifted = single(tokens)[0] + single.head.weight.sum(1) * torch.tanh(torch.tensor(0.7).double())
    assert_close(stack(tokens)[0], lifted, rtol=0, atol=1e-7)


def test_the_lstm_remembers_by_default() -> None:
    model = Recurrent(5, 4, 8, d_model=6, n_layers=2, cell="lstm")
    for layer in model.cells:
        i, f, g, o = layer.hidden.bias.detach().chunk(4)
        assert (f == 1).all() and not torch.cat([i, g, o]).any()
