"""The dataset of a scan from a family, at any resolution: nqs collect FAMILY --grid KEY=VALUES."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hamiltonians.exact import ground_state
from nqs.errors import InputError, require
from nqs.families.family import Family
from nqs.families.later import named_couplings
from nqs.families.points import point_at
from nqs.ground_states.build import compares_with_exact
from nqs.ground_states.config import Config
from nqs.ground_states.members import SECTION, trained_family
from nqs.ground_states.summary import summarise
from nqs.runfolder import history
from nqs.runfolder.folder import locked, writing
from nqs.runfolder.history import Column
from nqs.scans.collect import Collected, Collecting
from nqs.scans.config import ScanConfig
from nqs.scans.folder import Axis, Scan, is_numeric, make

SUSCEPTIBILITY: Final = "fidelity_susceptibility"


def collect_family(
    path: Path, config: Config, axes: Sequence[Axis], n_samples: int, seed: int
) -> Collected:
    """Evaluates the family in `path` at all combinations of the axes' values, with the
    susceptibility of its fidelity along each axis. Nothing of the run is changed.

    Raises InputError for axes that are not the family's couplings, and for couplings of disorder,
    which have no axis.
    """
    require(bool(axes), "--grid", "''", "give KEY=VALUES, e.g. hamiltonian.delta=range(0,3,0.25)")
    with locked(path), writing(path):
        psi, members, job, step = trained_family(path, config)
        for each in members.couplings:
            if each.law.is_disorder:
                raise InputError(
                    f"--grid: {SECTION}{each.name} has a number for each site or bond and no "
                    "axis; use nqs evaluate FAMILY --draws=50"
                )
        for axis in axes:
            require(is_numeric(axis), "--grid", f"{axis.key}", "needs numbers")
        first = {axis.key: axis.values[0] for axis in axes}
        named_couplings(members, first)
        scan = _scan(path, config, axes)
        family, collecting = Family(psi, members, job), Collecting(scan)
        for point in scan.points:
            given = named_couplings(members, point.values)
            c, outside = members.vector(given)
            found = point_at(
                job, members, psi, c, n_samples, seed, step, thorough=True, outside=outside
            )
            if compares_with_exact(
                config.train.exact or "auto", found.job.hamiltonian, config.model.n_up
            ):
                found.compare(ground_state)
            result = summarise(
                status="finished",
                n_sites=job.lattice.n_sites,
                n_parameters=sum(p.numel() for p in psi.parameters()),
                steps=step,
                wall_seconds=0.0,
                seed=seed,
                evaluation=found.evaluation,
                exact_energy=found.exact_energy,
                doubts=found.doubts(),
            )
            for own_to_runs in ("wall_seconds", "steps"):
                del result[own_to_runs]
            collecting.put(point, result, found.evaluation)
            for name in given:
                with warnings.catch_warnings():  # what is outside is doubtful already
                    warnings.simplefilter("ignore")
                    chi = family.susceptibility(name, max(4, n_samples), seed, **given)
                collecting.add(
                    point,
                    f"{SUSCEPTIBILITY}_{name}",
                    history.array(chi.value),
                    history.array(chi.error),
                    Column("", "1 / couplings^2", f"susceptibility of the fidelity along {name}"),
                )
    words = [f"--grid {axis.key}={','.join(map(str, axis.values))}" for axis in axes]
    return collecting.collected(f"nqs collect {path} {' '.join(words)}", {})


def _scan(path: Path, config: Config, axes: Sequence[Axis]) -> Scan:
    """The grid as a scan in the family's folder."""
    lone = config.replace(family=type(config.family)()).to_dict()
    configs = {}
    for index in itertools.product(*(range(len(axis.values)) for axis in axes)):
        chosen = {
            axis.key.removeprefix(SECTION): axis.values[i]
            for axis, i in zip(axes, index, strict=True)
        }
        configs[index] = {**lone, "hamiltonian": {**lone["hamiltonian"], **chosen}}
    return make(path, (), ScanConfig(), axes, configs)
