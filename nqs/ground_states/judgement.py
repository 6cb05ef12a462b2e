"""What speaks against the energy of a run: before it, of the Hamiltonian and the ansatz; after it,
of the result (nqs.vmc.verdict)."""

from __future__ import annotations

from typing import Final

import torch

from nqs.ground_states.build import Job
from nqs.runfolder.history import Evaluation, RunFile
from nqs.runfolder.machine import build_generator
from nqs.vmc.observables.broken_symmetry import is_broken
from nqs.vmc.product_state import product_energy, product_state
from nqs.vmc.verdict import Findings, doubts
from nqs.wavefunctions.symmetrised import Symmetrised

MAY_BE_EXCITED: Final = (
    "warning: this Hamiltonian has off-diagonal elements that are not <= 0; the energy is the "
    "lowest among positive states, only an upper bound of the ground state's; see model.phase=true"
)
MAY_HAVE_CHARACTERS: Final = (
    "warning: this Hamiltonian has off-diagonal elements that are not <= 0, and symmetrised states "
    "are those that each symmetry leaves as they are; a ground state of another momentum or parity "
    "is not among them (model.odd), compare with model.symmetry=none model.spin_flip=false"
)


def warning_about(job: Job) -> str | None:
    """What qualifies the energy: states that the wavefunction cannot be. None if nothing does."""
    if job.hamiltonian.is_stoquastic:
        return None  # Perron-Frobenius: a positive ground state, of every symmetry's trivial kind
    if not job.config.model.phase:
        return MAY_BE_EXCITED
    return MAY_HAVE_CHARACTERS if isinstance(job.wavefunction, Symmetrised) else None


def remarks(evaluation: Evaluation) -> list[str]:
    """What its energy does not say of a state: whether it has the symmetries of H."""
    if "symmetric_weight" not in evaluation.observables:
        return []
    weight, error = map(float, evaluation.observables["symmetric_weight"])
    if not is_broken(weight, error):
        return []
    percent = f"{100 * weight:.3g} % ± {100 * error:.1g} %"
    return [
        f"symmetry: averaged over the symmetries of H the state keeps {percent}, no more of which "
        "can be the ground state: it is one of several patterns, or not converged; "
        "symmetric_density and symmetric_connected in run.h5 are those of all its images together"
    ]


def _energy(evaluation: Evaluation) -> tuple[float, float]:
    return evaluation.numbers["energy"], evaluation.numbers["energy_error"]


class Judgement:
    """Judges the final evaluation of a job, as often as something new is known."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._product: tuple[float, float] | None = None

    def doubts(
        self, evaluation: Evaluation, content: RunFile, exact_energy: float | None
    ) -> list[str]:
        """What speaks against it. The result is saved even if it cannot be judged."""
        try:
            return self._doubts(evaluation, content, exact_energy)
        except Exception as error:  # of a user's Hamiltonian, say
            reason = " ".join(str(error).split())[:200]
            return [f"unjudged: the verdict failed ({type(error).__name__}: {reason})"]

    def _doubts(
        self, evaluation: Evaluation, content: RunFile, exact_energy: float | None
    ) -> list[str]:
        numbers, columns, job = evaluation.numbers, content.columns, self._job
        start, warning = content.last("start"), warning_about(job)
        names = ("energy", "energy_error", "variance", "variance_outside", "excess")
        density, error = map(torch.from_numpy, evaluation.observables["density"])
        findings = Findings(
            **{name: numbers[name] for name in (*names, "largest_share")},
            density=(density, error),
            history=(columns["energy"], columns["energy_error"]),
            start=None if start is None else _energy(start),
            product=self._product_bound(start is not None),
            exact_energy=exact_energy,
            warning=warning and warning.removeprefix("warning: "),
        )
        return doubts(findings, job.hamiltonian.to("cpu"), job.lattice)

    def _product_bound(self, elsewhere: bool) -> tuple[float, float] | None:
        """Energy and standard error of the best product state, where the run started `elsewhere`
        and any number of 1 bits is allowed: worked out once."""
        job = self._job
        if elsewhere and job.config.model.n_up is None and self._product is None:
            generator = build_generator(job.config.seed, "product_state", job.device)
            chances = product_state(job.hamiltonian, generator)
            self._product = product_energy(job.hamiltonian, chances, generator)
        return self._product
