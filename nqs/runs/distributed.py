"""One run on several processes, as torchrun starts them: joining, cores, cards, leaving.

    torchrun --nproc-per-node=2 train.py ...        gloo on the CPU, nccl between GPUs

A process that dies closes its connections, so the others fail in their next exchange (RankLost) and
end with a message; one that hangs ends them after TIMEOUT. torchrun ends the rest with SIGTERM.
Rank 0 alone writes, but all read the input files, and a resumed run's configuration.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from typing import Final

import torch
import torch.distributed as dist

from nqs.runs.schema import InputError
from nqs.vmc.ranks import ALONE, ProcessGroup, Ranks

TIMEOUT: Final = datetime.timedelta(minutes=30)
"""A process that is silent for so long counts as lost; a rank waits less for a slower one."""


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """All processes of this run: those torchrun started, or this one alone.

    Raises InputError if the others cannot be reached.
    """
    if number("WORLD_SIZE", 1) == 1:
        yield ALONE
        return
    share_cores()
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT
        )
    except (RuntimeError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"WORLD_SIZE={number('WORLD_SIZE', 1)}: cannot join ({line})") from None
    try:
        yield ProcessGroup()
    finally:
        dist.destroy_process_group()


def number(name: str, default: int) -> int:
    """A variable that torchrun sets: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE."""
    return int(os.environ.get(name, default))


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
    """command, python train.py ..., as it must be given for as many processes as there are."""
    if number("WORLD_SIZE", 1) == 1:
        return list(command)
    local = number("LOCAL_WORLD_SIZE", 1)
    nodes = number("WORLD_SIZE", 1) // local
    several = [f"--nnodes={nodes}"] if nodes > 1 else []
    return ["torchrun", *several, f"--nproc-per-node={local}", *command[1:]]
