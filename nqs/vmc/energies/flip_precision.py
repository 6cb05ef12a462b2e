"""What rounded products do to the energy, measured against float64, and the choice of them.

Letters: U distinct configurations, G flips.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hamiltonians.hamiltonian import Hamiltonian
from nqs.errors import require_choice
from nqs.vmc.columns import Column
from nqs.vmc.energies.local_energy import connected, local_energy
from nqs.vmc.energies.proposal import blurred_samples, importance
from nqs.vmc.energies.rounding import BITS, PRECISIONS, cheaper
from nqs.vmc.ranks import ALONE, Ranks
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

CHOICES: Final = (*PRECISIONS, "auto")
"""auto: full, or the cheapest products whose measured error is small enough."""
CHECK_EVERY: Final = 20
"""Steps between measurements."""
CHECK_SHARE: Final = 8
"""A measurement takes one draw for so many of a step: in float64, some 2 % of the flips' time."""
CHECK_DRAWS: Final = (32, 1_024)
"""Draws of a measurement, at least and at most."""
BIAS_SHARE: Final = 0.5
"""Bias of a step's energy allowed, 2 of its standard errors added, over the energy's own error."""
RMS_SHARE: Final = 0.1
"""Rms error of local energies allowed over their standard deviation: 1 % more variance."""
COLUMNS: Final = (
    Column("flip_bits", "1", "significant bits of the operands of the flips' matrix products"),
    Column("flip_bias", "couplings", "error of the energy from these, last measured; 0 if full"),
    Column("flip_rms_share", "1", "rms error of E_loc from these over its standard deviation"),
)


@dataclass(frozen=True)
class Rounding:
    """Error of the energy of some samples against float64; energies in the Hamiltonian's units.

    A draw contributes r (E_loc - E) / <r> to n (estimate - E), with r its importance (1 if all come
    from |psi|^2) and E the weighted mean.

    Attributes:
        bias: the estimate minus that in float64, same samples.
        rms: root mean square error of a draw's contribution, of its E_loc - E if r is 1.
        spread: standard deviation of the contributions in float64.
        n_draws: draws that were compared.
    """

    bias: float
    rms: float
    spread: float
    n_draws: int

    @property
    def bias_error(self) -> float:
        """Standard error of the bias over the draws."""
        return self.rms / max(self.n_draws - 1, 1) ** 0.5

    @property
    def rms_share(self) -> float:
        """rms over spread; 0 for an eigenstate that is not rounded."""
        return self.rms / self.spread if self.rms > 0 else 0.0

    def tolerable(self, n_samples: int) -> bool:
        """Whether the energy of n_samples draws, and its variance, hardly change."""
        bound = abs(self.bias) + 2 * self.bias_error
        error = self.spread / n_samples**0.5
        return bound <= BIAS_SHARE * error and self.rms <= RMS_SHARE * self.spread


@torch.no_grad()
def rounding(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    samples: Samples,
    precision: str,
    *,
    fraction: float = 0.0,
    max_rows: int = 32_768,
) -> Rounding:
    """Measured on samples.configs with their counts; fraction: of the draws that took a flip.

    Importance comes from the same ratios as E_loc, and its error is part of the result.
    """
    double = copy.deepcopy(wavefunction).to(torch.float64)
    exact = Samples(samples.configs, samples.counts, double.log_psi(samples.configs))
    energy, moved = _estimated(wavefunction, hamiltonian, samples, precision, fraction, max_rows)
    truth, truly_moved = _estimated(double, hamiltonian, exact, "full", fraction, max_rows)
    shares = samples.counts.to(torch.float64) / samples.n_samples
    return Rounding(
        bias=energy - truth,
        rms=float((shares @ (moved - truly_moved).square()).sqrt()),
        spread=float((shares @ truly_moved.square()).sqrt()),
        n_draws=samples.n_samples,
    )


def _estimated(
    wavefunction: Wavefunction,
    hamiltonian: Hamiltonian,
    samples: Samples,
    precision: str,
    fraction: float,
    max_rows: int,
) -> tuple[float, Tensor]:
    """Energy and contribution of a draw of each row (U,), both from Re E_loc in float64."""
    elements, log_ratios = connected(
        wavefunction, hamiltonian, samples, max_rows, precision=precision
    )
    e_loc = local_energy(hamiltonian, samples.configs, elements, log_ratios).real
    shares = samples.counts.to(torch.float64) / samples.n_samples
    weights = torch.ones_like(shares)
    if fraction > 0:
        weights = importance(elements, log_ratios, fraction)
    weights = weights / (shares @ weights)
    energy = shares @ (weights * e_loc)
    return float(energy), weights * (e_loc - energy)


