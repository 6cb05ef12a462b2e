"""Match rates as sums of rows: one row for each reference crystal and each way of guessing it.

With d_i the least root mean square displacement, in (V / A)^(1/3), of reference i from the guesses
that count, NaN where none matches, S references and stol the matcher's tolerance:

    match rate = share of i with a match;   RMSE = mean of d_i over these;
    cRMSE = mean over all i of d_i, or stol where there is none.

Guesses that count are those made for reference i, or, for METRe, all guesses whichever reference
they were made for ("match everyone to reference", Martirossyan et al., arXiv:2509.12178; its
authors' code is OMatG's `metre_rmsds`, and `crmse` is the cRMSE that it gives beside METRe,
`own_crmse` the one of its `match_rmsds`). Where only valid pairs count, rates are of all
references, as DiffCSP and OMatG have it, and besides of the references that are valid themselves:
papers quote either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nqs.crystal.metrics.matching import Matches
from nqs.crystal.metrics.report import quantity
from nqs.crystal.structures.structure import Structure

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MatchMetrics:
    """Of n guesses for each of S reference crystals; NaN where nothing matched."""

    n_references: float = quantity("references", 0)
    match_rate: float = quantity("match rate", 2, percent=True)
    match_rate_error: float = quantity("  its standard error", 2, percent=True)
    rmse: float = quantity("RMSE of those matched", 4)
    own_crmse: float = quantity("  cRMSE, own guesses alone", 4)
    valid_match_rate: float = quantity("match rate, valid only", 2, percent=True)
    valid_rmse: float = quantity("  its RMSE", 4)
    n_valid: float = quantity("valid references", 0)
    rate_of_valid: float = quantity("match rate of valid references", 2, percent=True)
    metre: float = quantity("METRe", 2, percent=True)
    metre_rmse: float = quantity("  its RMSE", 4)
    crmse: float = quantity("cRMSE", 4)
    valid_metre: float = quantity("METRe, valid only", 2, percent=True)
    valid_crmse: float = quantity("cRMSE, valid only", 4)
    n_guesses: float = quantity("guesses", 0)
    not_compared: float = quantity("crystals too long to compare", 0)


@dataclass(frozen=True)
class ReferenceRow:
    """A reference under one way of guessing; displacements are NaN where nothing matched.

    Attributes:
        column: of the table: whose guesses, and how many.
        reference: which of the references.
        formula: of its cell.
        valid: whether the reference itself is.
        n_guesses: made for it.
        guess: which of these (from 1) is the nearest, None without a match.
        rmse, valid_rmse: of the guesses made for it, of the valid ones.
        metre_rmse, valid_metre_rmse: of all guesses, of the valid ones.
    """

    column: str
    reference: int
    formula: str
    valid: bool
    n_guesses: int
    guess: int | None
    rmse: float
    valid_rmse: float
    metre_rmse: float
    valid_metre_rmse: float


def reference_rows(
    column: str,
    references: Sequence[Structure],
    valid_references: NDArray[np.bool_],
    guesses: Sequence[Sequence[Structure | None]],
    matches: Matches,
    valid: Matches,
    size: int,
) -> list[ReferenceRow]:
    """The rows of the first `size` guesses; `valid` has the matches of valid pairs alone."""
    best, best_valid = _least(matches.own[:, :size]), _least(valid.own[:, :size])
    rows = []
    for i, structure in enumerate(references):
        matched = not math.isnan(best[i])
        rows.append(
            ReferenceRow(
                column=column,
                reference=i,
                formula=structure.formula,
                valid=bool(valid_references[i]),
                n_guesses=sum(guess is not None for guess in guesses[i][:size]),
                guess=int(np.nanargmin(matches.own[i, :size])) + 1 if matched else None,
                rmse=float(best[i]),
                valid_rmse=float(best_valid[i]),
                metre_rmse=float(matches.nearest[i, size - 1]),
                valid_metre_rmse=float(valid.nearest[i, size - 1]),
            )
        )
    return rows


def _least(own: Floats) -> Floats:
    """(S,) of (S, n): NaN where all are."""
    least: Floats = np.fmin.reduce(own, axis=1)
    return least


def reference_totals(rows: Sequence[ReferenceRow], stol: float, not_compared: int) -> MatchMetrics:
    """The quantities of one column from its rows."""
    own, own_valid, nearest, nearest_valid = (
        np.array([getattr(row, name) for row in rows])
        for name in ("rmse", "valid_rmse", "metre_rmse", "valid_metre_rmse")
    )  # (S,) each
    n_valid = sum(row.valid for row in rows)
    rate, rmse = _rate_and_mean(own)
    valid_rate, valid_rmse = _rate_and_mean(own_valid)
    metre, metre_rmse = _rate_and_mean(nearest)
    return MatchMetrics(
        n_references=len(rows),
        match_rate=rate,
        match_rate_error=math.sqrt(rate * (1 - rate) / len(rows)),
        rmse=rmse,
        own_crmse=_corrected(own, stol),
        valid_match_rate=valid_rate,
        valid_rmse=valid_rmse,
        n_valid=n_valid,
        rate_of_valid=valid_rate * len(rows) / n_valid if n_valid else math.nan,
        metre=metre,
        metre_rmse=metre_rmse,
        crmse=_corrected(nearest, stol),
        valid_metre=_rate_and_mean(nearest_valid)[0],
        valid_crmse=_corrected(nearest_valid, stol),
        n_guesses=sum(row.n_guesses for row in rows),
        not_compared=not_compared,
    )


def _rate_and_mean(rms: Floats) -> tuple[float, float]:
    """Share of numbers that are not NaN, and their mean (NaN if there is none)."""
    matched = ~np.isnan(rms)
    return float(matched.mean()), float(rms[matched].mean()) if matched.any() else math.nan


def _corrected(rms: Floats, stol: float) -> float:
    """cRMSE: the mean with stol for NaN."""
    return float(np.where(np.isnan(rms), stol, rms).mean())
