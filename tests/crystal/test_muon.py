"""Muon: its law by singular values, torch's own as the oracle, and that states go on."""

from __future__ import annotations

import copy

import pytest
import torch

from nqs.crystal.model.muon import ORTHOGONAL, MuonAdamW, orthogonalised


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 32), (1, 5), (5, 1)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = drawn(*shape)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalised(matrix)
    core = u.T @ found @ vh.T  # diagonal where the vectors stay
    values = core.diagonal()
    assert (core - torch.diag(values)).abs().max() < 1e-4
    enough = s > 0.05 * s[0]
    assert values[enough].min() > 0.6 and values.max() < 1.25


def test_a_zero_gradient_moves_nothing() -> None:
    assert torch.equal(orthogonalised(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_steps_are_those_of_torch() -> None:
    """Up to torch's bfloat16: three digits, five products deep."""
    ours, theirs = (torch.nn.Parameter(drawn(12, 6)) for _ in range(2))
    group = {"params": [ours], "lr": 0.1, "weight_decay": 0.3, ORTHOGONAL: True}
    one = MuonAdamW([group])
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.3)
    for step in range(5):
        for parameter, optimizer in ((ours, one), (theirs, other)):
            parameter.grad = drawn(12, 6, seed=step + 1)
            optimizer.step()
    start = drawn(12, 6)
    assert (ours - theirs).norm() < 0.03 * (ours - start).norm()


def test_what_is_no_matrix_is_left_to_adamw() -> None:
    matrix, ours, theirs = (torch.nn.Parameter(drawn(4, 4)) for _ in range(3))
    groups = [{"params": [ours]}, {"params": [matrix], ORTHOGONAL: True}]
    one, other = MuonAdamW(groups, lr=0.01), torch.optim.AdamW([theirs], lr=0.01)
    for step in range(3):
        for parameter in (matrix, ours, theirs):
            parameter.grad = drawn(4, 4, seed=step)
        one.step()
        other.step()
    assert torch.equal(ours, theirs) and not torch.equal(matrix, theirs)


def test_a_state_goes_on_bit_for_bit() -> None:
    def optimizer(parameter: torch.nn.Parameter) -> MuonAdamW:
        return MuonAdamW([{"params": [parameter], ORTHOGONAL: True}], lr=0.02)

    whole = torch.nn.Parameter(drawn(5, 3))
    first = optimizer(whole)
    for step in range(4):
        if step == 2:
            again = torch.nn.Parameter(whole.detach().clone())
            second = optimizer(again)
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        whole.grad = drawn(5, 3, seed=step)
        first.step()
        if step >= 2:
            again.grad = drawn(5, 3, seed=step)
            second.step()
    assert torch.equal(whole, again)
