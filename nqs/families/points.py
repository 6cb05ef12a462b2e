"""A family at single couplings: fresh evaluations with a verdict, as a run there would have one."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

import torch
from torch import Tensor

from hamiltonians.exact import ground_state
from nqs.ground_states.build import EXACT_GIGABYTES, Job, compares_with_exact
from nqs.ground_states.evaluations import evaluated
from nqs.ground_states.judgement import Judgement
from nqs.ground_states.members import Members, member_job
from nqs.ground_states.summary import DOUBTFUL, GOOD, against_exact
from nqs.runfolder.history import LONGEST_TEXT, Column, Evaluation, RunFile
from nqs.runfolder.machine import derived_seed
from nqs.wavefunctions.conditional import Conditional

CHECKS: Final = 8
"""Couplings at which a finished family is checked."""
HISTORY: Final = (Column("energy", "couplings", ""), Column("energy_error", "couplings", ""))
"""Columns that a judgement looks at; a family has no history at one of its couplings."""


@final
@dataclass
class Point:
    """The family's state at one coupling.

    Attributes:
        couplings: by name.
        job: as of a run there by itself.
        evaluation: of fresh draws.
        outside: what is to be said of couplings outside of the ranges.
        exact_energy: once it is there.
    """

    couplings: dict[str, Any]
    job: Job
    evaluation: Evaluation
    outside: list[str] = field(default_factory=list)
    exact_energy: float | None = None

    def compare(self, diagonalise: Callable[..., Any]) -> None:
        """Exact diagonalisation."""
        job = self.job
        self.exact_energy = diagonalise(
            job.hamiltonian, k=1, n_up=job.config.model.n_up, max_memory_gb=EXACT_GIGABYTES
        ).energy

    def compare_where_quick(self) -> None:
        """The same, if it is quick or was asked for in the run."""
        job = self.job
        wanted = job.config.train.exact or "auto"
        if compares_with_exact(wanted, job.hamiltonian, job.config.model.n_up):
            self.compare(ground_state)

    def doubts(self) -> list[str]:
        """What speaks against the energy."""
        content = RunFile()
        content.declare(HISTORY)
        found = Judgement(self.job).doubts(self.evaluation, content, self.exact_energy)
        known = self.exact_energy is not None
        return found + [f"outside: {line}" for line in ([] if known else self.outside)]

    def entry(self) -> dict[str, Any]:
        """Its numbers for summary.json."""
        numbers, doubts = self.evaluation.numbers, self.doubts()
        names = ("energy", "energy_error", "variance", "v_score", "n_samples")
        entry = {"couplings": self.couplings, **{name: numbers[name] for name in names}}
        if self.exact_energy is not None:
            entry["exact_energy"] = self.exact_energy
            entry |= against_exact(entry["energy"], entry["energy_error"], self.exact_energy)
        return entry | {"verdict": DOUBTFUL if doubts else GOOD, "doubts": doubts}


def checks(members: Members, generator: torch.Generator) -> Tensor:
    """c (CHECKS, n): stratified draws that no step has."""
    return members.drawn(CHECKS, generator)


def point_at(
    job: Job,
    members: Members,
    psi: Conditional,
    c: Tensor,
    n_samples: int,
    seed: int,
    step: int,
    *,
    thorough: bool | None = None,
    subsystems: Tensor | None = None,
    kind: str = "later",
    outside: Sequence[str] = (),
) -> Point:
    """The state at couplings c (n,), evaluated with n_samples fresh draws. Raises InputError where
    there is no Hamiltonian."""
    own, named = member_job(job, members, psi, c), members.named(c)
    there = zlib.crc32(c.to("cpu", torch.float64).numpy().tobytes())
    evaluation = evaluated(
        own,
        n_samples,
        derived_seed(seed, "evaluation", (there,)),  # independent draws at each coupling
        step,
        kind,
        thorough=thorough,
        subsystems=subsystems,
    )
    evaluation.numbers.update(seed=seed, couplings=text_of(named))
    return Point(named, own, evaluation, list(outside))


def text_of(named: Mapping[str, Any]) -> str:
    """Couplings by name in one line; of long ones a digest."""
    text = " ".join(f"{name}={_text(value)}" for name, value in named.items())
    if len(text) <= LONGEST_TEXT:
        return text
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(f'{number:.9g}' for number in value)}]"
    return f"{value:.9g}"
