"""Where the parameters of a new run come from: the best product state, or another run.

`train.start_from=RUN` reads the newest checkpoint of that run once, before anything else is done,
and puts a copy of the parameters into the new run's folder (inputs/start.pt): a run that is resumed
never looks at the other one again. Only parameters are carried over. The optimizer starts afresh:
its momentum is a direction of descent of the other run's energy, and its schedules count this run's
steps.

The other run may be on a smaller or larger lattice of the same kind: see
`nqs.wavefunctions.transfer`. model.patch=auto takes its patches, where they can be had.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from nqs.conf.kinds import Selection
from nqs.errors import InputError, shown
from nqs.ground_states.build import (
    Job,
    build_hamiltonian,
    build_lattice,
    build_wavefunction,
    start_from_product_state,
    symmetrised,
)
from nqs.ground_states.config import Config
from nqs.ground_states.members import couplings_here, trained_family
from nqs.ground_states.patch_choice import like_source
from nqs.ground_states.run_folder import START, read_config
from nqs.ground_states.saved_state import newest_checkpoint
from nqs.runfolder import checkpoint, digests
from nqs.runfolder.console import tell
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.symmetrised import Symmetrised
from nqs.wavefunctions.transfer import transfer
from nqs.wavefunctions.wavefunction import Wavefunction

FORMAT: Final = "nqs start 2"
UNSEALED: Final = "nqs start 1"
"""The same without a seal, as older runs have it."""
MAY_DIFFER: Final = ("symmetry", "spin_flip", "patch", "sub_patch", "n_up")
"""Keys of the model that may differ: the network that is averaged is the same; patches are compared
site by site, and the number of 1 bits goes with that of the sites."""


def starting_file(job: Job, source: Path | None = None) -> bytes | None:
    """inputs/start.pt of a new run that starts from the run in the folder `source`, by default that
    of train.start_from; None without one. The parameters are put into the job's wavefunction, too.

    Raises InputError, one line, if the other run has no checkpoint or its parameters have no place
    in this run's model.
    """
    named = job.config.train.start_from
    if source is None and named is None:
        return None
    with naming_source(str(source or named)):
        path = Path(source or str(named))
        config = read_config(path)
        check_same_model(config, job.config)
        if config.family.ranges:
            state, step = member_state(path, config, job.config.hamiltonian)
        else:
            state, step = read_wavefunction(path, config)
        theirs = network(state)
        ours = network(job.wavefunction)
        if ours.n_up is not None:
            start_from_product_state(job)  # sets the weights of what is left to fill the sector
        lattice = build_lattice(config.lattice)
        transfer(theirs, ours, lattice, job.lattice)
    return sealed_start(step, ours.state_dict(), len(state.symmetry))


def sealed_start(step: int, model: Mapping[str, Tensor], images: int = 1) -> bytes:
    """The content of an inputs/start.pt: parameters of a network, after `step` steps elsewhere, of
    which the state there averaged so many images."""
    buffer = io.BytesIO()
    content = {"format": FORMAT, "step": step, "model": dict(model), "images": images}
    torch.save(content, buffer)
    return digests.sealed(buffer.getvalue())


def with_source_patches(config: Config) -> Config:
    """The configuration of a new run with model.patch=auto (and model.sub_patch=auto) replaced by
    the patches of the run it starts from, if there is one."""
    source = config.train.start_from
    if source is None:
        return config
    with naming_source(source):
        theirs = read_config(Path(source))
        model = like_source(config.model, theirs.model, build_lattice(theirs.lattice))
    return config if model is config.model else config.replace(model=model)


def load_wavefunction(path: Path) -> Wavefunction:
    """The state of the run in `path` as it was trained, its symmetries included, at its newest
    checkpoint, on the CPU. Raises InputError for a folder without one."""
    return read_wavefunction(path, read_config(path))[0]


def read_wavefunction(path: Path, config: Config) -> tuple[Autoregressive | Symmetrised, int]:
    """The same and its step, for a run with the configuration `config`."""
    lattice = build_lattice(config.lattice)
    hamiltonian = build_hamiltonian(config.hamiltonian, lattice)
    wavefunction = symmetrised(config, lattice, hamiltonian, build_wavefunction(config, lattice))
    saved = newest_checkpoint(path, config, torch.device("cpu"))
    if saved is None:
        raise InputError("holds no checkpoint yet; resume that run first")
    checkpoint.restore(wavefunction, saved)
    return wavefunction, saved["step"]


def member_state(
    path: Path, config: Config, hamiltonian: Selection
) -> tuple[Autoregressive | Symmetrised, int]:
    """The state of the family in `path` at the couplings of a Hamiltonian, and its step; a warning
    is printed where these are outside of its ranges. Raises InputError."""
    psi, members, _, step = trained_family(path, config, "cpu")
    c, outside = members.vector(couplings_here(members, hamiltonian))
    for line in outside:
        tell(f"warning: train.start_from: {line}", sys.stderr)
    if psi.images is not None:
        tell(
            f"note: train.start_from: {path} answers with an average over {len(psi.images[0])} "
            "images of its couplings, and this run starts from one of them, with a higher energy",
            sys.stderr,
        )
    return psi.at(c), step


def network(wavefunction: Wavefunction) -> Autoregressive:
    """What a symmetrised wavefunction averages, any other itself."""
    base = wavefunction.base if isinstance(wavefunction, Symmetrised) else wavefunction
    assert isinstance(base, Autoregressive)
    return base


def check_same_model(there: Config, here: Config) -> None:
    """Raises InputError naming the first key in which the models differ."""
    ours, theirs = here.to_dict()["model"], there.to_dict()["model"]
    for key in sorted(set(ours) | set(theirs), key=lambda key: (key != "name", key)):
        if key not in MAY_DIFFER and ours.get(key) != theirs.get(key):
            named = "model" if key == "name" else f"model.{key}"
            raise InputError(
                f"{named}={shown(theirs.get(key))} there and {shown(ours.get(key))} in this run; "
                "the two must be the same"
            )


@contextlib.contextmanager
def naming_source(source: str) -> Iterator[None]:
    """Every refusal names the key it comes from."""
    try:
        yield
    except ValueError as error:
        line = str(error).removeprefix(f"{source}: ")
        raise InputError(f"train.start_from={source}: {line}") from None


def put_at_start(job: Job, path: Path | None, say: Callable[[str], None]) -> None:
    """Puts the wavefunction where the run in folder `path` starts."""
    train = job.config.train
    if not train.starts_warm:
        start_from_product_state(job)
        return
    assert path is not None
    content = read_start(path / START)
    put_in_place(job, content["model"], path / START)
    source = train.start_from or f"stage {train.grow[-1]}"  # type: ignore[index]
    say(f"starts from step {content['step']} of {source}")
    images, own = content.get("images", 1), len(job.wavefunction.symmetry)
    if images > own:
        say(
            f"warning: that state is an average over {images} symmetries, this one over {own}, and "
            "its network alone is a worse state; train it with model.symmetry=none for this start"
        )


def put_in_place(job: Job, model: Mapping[str, Tensor], file: Path | None = None) -> None:
    """Gives the job's network these parameters, from `file`. Raises InputError where they do not
    fit."""
    try:
        network(job.wavefunction).load_state_dict(model)
    except RuntimeError:
        raise InputError(
            f"{file}: does not fit this version's model; use the version in environment.json"
        ) from None


def read_start(path: Path) -> dict[str, Any]:
    """The content of an inputs/start.pt. Raises InputError if it is missing, not as it was written
    or no start of a run."""
    if not path.exists():
        raise InputError(f"{path}: missing; restore it from a copy, or start a new run")
    try:
        content, has_seal = checkpoint.load(path, torch.device("cpu"))
        if content.get("format") not in (FORMAT, UNSEALED) or not {"step", "model"} <= set(content):
            raise digests.Damaged("it is no start of a run")
        if content["format"] == FORMAT and not has_seal:
            raise digests.Damaged("its seal is gone")
        if not checkpoint.is_sound(content["model"]):
            raise digests.Damaged("it holds numbers that are not finite")
    except digests.Damaged as error:
        raise InputError(f"{path}: cannot be read ({error}); start a new run instead") from None
    return content
