"""The average of one state over images of its couplings: symmetric as a family, at no symmetric c.

A Hamiltonian with couplings c of its sites and bonds has no symmetry of its lattice, but a symmetry
g of the lattice takes it to that of the moved couplings: <g s| H(g c) |g s'> = <s| H(c) |s'>. A
state psi(s | c) of all c need not know that; its average does,

    |psi_av(s | c)|^2 = 1/M sum_g |psi(g s | g c)|^2,    psi_av >= 0,

normalised, and sampled exactly: a draw of it is a draw of psi( | g c) for a random g, moved back.
For a stoquastic H its energy is never above the mean energy of the M states, which is convex in
the probability (`nqs.ground_states.automatic_symmetry`).

Letters: B configurations, N sites, M images, G flips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast, final

import torch
from torch import Tensor, nn

from hamiltonians.lattices.symmetry_group import SymmetryGroup
from nqs.wavefunctions.wavefunction import Samples, Wavefunction, merged


@final
class ImageAverage(Wavefunction):
    """psi_av at fixed couplings (formula at the head of this file).

    Args:
        states: psi( | g c) for each element g of the group, positive.
        group: permutations of the sites, M elements, none of which inverts bits.

    Raises ValueError for another number of states, groups with inversions, and complex states.
    """

    def __init__(self, states: Sequence[Wavefunction], group: SymmetryGroup) -> None:
        super().__init__()
        if len(states) != len(group) or bool(group.inverted.any()):
            raise ValueError(f"{len(states)} states do not go with {group!r}")
        self.states, self.group = nn.ModuleList(states), group
        self.n_sites, self.n_up = states[0].n_sites, states[0].n_up
        device = next(p.device for p in states[0].parameters())
        with torch.no_grad():
            nothing = torch.zeros(1, self.n_sites, dtype=torch.bool, device=device)
            if self._at(0).log_psi(nothing).is_complex():
                raise ValueError("images are averaged of positive states only")

    def _kind(self) -> str:
        return f"{self.states[0]!r} at {len(self.group)} images of its couplings, "

    def _at(self, image: int) -> Wavefunction:
        return cast(Wavefunction, self.states[image])

    def _rows(self, device: torch.device) -> Tensor:
        """(M, N)."""
        return self.group.permutations.to(device)

    def has_compiled_flips(self) -> bool:
        """See Wavefunction.has_compiled_flips."""
        return self._at(0).has_compiled_flips()

    def flip_pass(self) -> str:
        """See Wavefunction.flip_pass."""
        return self._at(0).flip_pass()

    def _averaged(self, log_psi_of: Callable[[Wavefunction, Tensor], Tensor]) -> Tensor:
        """ln psi_av from ln psi of each state, given how it is had of a state and its row."""
        device = next(self.parameters()).device
        of_images = torch.stack(
            [log_psi_of(self._at(m), row) for m, row in enumerate(self._rows(device))]
        )
        return (torch.logsumexp(2 * of_images, 0) - math.log(len(of_images))) / 2

    def log_psi(self, configs: Tensor) -> Tensor:
        """See Wavefunction.log_psi."""
        return self._averaged(lambda psi, row: psi.log_psi(configs[:, row]))

    @torch.no_grad()
    def log_psi_flipped(
        self,
        configs: Tensor,
        flips: Tensor,
        needed: Tensor | None = None,
        *,
        max_rows: int = 32_768,
    ) -> Tensor:
        """See Wavefunction.log_psi_flipped; g (s xor f) = (g s) xor (g f)."""
        return self._averaged(
            lambda psi, row: psi.log_psi_flipped(
                configs[:, row], flips[:, row], needed, max_rows=max_rows
            )
        )

    @torch.no_grad()
    def sample(
        self, n_samples: int, generator: torch.Generator, *, unique: bool = False
    ) -> Samples:
        """See Wavefunction.sample."""
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples} must be >= 1")
        device = next(self.parameters()).device
        element = torch.randint(
            len(self.group), (n_samples,), generator=generator, device=generator.device
        )
        configs, counts = [], []
        numbers = torch.bincount(element, minlength=len(self.group)).tolist()
        for m, (row, n_own) in enumerate(zip(self._rows(device), numbers, strict=True)):
            if not n_own:
                continue
            drawn = self._at(m).sample(n_own, generator, unique=unique)
            moved = torch.empty_like(drawn.configs)
            moved[:, row] = drawn.configs  # (g s)_i = s_row[i]
            configs.append(moved)
            counts.append(drawn.counts)
        rows, n_each = torch.cat(configs), torch.cat(counts)
        if unique:
            rows, n_each = merged(rows, n_each)
        else:  # in the order in which the images were chosen
            rows = rows[element.argsort(stable=True).argsort()]
        return Samples(rows, n_each, self.log_psi(rows))
