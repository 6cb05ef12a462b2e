"""A wavefunction made symmetric by averaging its probability over a group, still sampled exactly.

For a group G of site permutations, with or without the global spin flip s -> not s
(`hamiltonians.lattices.symmetry_group`), and psi the base:

    |psi_sym(s)|^2 = 1/|G| sum_g |psi(g s)|^2,    arg psi_sym(s) = arg psi(s0)

with s0 the image of s that is smallest as a number, its representative; and for characters chi(g)
other than 1

    arg psi_sym(s) = arg sum_g chi(g)* psi(g s).

Every g permutes the basis, so psi_sym is normalised exactly if psi is; a draw of it is a draw of
psi moved by a random element of G. (Hibat-Allah et al., arXiv:2002.02973, section on symmetries;
Reh, Schmitt & Gaerttner, arXiv:2206.15447.) One evaluation costs |G| of the base;
as connected configurations are evaluated once, a step costs less than |G| times more.

The arg of a sum jumps where images nearly cancel: its gradient is 1 / |sum|. With trivial
characters any invariant phase will do, and the representative's has the gradient of the base's.
(Not a mean of phases: they are angles. Bit 1 with phase pi on one of two sublattices is Marshall's
sign rule, invariant under exchange of the sublattices, but the two phases of pi n_A and pi n_B
average to the same for all s.)

What it represents: |psi_sym| is invariant under G, and psi_sym(g s) = chi(g) psi_sym(s), with other
characters than 1 wherever the sum does not vanish. The base need not be symmetric: a state
localised on one of the images becomes a sum of all of them.

With trivial characters it cannot be a ground state of another momentum or parity, however small its
variance becomes: it then is the lowest state of its own kind.

What it cannot: it is not the projection of psi. Where images cancel in the sum (above all where
g s = s for a g with chi(g) != 1, which no state of that sector occupies) the probability stays the
average and the phase is set to 0; such weight is outside the sector and only training can remove
it. And only one-dimensional representations.

Letters: B configurations, N sites, M = |G| images, G flips (F distinct ones with their images).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast, final

import torch
from torch import Tensor

from hamiltonians.lattices.symmetry_group import (
    WORD_BITS,
    SymmetryGroup,
    bit_words,
    distinct,
    smallest,
)
from nqs.wavefunctions.flips import in_chunks
from nqs.wavefunctions.wavefunction import Samples, Wavefunction, merged

LAUNCH_NUMBERS = 2**22
"""Values ln psi(g (s xor f)) held at a time."""

VANISHING = 1e-5
"""Sums of images below this fraction of the sum of their moduli count as zero: float32 rounding."""


@final
class Symmetrised(Wavefunction):
    """The symmetric average of `base` (formula and limits at the head of this file).

    Args:
        base: any normalised wavefunction, positive (real ln psi) or complex.
        group: what psi is averaged over, M elements. Characters other than 1 need a complex base:
            the signs of a positive one are not its to learn.

    Raises ValueError for a group of another number of sites, elements that do not keep the base's
    n_up, and characters that the base cannot carry.
    """

    def __init__(self, base: Wavefunction, group: SymmetryGroup) -> None:
        super().__init__()
        self.base, self.n_sites, self.n_up = base, base.n_sites, base.n_up
        if group.n_sites != base.n_sites:
            raise ValueError(
                f"the symmetries move {group.n_sites} sites, the wavefunction has {base.n_sites}"
            )
        if base.n_up is not None and 2 * base.n_up != base.n_sites and group.inverted.any():
            raise ValueError(
                f"n_up={base.n_up} is not half of {base.n_sites} sites, which the spin flip leaves"
            )
        self.group, self.n_images = group, len(group)  # M
        self._arguments = group.characters.angle()  # (M,), no buffer: .float() would round it
        self._flips: tuple[Tensor, Tensor, Tensor] | None = None
        if not group.is_trivial:
            device = next((p.device for p in base.parameters()), torch.device("cpu"))
            with torch.no_grad():
                probe = base.log_psi(torch.zeros(1, self.n_sites, dtype=torch.bool, device=device))
            if not probe.is_complex():
                raise ValueError(
                    "characters other than 1 need a complex base wavefunction; this one is positive"
                )

    def _kind(self) -> str:
        return f"{self.base!r}, {self.n_images} images, "

    def has_compiled_flips(self) -> bool:
        """See Wavefunction.has_compiled_flips."""
        return self.base.has_compiled_flips()

    def flip_pass(self) -> str:
        """See Wavefunction.flip_pass."""
        return self.base.flip_pass()

    @property
    def symmetry(self) -> SymmetryGroup:
        """See Wavefunction.symmetry."""
        return self.group

    def representatives(self, configs: Tensor) -> Tensor:
        """See Wavefunction.representatives: the image that is smallest as a number.

        With characters other than 1 every configuration stands for itself: where their sum vanishes
        images do not have their ratio.
        """
        if not self.group.is_trivial:
            return configs
        chosen = torch.empty_like(configs)

        def choose(begin: int, end: int) -> None:
            chosen[begin:end] = self.group.representatives(configs[begin:end])

        per_launch = LAUNCH_NUMBERS // (self.n_images * self.n_sites)
        in_chunks(choose, len(configs), max(1, per_launch))
        return chosen

    def set_product_state(self, *arguments: Any, **options: Any) -> None:
        """The base's set_product_state; the start is the average of that state's images.

        The state itself is not averaged: a staggered or magnetised start would become featureless.
        """
        cast(Any, self.base).set_product_state(*arguments, **options)

    def log_psi(self, configs: Tensor) -> Tensor:
        """See Wavefunction.log_psi; the images of a configuration are M neighbouring rows."""
        if torch.is_grad_enabled():
            return self._log_psi(configs)
        parts: list[Tensor] = []
        per_launch = max(1, 32_768 // self.n_images)
        in_chunks(
            lambda begin, end: parts.append(self._log_psi(configs[begin:end])),
            len(configs),
            per_launch,
        )
        return torch.cat(parts) if parts else self._log_psi(configs)

    def _log_psi(self, configs: Tensor) -> Tensor:
        images = self.group.images(configs)  # (B, M, N)
        log_psi = self.base.log_psi(images.flatten(0, 1)).view(images.shape[:2])
        return self._averaged(log_psi, lambda: bit_words(images))

    def _averaged(self, log_psi: Tensor, words: Callable[[], Tensor]) -> Tensor:
        """ln psi_sym (B, ...) from ln psi(g s) (B, M, ...); all images -inf give -inf.

        words: gives the images as numbers (B, M, ..., W), should a phase ask which is smallest.
        """
        moduli = 2 * log_psi.real  # ln |psi(g s)|^2
        largest = moduli.detach().amax(1, keepdim=True)
        largest = torch.where(largest.isinf(), 0.0, largest)
        total = (moduli - largest).exp().sum(1)
        # ln of a sum that is never 0, so that no gradient is 0 / 0
        log_total = torch.where(total > 0, total, 1.0).log() + largest.squeeze(1)
        log_total = torch.where(total > 0, log_total, -torch.inf)
        modulus = 0.5 * (log_total - math.log(self.n_images))
        if not log_psi.is_complex():
            return modulus
        if self.group.is_trivial:
            phase = log_psi.imag.gather(1, smallest(words()).unsqueeze(1)).squeeze(1)
        else:
            phase = self._phase_of_sum(log_psi, largest / 2)
        return torch.complex(modulus, phase)

    def _phase_of_sum(self, log_psi: Tensor, largest: Tensor) -> Tensor:
        """arg sum_g chi(g)* psi(g s) from ln psi(g s) (B, M, ...) and ln of their largest modulus;
        0, without gradient, where the sum vanishes."""
        moduli, angles = (log_psi.real - largest).exp(), log_psi.imag
        arguments = self._arguments.to(angles.device, angles.dtype)
        angles = angles - arguments.view(-1, *[1] * (angles.dim() - 2))
        real, imag = (moduli * angles.cos()).sum(1), (moduli * angles.sin()).sum(1)
        size = (real.square() + imag.square()).sqrt()
        vanishing = (size <= VANISHING * moduli.sum(1)).detach()
        return torch.atan2(torch.where(vanishing, 0.0, imag), torch.where(vanishing, 1.0, real))

    @torch.no_grad()
    def log_psi_flipped(
        self,
        configs: Tensor,
        flips: Tensor,
        needed: Tensor | None = None,
        *,
        max_rows: int = 32_768,
    ) -> Tensor:
        """See Wavefunction.log_psi_flipped; (B, G).

        g (s xor f) = (g s) xor (g f): each image of s takes the images of the flips. All images are
        rows of one call of the base with all images of flips, which for the flips of a symmetric
        Hamiltonian are these flips again. Where few orbits are reached, each is evaluated instead.
        """
        if not len(flips):
            return torch.zeros(len(configs), 0, dtype=torch.float64, device=configs.device)
        if self.n_sites <= WORD_BITS:  # larger lattices: hardly ever two alike
            by_orbits = self._log_psi_by_orbits_reached(configs, flips, needed)
            if by_orbits is not None:
                return by_orbits
        every, place = self._images_of_flips(flips)  # (F, N), (M, G)
        words_of_flips = bit_words(every)[place]  # (M, G, W)
        parts: list[Tensor] = []

        def score(begin: int, end: int) -> None:
            images = self.group.images(configs[begin:end])  # (b, M, N)
            places = place.expand(len(images), -1, -1)  # (b, M, G)
            mask = None
            if needed is not None:
                mask = _scattered(needed[begin:end, None].expand_as(places), places, len(every))
            elif len(every) > len(flips):
                mask = _scattered(torch.ones_like(places).bool(), places, len(every))
            log_psi = self.base.log_psi_flipped(
                images.flatten(0, 1), every, mask, max_rows=max_rows
            )
            log_psi = log_psi.view(*images.shape[:2], len(every)).gather(2, places)
            words = bit_words(images)[:, :, None]  # (b, M, 1, W)
            parts.append(self._averaged(log_psi, lambda: words ^ words_of_flips))

        per_launch = min(max_rows, LAUNCH_NUMBERS // len(every)) // self.n_images
        in_chunks(score, len(configs), max(1, per_launch))
        return torch.cat(parts)

    def _log_psi_by_orbits_reached(
        self, configs: Tensor, flips: Tensor, needed: Tensor | None
    ) -> Tensor | None:
        """`log_psi_flipped`, each orbit that the flips reach evaluated once; None where that costs
        more than the flips, which read about half of the sequence each.

        Small lattices with many symmetries have few orbits.
        """
        rows, cols = torch.where(
            configs.new_ones(len(configs), len(flips)) if needed is None else needed
        )
        reached, place = distinct(configs[rows] ^ flips[cols])  # (U, N), (R,)
        orbits, orbit = distinct(self.representatives(reached))
        if 2 * len(orbits) >= len(rows):
            return None
        log_psi = self.log_psi(orbits)
        shape = (len(configs), len(flips))
        result = torch.full(shape, -torch.inf, dtype=log_psi.dtype, device=log_psi.device)
        result[rows, cols] = log_psi[orbit[place]]
        return result

    def _images_of_flips(self, flips: Tensor) -> tuple[Tensor, Tensor]:
        """The distinct g f for flips (G, N) -> (F, N), and which of them each g f is, (M, G).

        Remembered until other flips come: a Hamiltonian's are the same at every step.
        """
        same_device = self._flips is not None and self._flips[0].device == flips.device
        if self._flips is None or not same_device or not torch.equal(self._flips[0], flips):
            permutations = self.group.permutations.to(flips.device)  # inversion leaves flips alone
            images = flips[:, permutations].transpose(0, 1)  # (M, G, N)
            every, place = distinct(images.flatten(0, 1))
            self._flips = (flips, every, place.view(images.shape[:2]))
        return self._flips[1:]

    @torch.no_grad()
    def sample(
        self, n_samples: int, generator: torch.Generator, *, unique: bool = False
    ) -> Samples:
        """See Wavefunction.sample: draws of the base, each moved by a random group element."""
        samples = self.base.sample(n_samples, generator, unique=unique)
        configs, counts = samples.configs, samples.counts
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        element = torch.randint(
            self.n_images, rows.shape, generator=generator, device=rows.device
        )  # the inverse of a random element is a random element
        if unique:
            pairs, counts = torch.unique(rows * self.n_images + element, return_counts=True)
            rows, element = pairs // self.n_images, pairs % self.n_images
        configs = self.group.act(configs[rows], element)
        if unique:
            configs, counts = merged(configs, counts)
        return Samples(configs, counts, self._log_psi_by_orbit(configs))

    def _log_psi_by_orbit(self, configs: Tensor) -> Tensor:
        """ln psi (B,), each orbit evaluated once where its images share their ln psi."""
        orbits, place = distinct(self.representatives(configs))
        return self.log_psi(orbits)[place]


def _scattered(mask: Tensor, places: Tensor, n_columns: int) -> Tensor:
    """mask (B, M, G) bool brought to its columns `places` of n_columns -> (B M, n_columns)."""
    result = torch.zeros(*places.shape[:2], n_columns, dtype=torch.bool, device=places.device)
    return result.scatter_(2, places, mask).flatten(0, 1)
