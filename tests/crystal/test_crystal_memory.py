"""What does not fit the machine is refused with the key to make smaller, before it is made."""

from __future__ import annotations

import pytest
import torch

from nqs.crystal.model import memory
from nqs.crystal.model.cores import build_core, core_choice
from nqs.errors import InputError
from nqs.runfolder import memory as machine_memory

CPU = torch.device("cpu")


def guarded(
    available: float, monkeypatch: pytest.MonkeyPatch, batch_tokens: int = 2000, **keys: object
) -> None:
    monkeypatch.setattr(machine_memory, "available", lambda: available)
    generator = torch.Generator().manual_seed(0)
    memory.guarded_core(
        core_choice(**keys),  # type: ignore[arg-type]
        100,
        50,
        generator,
        batch_tokens=batch_tokens,
        device=CPU,
    )


def test_a_network_that_is_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded(1e9, monkeypatch, d_model=64)
    with pytest.raises(InputError, match=r"^model.d_model=65536: .* parameters and a batch"):
        guarded(50e9, monkeypatch, d_model=65_536)
    with pytest.raises(InputError, match=r"^model.d_model=512"):
        guarded(30e6, monkeypatch, 100, core="gru", d_model=512)


def test_batches_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 layers of (4 + 4) 64 numbers and 2 x 100 logits for each of 2000 tokens: 67 MB."""
    guarded(95e6, monkeypatch, d_model=64, n_layers=16)
    with pytest.raises(InputError, match=r"^data.batch_tokens: "):
        guarded(65e6, monkeypatch, d_model=64, n_layers=16)


@pytest.mark.parametrize(("core", "state"), [("transformer", 2 * 50 * 2 * 8), ("gru", 2 * 8)])
def test_crystals_side_by_side(core: str, state: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of all positions, or one memory; four numbers a token, and the tokens."""
    model = build_core(core_choice(core, d_model=8, n_layers=2), 10, 50, torch.Generator())
    exact = 4.0 * 1000 * (state + 4 * 10 + 50)
    monkeypatch.setattr(machine_memory, "available", lambda: exact)
    memory.check_generation(model, 1000, 50)
    with pytest.raises(InputError, match=r"^batch_size=1001: 1001 crystals side by side"):
        memory.check_generation(model, 1001, 50)
