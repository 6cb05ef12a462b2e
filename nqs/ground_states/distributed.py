"""One run on several processes, as torchrun starts them: joining, cores, cards, leaving.

    torchrun --nproc-per-node=2 train.py ...        gloo on the CPU, nccl between GPUs

A process that dies closes its connections, so the others fail in their next exchange (RankLost) and
end with a message; one that hangs ends them after train.rank_timeout. torchrun ends the rest with
SIGTERM. Rank 0 alone writes, but all read the input files, and a resumed run's configuration: that
they read the same, and are the same program, is compared when they join.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

import torch
import torch.distributed as dist

from nqs.conf.sections import flatten
from nqs.errors import InputError, shown
from nqs.ground_states.config import Config
from nqs.ground_states.own_code import own_code
from nqs.runfolder import digests
from nqs.vmc.ranks import ALONE, ProcessGroup, Ranks

JOIN_SECONDS: Final = 600.0
"""Processes may start so much later than the first; importing torch from a slow disk takes a while.
"""
PACKAGES: Final = ("torch", "numpy")
"""Whose versions must be the same: they compute."""
T = TypeVar("T")


@contextlib.contextmanager
def joined(timeout: float) -> Iterator[Ranks]:
    """All processes of this run: those torchrun started, or this one alone. Who is silent for
    `timeout` seconds counts as lost.

    Raises InputError if the others cannot be reached.
    """
    if number("WORLD_SIZE", 1) == 1:
        yield ALONE
        return
    if os.environ.get("MASTER_PORT") == "0":  # torch would try to reach it for ever
        raise InputError("MASTER_PORT=0: no port to meet at; use torchrun --standalone")
    share_cores()
    try:
        start(timeout)
    except (RuntimeError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"WORLD_SIZE={number('WORLD_SIZE', 1)}: cannot join ({line})") from None
    try:
        yield ProcessGroup()
    finally:
        dist.destroy_process_group()


def start(timeout: float) -> None:
    """Joins torch's default group, once all processes are there."""
    patience = timedelta(seconds=max(timeout, JOIN_SECONDS))
    store, rank, size = next(dist.rendezvous("env://", timeout=patience))
    store.set(f"nqs process {rank}", "here")
    store.wait([f"nqs process {other}" for other in range(size)], patience)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout),
    )


def together(ranks: Ranks, action: Callable[[], T]) -> T:
    """What `action` returns here. Raises InputError on all ranks if it does so on one."""
    result, refusal = None, None
    try:
        result = action()
    except InputError as error:
        refusal = str(error)
    refusals = ranks.collected(refusal)
    for rank, line in enumerate(refusals):
        if line is not None:
            named = line if set(refusals) == {line} else f"process {rank} of {ranks.size}: {line}"
            raise InputError(named)
    return result  # type: ignore[return-value]


def check_alike(ranks: Ranks, here: dict[str, str]) -> None:
    """Raises InputError on all ranks, naming what differs and where, unless all have the same."""
    everywhere = ranks.collected(here)
    for rank, there in enumerate(everywhere):
        for name in [*everywhere[0], *there]:
            first, other = everywhere[0].get(name), there.get(name)
            if first != other:
                raise InputError(
                    f"{name}={shown(other)} on process {rank} and {shown(first)} on process 0; "
                    "start all with the same command, files and versions"
                )


def passport(config: Config) -> dict[str, str]:
    """What must be the same on all processes: the program, the configuration, the input files by
    their content, whatever they are called."""
    entries = {package: importlib.metadata.version(package) for package in PACKAGES}
    entries["code of nqs"] = code_digest()
    for key, value in flatten(config.to_dict()).items():
        if key.endswith(".file") and value is not None:
            try:
                entries[f"content of {key}"] = digests.file_digest(Path(value))
            except InputError as error:
                raise InputError(f"{key}={shown(value)}: {error}") from None
        else:
            entries[key] = repr(value)
    return entries | {f"code of {name}": digest for name, digest in own_code(config).items()}


def code_digest() -> str:
    """sha256 of all modules of hamiltonians and nqs, names included."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in ("hamiltonians", "nqs"):
        for file in sorted((root / package).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def number(name: str, default: int) -> int:
    """A variable that torchrun sets: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE. Raises
    InputError if it is set to anything else."""
    text, least = os.environ.get(name, f"{default}"), 1 if name.endswith("SIZE") else 0
    if not text.isdecimal() or not least <= int(text) < 2**20:
        raise InputError(f"{name}={shown(text)}: must be a whole number >= {least}, see torchrun")
    return int(text)


def share_cores() -> None:
    """An equal share of this machine's cores each, unless OMP_NUM_THREADS says otherwise.

    torchrun itself sets it to 1: give it as OMP_NUM_THREADS=4 torchrun ...
    """
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // number("LOCAL_WORLD_SIZE", 1)))


def own_card(key: str) -> torch.device:
    """The GPU of this process. Raises InputError, naming `key`, if there are too few."""
    n_processes, n_cards = number("LOCAL_WORLD_SIZE", 1), torch.cuda.device_count()
    if n_processes > n_cards:
        raise InputError(
            f"{key}: {n_processes} processes on a machine with {n_cards} GPU"
            f"{'s' if n_cards > 1 else ''}; start one process a GPU "
            f"(torchrun --nproc-per-node={n_cards}) or use device=cpu"
        )
    device = torch.device("cuda", number("LOCAL_RANK", 0))
    torch.cuda.set_device(device)  # what nccl uses
    return device


def started_by(command: Sequence[str]) -> list[str]:
    """command, `python train.py ...` or `nqs train ...`, as it must be given for as many processes
    as there are."""
    if number("WORLD_SIZE", 1) == 1:
        return list(command)
    local = number("LOCAL_WORLD_SIZE", 1)
    nodes = number("WORLD_SIZE", 1) // local
    several = [f"--nnodes={nodes}"] if nodes > 1 else []
    words = ["-m", *command] if command[0] == "nqs" else command[1:]
    return ["torchrun", *several, f"--nproc-per-node={local}", *words]
