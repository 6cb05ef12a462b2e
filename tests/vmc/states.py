"""Oracles for the tests here: a wavefunction that is a table, and everything by enumeration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from hamiltonians.exact import basis, dense_matrix, ground_state
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Lattice
from hamiltonians.pauli import PauliSum
from nqs.core.decoding import split_counts
from nqs.core.recurrent import Recurrent
from nqs.core.transformer import Transformer
from nqs.vmc.optimizers import Adam, NaturalGradient
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.wavefunction import Samples, Wavefunction


def numbers(configs: Tensor) -> Tensor:
    """configs (..., N) -> (...) the place of each in the basis; site 0 is the most significant."""
    places = torch.arange(configs.shape[-1] - 1, -1, -1)
    return (configs.to(torch.int64) << places).sum(-1)


class TableWavefunction(Wavefunction):
    """psi >= 0 by its amplitudes (2^N,), in the order of hamiltonians.exact; normalised here."""

    def __init__(self, amplitudes: Tensor) -> None:
        super().__init__()
        self.n_sites = len(amplitudes).bit_length() - 1
        self.log_weights = nn.Parameter(2 * amplitudes.to(torch.float64).log())

    def log_amplitudes(self) -> Tensor:
        return 0.5 * torch.log_softmax(self.log_weights, dim=0)

    def log_psi(self, configs: Tensor) -> Tensor:
        return self.log_amplitudes()[numbers(configs)]

    @torch.no_grad()
    def sample(
        self, n_samples: int, generator: torch.Generator, *, unique: bool = False
    ) -> Samples:
        log_psi = self.log_amplitudes()
        counts = split_counts(torch.tensor([n_samples]), 2 * log_psi[None], generator)[0]
        rows = counts.nonzero().squeeze(1)
        if not unique:
            rows = rows.repeat_interleave(counts[rows])
            counts = torch.ones(2**self.n_sites, dtype=torch.int64)
        return Samples(basis(self.n_sites)[rows], counts[rows], log_psi[rows])

    @torch.no_grad()
    def log_psi_flipped(
        self,
        configs: Tensor,
        flips: Tensor,
        needed: Tensor | None = None,
        *,
        max_rows: int = 32_768,
    ) -> Tensor:
        log_psi = self.log_amplitudes()[numbers(configs[:, None] ^ flips)]
        return log_psi if needed is None else torch.where(needed, log_psi, -torch.inf)


def random_table(n_sites: int, seed: int = 0) -> TableWavefunction:
    generator = torch.Generator().manual_seed(seed)
    return TableWavefunction(
        torch.randn(2**n_sites, generator=generator, dtype=torch.float64).exp()
    )


def exact_table(hamiltonian: Hamiltonian) -> TableWavefunction:
    """The ground state of a stoquastic Hamiltonian; amplitudes of rounding size are zeros."""
    state = torch.from_numpy(ground_state(hamiltonian, k=1).state)
    assert (state > -1e-9).all()
    return TableWavefunction(state.clamp(min=0).where(state > 1e-10, 0.0))


def network(
    model: str, lattice: Lattice, patch: str = "2x2", *, seed: int = 0, random: bool = True
) -> Autoregressive:
    """A small float64 wavefunction, every parameter random unless it is to be trained."""
    generator = torch.Generator().manual_seed(seed)
    patches = Patches.from_spec(lattice, patch)
    sizes = (patches.n_states + 1, patches.n_states, patches.n_patches)
    core = (
        Transformer(
            *sizes, d_model=8, n_layers=1, n_heads=2, attention="softmax", generator=generator
        )
        if model == "ptf"
        else Recurrent(*sizes, d_model=8, cell=model, generator=generator)
    )
    psi = Autoregressive(core, patches).double()
    with torch.no_grad():
        for parameter in psi.parameters() if random else ():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.3 * noise
    return psi


def amplitudes(psi: Wavefunction) -> Tensor:
    """(2^N,) psi over the basis, differentiable."""
    return psi.log_psi(basis(psi.n_sites)).exp()


def matrix(hamiltonian: Hamiltonian) -> Tensor:
    return torch.from_numpy(dense_matrix(hamiltonian))


def enumerated_energy(psi: Wavefunction, hamiltonian: Hamiltonian) -> Tensor:
    """<psi|H|psi> / <psi|psi>, differentiable."""
    vector = amplitudes(psi)
    return (vector @ matrix(hamiltonian).real @ vector) / (vector @ vector)


def all_configurations(psi: Wavefunction) -> Samples:
    """Every configuration of the support with weight |psi|^2: samples without sampling error."""
    with torch.no_grad():
        log_psi = psi.log_psi(basis(psi.n_sites))
    rows = (log_psi.real > -torch.inf).nonzero().squeeze(1)
    return Samples(basis(psi.n_sites)[rows], (2 * log_psi[rows].real).exp(), log_psi[rows])


@st.composite
def pauli_sums(draw: st.DrawFn, n_sites: int, real: bool = True) -> PauliSum:
    """Sums of up to 8 random strings; real: an even number of Y in each."""
    letters = st.lists(st.sampled_from("IXYZ"), min_size=n_sites, max_size=n_sites)
    strings = letters.filter(lambda s: not real or s.count("Y") % 2 == 0).map("".join)
    coefficients = st.floats(-2, 2, allow_subnormal=False)
    terms: Sequence[tuple[float, str]] = draw(
        st.lists(st.tuples(coefficients, strings), min_size=1, max_size=8)
    )
    return PauliSum(n_sites, terms)


class ComplexWavefunction(Wavefunction):
    """ln psi = ln |psi| + i phase, float64.

    |psi| is an Autoregressive, the phase a small network over the sites' bits; mixed=True adds
    a common factor whose layer feeds both (only `log_psi` may then be used: psi is not normalised).
    """

    def __init__(self, modulus: Autoregressive, *, seed: int = 0, mixed: bool = False) -> None:
        super().__init__()
        self.n_sites, width = modulus.n_sites, 4
        self.modulus, self.mixed = modulus, mixed
        self.embedding = nn.Embedding(2, width)
        self.hidden = nn.Linear(width * self.n_sites, 5)
        self.phase = nn.Linear(5, 1)
        self.common = nn.Linear(self.n_sites, 1) if mixed else nn.Identity()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if not name.startswith("modulus."):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.double()

    def log_psi(self, configs: Tensor) -> Tensor:
        embedded = self.embedding(configs.long()).flatten(1)  # (B, 4 N)
        phase = self.phase(torch.tanh(self.hidden(embedded))).squeeze(1)
        real = self.modulus.log_psi(configs)
        if self.mixed:
            common = self.common(configs.double()).squeeze(1)
            real, phase = real + 0.3 * common, phase + common.sin()
        return torch.complex(real, phase)

    @torch.no_grad()
    def sample(
        self, n_samples: int, generator: torch.Generator, *, unique: bool = False
    ) -> Samples:
        drawn = self.modulus.sample(n_samples, generator, unique=unique)
        return Samples(drawn.configs, drawn.counts, self.log_psi(drawn.configs))

    @torch.no_grad()
    def log_psi_flipped(
        self,
        configs: Tensor,
        flips: Tensor,
        needed: Tensor | None = None,
        *,
        max_rows: int = 32_768,
    ) -> Tensor:
        flipped = configs[:, None] ^ flips  # (B, G, N)
        values = self.log_psi(flipped.flatten(0, 1)).view(flipped.shape[:2])
        return values if needed is None else torch.where(needed, values, -torch.inf)


class ComplexTable(TableWavefunction):
    """psi by its complex amplitudes (2^N,), none of them zero."""

    def __init__(self, amplitudes: Tensor) -> None:
        super().__init__(amplitudes.abs())
        self.phases = nn.Parameter(amplitudes.angle())

    def log_psi(self, configs: Tensor) -> Tensor:
        rows = numbers(configs)
        return torch.complex(self.log_amplitudes()[rows], self.phases[rows])

    @torch.no_grad()
    def sample(
        self, n_samples: int, generator: torch.Generator, *, unique: bool = False
    ) -> Samples:
        drawn = super().sample(n_samples, generator, unique=unique)
        return Samples(drawn.configs, drawn.counts, self.log_psi(drawn.configs))

    @torch.no_grad()
    def log_psi_flipped(
        self,
        configs: Tensor,
        flips: Tensor,
        needed: Tensor | None = None,
        *,
        max_rows: int = 32_768,
    ) -> Tensor:
        return self.log_psi(configs[:, None] ^ flips)


def complex_pauli_sum() -> PauliSum:
    """Six sites, complex elements, an eigenstate with phases that no basis change by signs removes.

    Strings of X, Y and Z on every pair of a ring plus fields along y: generic, gapped.
    """
    terms = [(0.8, f"X{i} Y{(i + 1) % 6}") for i in range(6)]
    terms += [(-0.5, f"Z{i} Z{(i + 1) % 6}") for i in range(6)]
    terms += [(0.3 + 0.1 * i, f"Y{i}") for i in range(6)] + [(-0.7, f"X{i}") for i in range(6)]
    return PauliSum(6, [*terms, (0.4, "X0 Y2 Z4")])


def complex_energy(psi: Wavefunction, hamiltonian: Hamiltonian) -> Tensor:
    """<psi|H|psi> / <psi|psi> of a complex psi, differentiable."""
    vector = amplitudes(psi)
    products = matrix(hamiltonian).to(torch.complex128) @ vector
    return (vector.conj() @ products).real / vector.abs().square().sum()


def minsr(
    learning_rate: float = 0.05, *, memory_gb: float | None = None, **keys: Any
) -> NaturalGradient:
    """Plain SPRING unless keys say otherwise: constant step and shift, no bound, E_loc as it is.

    memory_gb may be smaller than the key allows.
    """
    plain = {"diagonal_shift": 1e-3, "momentum": 0.9, "max_norm": None, "implicit": False}
    plain |= {"leverage": 1.0, "adaptive": False}
    constant = {"schedule": "constant", "final_shift_fraction": 1.0}
    optimizer = NaturalGradient(learning_rate, **plain | constant | keys)
    if memory_gb is not None:
        optimizer.workspace.max_bytes = memory_gb * 2**30
    return optimizer


def adam(learning_rate: float = 1e-3, **keys: Any) -> Adam:
    """Constant steps unless keys say otherwise."""
    return Adam(learning_rate, **{"schedule": "constant"} | keys)
