"""Where a family begins: at the product states of its Hamiltonians, as far as its context can."""

from __future__ import annotations

import copy
from typing import Final

import torch

from nqs.ground_states.build import Job, start_from_product_state
from nqs.ground_states.members import Members
from nqs.runfolder.machine import build_generator
from nqs.vmc.product_state import product_state
from nqs.wavefunctions.conditional import Conditional

CPU: Final = torch.device("cpu")
MOST: Final = 64
"""Product states to which a context is fitted, at most; twice as many as couplings, at least 16."""
SAMPLES: Final = 256
"""Draws of a step towards each of them; their noise is averaged by the fit."""


@torch.no_grad()
def start_from_product_states(job: Job, members: Members, psi: Conditional) -> None:
    """Puts psi at the best product state in the middle of the ranges, and fits what the couplings
    add to its biases to those of other product states (phases stay those of the middle)."""
    start_from_product_state(job)
    n_fitted = min(MOST, max(16, 2 * sum(members.sizes)))
    points = members.drawn(n_fitted, build_generator(job.config.seed, "product_states", CPU))
    table, other = psi.tables[1], copy.deepcopy(psi.base)
    begin = dict(psi.base.named_parameters())[table]
    there = dict(other.named_parameters())[table]
    differences = []
    for c in points:
        generator = build_generator(job.config.seed, "product_state", job.device)
        hamiltonian = members.at(c).to(job.device)
        other.set_product_state(product_state(hamiltonian, generator, n_samples=SAMPLES))
        differences.append(there - begin)
    biases = torch.stack(differences)
    if job.config.model.phase:
        biases[..., biases.shape[-1] // 2 :] = 0
    psi.context.fit(torch.stack([psi.scaled(c) for c in points.to(job.device)]), biases)
