"""Floating-point operations of an optimisation step, counted exactly, and the least they could be.

    flops(psi, hamiltonian, samples)    the products that a step really runs, part by part
    least_flops(...)                    those that a dense autoregressive network must run

Operations are those of matrix products (see `core_flops`), 2 a multiply-add, and of the solver.
Tests hold the first against torch's counter on the products that are dispatched.

`least_flops` is the numerator of a model-FLOP utilisation: every conditional that differs is
computed once, nothing is looked up. For N single flips that is N (T - 1) / 2 tokens a
configuration, each through all layers; derivatives are a forward and a backward pass and one
product a weight, O O^T is symmetric. Where branches share their first layer, or tokens of a table
their projection, less than this is run.

    MFU = least / seconds / rate of a large matrix product

Letters: B configurations, U samples, R rows of O, P parameters, T patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.core_flops import Call, CoreFlops, conditional_flops
from hamiltonians.hamiltonian import Hamiltonian
from nqs.vmc.optimizers.layer_jacobians import LayerJacobians, bytes_per_row
from nqs.vmc.optimizers.natural_gradient import NaturalGradient, fewer_parameters
from nqs.vmc.optimizers.optimizer import Optimizer
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.flips import LAUNCH_TOKENS, SHARED_PAIRS, first_patches, in_chunks
from nqs.wavefunctions.wavefunction import Samples

MAX_ROWS = 32_768


@dataclass(frozen=True)
class Work:
    """Operations of the parts of a step.

    Attributes:
        sampling: the walk through the tree of prefixes, or independent rows.
        flips: ln psi of the rows and of all their flips.
        jacobian: passes that the derivatives of ln psi come from, and the derivatives.
        gram: O O^T, and what else reads O: its mean, O delta, O^T a.
        solve: Cholesky and triangular solves, in float64.
    """

    sampling: int
    flips: int
    jacobian: int
    gram: int
    solve: int

    @property
    def total(self) -> int:
        """Of the step."""
        return sum(vars(self).values())


def flops(
    psi: Autoregressive,
    hamiltonian: Hamiltonian,
    samples: Samples | int,
    *,
    optimizer: Optimizer | None = None,
    prefixes: Sequence[int] | None = None,
    explored: bool = True,
) -> Work:
    """What one step runs on these rows.

    Args:
        samples: the rows whose local energies are taken; a number stands for as many rows on which
            every term acts.
        optimizer: `NaturalGradient` by default; any other takes one gradient.
        prefixes: rows of each sampling step, of `prefix_counts`; None: as many as there are rows.
        explored: draws were moved by flips, so that ln psi of all rows is taken once more.
    """
    optimizer = NaturalGradient() if optimizer is None else optimizer
    n_rows = samples if isinstance(samples, int) else len(samples.counts)
    needed = None
    if isinstance(samples, Samples):
        needed = hamiltonian.off_diagonal(samples.configs) != 0
    counts, n_patches = conditional_flops(psi), psi.patches.n_patches
    flips = flip_flops(psi, hamiltonian.flips, n_rows, needed)
    if explored:
        flips += counts.forward(Call(n_rows, n_patches))
    return Work(
        sampling_flops(psi, [n_rows] * n_patches if prefixes is None else prefixes),
        flips,
        *update_flops(psi, n_rows, optimizer),
    )


def prefix_counts(psi: Autoregressive, configs: Tensor) -> list[int]:
    """Distinct prefixes of 0 .. T - 1 patches: the rows of unique sampling that ends in configs."""
    tokens = psi.patches.encode(configs)  # (U, T)
    return [1, *(len(torch.unique(tokens[:, :t], dim=0)) for t in range(1, tokens.shape[1]))]


def sampling_flops(psi: Autoregressive, rows: Sequence[int]) -> int:
    """rows[t] at the step that draws patch t; at most MAX_ROWS each."""
    counts = conditional_flops(psi)
    return sum(counts.forward(Call(r, 1, before=t)) for t, r in enumerate(rows))


def flip_flops(
    psi: Autoregressive,
    flips: Tensor,
    n_configs: int,
    needed: Tensor | None = None,
    *,
    max_rows: int = MAX_ROWS,
) -> int:
    """`psi.log_psi_flipped` for B configurations, flips (G, N) and needed (B, G)."""
    changes = psi.patches.encode(flips)  # (G, T)
    if needed is not None and bool(needed.all()):
        needed = None
    counts = conditional_flops(psi)
    n_patches, total = changes.shape[1], 0
    n_flips = min(max_rows, len(flips))

    def walk(begin: int, end: int) -> None:
        nonlocal total
        for first in range(0, len(flips), n_flips):
            columns = slice(first, first + n_flips)
            acting = None if needed is None else needed[begin:end, columns]
            total += _walk(counts, changes[columns], end - begin, acting)

    def suffixes(begin: int, end: int) -> None:
        nonlocal total
        acting = None if needed is None else needed[begin:end]
        launch = LAUNCH_TOKENS[flips.device.type]
        total += _suffixes(counts, changes, end - begin, acting, launch, max_rows)

    if psi.core.constant_state:
        in_chunks(walk, n_configs, max(1, max_rows // n_flips))
    else:
        in_chunks(suffixes, n_configs, max(1, min(max_rows, SHARED_PAIRS // n_patches**2)))
    return total


def _walk(counts: CoreFlops, changes: Tensor, n_configs: int, needed: Tensor | None) -> int:
    """One step of the sequence itself, of the branches just opened and of the others, a patch."""
    first = (changes != 0).to(torch.int8).argmax(1)  # (G,)
    total = opened = others = 0
    for t in range(changes.shape[1]):
        shared = n_configs if needed is None else opened
        if opened:
            total += counts.forward(Call(opened, 1, before=t, shared=shared))
        total += counts.forward(Call(others, 1, before=t))
        total += counts.forward(Call(n_configs, 1, before=t))
        others += opened
        group = first == t
        opened = int(group.sum()) * n_configs if needed is None else int(needed[:, group].sum())
    return total


def _suffixes(
    counts: CoreFlops,
    changes: Tensor,
    n_configs: int,
    needed: Tensor | None,
    launch_tokens: int,
    max_rows: int,
) -> int:
    """Suffix by suffix, launch by launch: a launch looks each token of the vocabulary up once."""
    n_patches = changes.shape[1]
    total = counts.forward(Call(n_configs, n_patches))
    shared_once = 0
    for k, alone, group in first_patches(changes):
        own = n_patches - 1 - k
        if own == 0:
            continue
        if alone and not shared_once:
            shared_once = counts.repeated(n_configs, n_patches, k + 1)
            total += shared_once
        total += counts.prefix(n_configs, k + 1)
        launch = min(max_rows, max(1, launch_tokens // own))
        branches = len(group)
        if needed is None and branches <= launch:
            step, n_units = launch // branches, n_configs
        else:
            n_units = n_configs * branches if needed is None else int(needed[:, group].sum())
            step, branches = launch, 1
        for begin in range(0, n_units, step):
            shared = min(step, n_units - begin)
            total += counts.forward(Call(shared * branches, own, k + 1, shared, repeats=alone))
    return total


def update_flops(psi: Autoregressive, n_rows: int, optimizer: Optimizer) -> tuple[int, int, int]:
    """(jacobian, gram, solve) of `optimizer.update` in its second step or later."""
    counts, n_patches = conditional_flops(psi), psi.patches.n_patches
    whole = counts.forward(Call(n_rows, n_patches, grad=True))
    gradient = whole + counts.backward(n_rows, n_patches, parameters=True)
    if not isinstance(optimizer, NaturalGradient):
        return gradient, 0, 0
    n_parts = 2 if psi.phase else 1
    parameters = list(psi.parameters())
    n_parameters, size = sum(p.numel() for p in parameters), n_parts * n_rows
    passes = whole + n_parts * counts.backward(n_rows, n_patches, parameters=False)
    formed = n_parts * counts.jacobian(n_rows, n_patches)
    means = 2 * size * n_parameters
    if fewer_parameters(n_parameters, size):
        joined = 2 * n_parts * n_parameters  # the mean over the processes
        gram = _gram(n_parameters, size) + 2 * means + joined  # O^T e beside the mean
        return passes + formed, gram, _solve(n_parameters) + 4 * n_parameters**2
    held = size * sum(p.nbytes for p in parameters)
    keep = held <= optimizer.workspace.max_bytes / 2
    jacobian = formed + passes * _repetitions(psi, n_rows, optimizer, held if keep else 0)
    gram = _gram(size, n_parameters) + 2 * means + (means if keep else 0)  # the mean, O delta
    jacobian += 0 if keep else gradient  # O^T a is one more backward pass
    return jacobian, gram, _solve(size) + 4 * size**2


def _repetitions(
    psi: Autoregressive, n_rows: int, optimizer: NaturalGradient, kept_bytes: int
) -> int:
    """Passes for groups of layers, as many as memory_gb asks for.

    An upper bound of their work where it is not 1: the later ones end at their group's first layer.
    """
    if n_rows == 0:
        return 1
    device = psi.closed.device
    configs = torch.zeros(n_rows, psi.n_sites, dtype=torch.bool, device=device)
    row_bytes = bytes_per_row(psi, configs)
    free = optimizer.workspace.max_bytes - kept_bytes
    if kept_bytes and n_rows * row_bytes.record > 3 / 8 * free:
        return 1  # whole rows, in chunks whose record fits
    jacobians = LayerJacobians(psi, configs, max_bytes=3 / 4 * free, row_bytes=row_bytes)
    return jacobians.n_passes


def _gram(size: int, inner: int, n_blocks: int = 4) -> int:
    """`add_gram`: on and below the block diagonal."""
    sizes = [len(part) for part in torch.arange(size).chunk(n_blocks)]
    return sum(2 * own * sum(sizes[: i + 1]) * inner for i, own in enumerate(sizes))


def _solve(size: int) -> int:
    """Cholesky, n^3 / 3, and two triangular solves."""
    return size**3 // 3 + 2 * size**2


def least_flops(
    psi: Autoregressive,
    hamiltonian: Hamiltonian,
    n_rows: int,
    *,
    optimizer: Optimizer | None = None,
    prefixes: Sequence[int] | None = None,
    terms: float | None = None,
) -> Work:
    """The least that a dense network of these sizes needs (see the head of this file).

    terms: of the G flips, those that act on a row, on average; None: all.
    """
    optimizer = NaturalGradient() if optimizer is None else optimizer
    counts, n_patches = conditional_flops(psi), psi.patches.n_patches
    token = [counts.token(t) for t in range(n_patches)]
    rows = [n_rows] * n_patches if prefixes is None else prefixes
    sampling = sum(r * cost for r, cost in zip(rows, token, strict=True))
    first = (psi.patches.encode(hamiltonian.flips) != 0).to(torch.int8).argmax(1)  # (G,)
    flips = sum(sum(token[k + 1 :]) for k in first.tolist())
    if terms is not None:
        flips = int(flips * terms / len(first))
    forward = sum(token) * n_rows
    n_parts = 2 if psi.phase else 1
    size, n_parameters = n_parts * n_rows, sum(p.numel() for p in psi.parameters())
    jacobian = forward * (1 + 2 * n_parts)
    if not isinstance(optimizer, NaturalGradient):
        return Work(sampling, n_rows * flips, 3 * forward, 0, 0)
    if fewer_parameters(n_parameters, size):
        size, n_parameters = n_parameters, size
    gram = size * (size + 1) * n_parameters
    return Work(sampling, n_rows * flips, jacobian, gram, _solve(size))
