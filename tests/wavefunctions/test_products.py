"""Rounded products: every core takes them, little changes, and only where they are asked for."""

from __future__ import annotations

import copy

import pytest
import torch
from systems import build, every_model, random_bits
from torch.testing import assert_close

from hamiltonians import Rydberg
from hamiltonians.lattices.lattice import Square
from nqs.vmc.energies.local_energy import connected
from nqs.vmc.energies.rounding import rounded_products
from nqs.wavefunctions.symmetrised import Symmetrised
from nqs.wavefunctions.wavefunction import Samples

LATTICE = Square(3, 4)
HAMILTONIAN = Rydberg(LATTICE, V=7.0, delta=1.0, Omega=1.0)
CPU = torch.device("cpu")


@every_model
@pytest.mark.parametrize("phase", [False, True])
def test_flips_of_every_core(model: str, phase: bool) -> None:
    """Ratios within bfloat16's error of the full ones, not equal to them, in ln psi's own dtype."""
    psi = build(model, LATTICE, "2x2", dtype=torch.float32, phase=phase)
    configs = random_bits(7, 12)
    samples = Samples(configs, torch.ones(7, dtype=torch.int64), psi.log_psi(configs).detach())
    _, full = connected(psi, HAMILTONIAN, samples, 64)
    _, rounded = connected(psi, HAMILTONIAN, samples, 64, precision="bfloat16")
    assert rounded.dtype == full.dtype == psi.log_psi_dtype
    error = (rounded - full).abs()
    assert 1e-4 < error.max() < 0.5
    assert error.square().mean().sqrt() < 0.1
    _, again = connected(psi, HAMILTONIAN, samples, 64)
    assert_close(again, full, rtol=0, atol=0)  # the block leaves nothing behind


def test_symmetrised() -> None:
    base = build("ptf", LATTICE, "2x2", dtype=torch.float32)
    psi = Symmetrised(base, LATTICE.point_group())
    configs = random_bits(6, 12)
    with torch.no_grad():
        samples = Samples(configs, torch.ones(6, dtype=torch.int64), psi.log_psi(configs))
    _, full = connected(psi, HAMILTONIAN, samples, 64)
    _, rounded = connected(psi, HAMILTONIAN, samples, 64, precision="bfloat16")
    assert 1e-4 < (rounded - full).abs().max() < 0.5


@every_model
def test_logits_are_not_rounded(model: str) -> None:
    """The head's product is in float32, whatever precedes it."""
    psi = build(model, LATTICE, "2x2", dtype=torch.float32)
    head = psi.core.head
    x = torch.randn(3, head.weight.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), rounded_products("bfloat16", CPU):
        assert head(x).dtype == torch.float32
        assert_close(head(x), copy.deepcopy(head).double()(x.double()).float())


def test_tf32_is_a_matter_of_the_block() -> None:
    """The GPU's setting is made for the block alone, also when it fails."""
    before = torch.get_float32_matmul_precision()
    with rounded_products("tf32", torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    with (
        pytest.raises(RuntimeError, match="within"),
        rounded_products("tf32", torch.device("cuda")),
    ):
        raise RuntimeError("within")
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("kind", "words"), [("tf32", "GPUs only"), ("fp8", "allowed: full")])
def test_refused(kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=words), rounded_products(kind, CPU):
        pass