class FlipPrecision:
    """The precision of the flips' matrix products in a step; auto follows the measured error.

    Measured before steps 1, 1 + CHECK_EVERY, ... on draws of their own, for a fixed one as well.
    The choice depends on these draws alone, not on timings, so that a run repeats bit for bit.

    Attributes:
        asked: full, tf32, bfloat16 or auto.
        kind: full, tf32 or bfloat16, of the step at hand.
        bias: of its energy, last measured; 0 in full.
        rms_share: rms error of its local energies over their standard deviation; 0 in full.
        columns: what is recorded, nothing where all products are full.

    Raises ValueError for other names.
    """

    def __init__(self, asked: str = "full") -> None:
        require_choice("flip_precision", asked, CHOICES)
        self.asked = asked
        self.kind = "full" if asked == "auto" else asked
        self.bias = self.rms_share = 0.0
        self.columns = () if asked == "full" else COLUMNS

    def check(self, wavefunction: Wavefunction) -> None:
        """Raises ValueError for products that the state or its device does not have."""
        parameter = next(wavefunction.parameters(), None)
        if self.asked == "full" or parameter is None:
            return
        device = parameter.device.type
        if self.asked == "tf32" and device != "cuda":
            rule = f"only GPUs have it, this run is on {device}; use full, bfloat16 or auto"
            raise ValueError(f"flip_precision={self.asked}: {rule}")
        if parameter.dtype != torch.float32:
            rule = "rounds the products of float32 networks; use full with dtype=float64"
            raise ValueError(f"flip_precision={self.asked}: {rule}")

    def measured_at(self, step: int) -> bool:
        """Whether `update` is due before this step, counted from 1."""
        return self.asked != "full" and (step - 1) % CHECK_EVERY == 0

    def update(
        self,
        wavefunction: Wavefunction,
        hamiltonian: Hamiltonian,
        n_samples: int,
        fraction: float,
        generator: torch.Generator,
        ranks: Ranks = ALONE,
    ) -> None:
        """Measures for a step of n_samples draws, `fraction` of which take a flip.

        All ranks measure the same draws, and take what rank 0 measures.
        """
        lowest, highest = CHECK_DRAWS
        n_draws = max(min(max(n_samples // CHECK_SHARE, lowest), highest), ranks.size)
        draws = blurred_samples(wavefunction, hamiltonian, n_draws, fraction, generator, ranks)
        self._choose(wavefunction, hamiltonian, draws, n_samples, fraction)
        choice = torch.tensor(
            [PRECISIONS.index(self.kind), self.bias, self.rms_share],
            dtype=torch.float64,
            device=draws.configs.device,
        )
        kind, self.bias, self.rms_share = ranks.broadcast(choice).tolist()
        self.kind = PRECISIONS[int(kind)]

    def _choose(
        self,
        wavefunction: Wavefunction,
        hamiltonian: Hamiltonian,
        draws: Samples,
        n_samples: int,
        fraction: float,
    ) -> None:
        """The first kind that is asked for or good enough."""
        fixed = self.asked != "auto"
        for kind in (self.asked,) if fixed else cheaper(wavefunction):
            error = rounding(wavefunction, hamiltonian, draws, kind, fraction=fraction)
            if fixed or error.tolerable(n_samples):
                self.kind, self.bias, self.rms_share = kind, error.bias, error.rms_share
                return
        self.kind, self.bias, self.rms_share = "full", 0.0, 0.0

    def record(self) -> dict[str, float]:
        """The values of `columns`."""
        values = (float(BITS[self.kind]), self.bias, self.rms_share)
        names = [column.name for column in COLUMNS]
        return dict(zip(names, values, strict=True)) if self.columns else {}

    def restore(self, last: Mapping[str, float]) -> None:
        """Goes on after a step with this record; a fixed kind that it was not, and a record
        without these columns, leave nothing measured."""
        if not all(math.isfinite(last.get(column.name, math.nan)) for column in COLUMNS):
            return
        recorded = kind_of(last["flip_bits"])
        if self.asked == "auto":
            self.kind = recorded
        if self.kind == recorded:
            self.bias, self.rms_share = last["flip_bias"], last["flip_rms_share"]


def kind_of(flip_bits: float) -> str:
    """full, tf32 or bfloat16 of a record's flip_bits; full where there are none (NaN)."""
    return next((kind for kind in PRECISIONS if BITS[kind] == flip_bits), "full")


def steps_by_precision(history: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """Steps of a history, {column: values}, by the precision of their flips: {"full": 200}."""
    bits = history.get(COLUMNS[0].name, [math.nan] * len(history["step"]))
    return dict(Counter(map(kind_of, bits)))
