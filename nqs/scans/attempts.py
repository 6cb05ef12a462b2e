"""Two attempts at a point: a doubtful one is run again once, and the better of the two is kept.

    <point>/            the attempt that is kept
    <point>~again/      the second one: while it runs, and where the first is the better one
    <point>~first/      the first one, where the second is the better one

A good attempt is better than a doubtful one, and the lower energy is better among equals. What is
to be done follows from the folders alone, so that a scan that is killed goes on alike. A
replacement is two renames; after a kill between them <point>/ is missing, and `mend` puts the
second attempt there, from where the comparison is made anew.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

from nqs.errors import InputError
from nqs.ground_states import summary
from nqs.ground_states.run_folder import read_config
from nqs.runfolder.atomic import sync_folder
from nqs.scans.folder import AGAIN, FIRST, Point, Scan


def second(scan: Scan, point: Point, source: Path | None) -> Point:
    """The second attempt as a point of its own: from the run in the folder `source` or, without
    one, from the product state, with all of train.steps."""
    start = None if source is None else str(source)
    train = {**point.config["train"], "start_from": start}
    if source is not None:
        train |= {"grow": False, "stage_steps": "auto"}
    config = {**point.config, "train": train}
    return dataclasses.replace(point, name=point.name + AGAIN, config=config)


def beginning(point: Point) -> str:
    """What a run of the point starts from that starts from no other."""
    return "smaller arrays" if point.config["train"]["grow"] else "its product state"


def is_second(point: Point) -> bool:
    """Whether this is a second attempt."""
    return point.name.endswith(AGAIN)


def attempts(scan: Scan, point: Point) -> list[Path]:
    """The folders of the finished attempts at a point, first the one that is kept."""
    folders = [scan.path / f"{point.name}{end}" for end in ("", FIRST, AGAIN)]
    return [folder for folder in folders if summary.is_finished(folder)]


def is_doubtful(scan: Scan, point: Point) -> bool:
    """Whether the attempt that is kept ended with a doubt."""
    return _verdict(scan.folder(point)) == summary.DOUBTFUL


def needs_second(scan: Scan, point: Point) -> bool:
    """Whether the point is doubtful and has not been run again."""
    if not scan.keys.repeats or is_second(point) or not is_doubtful(scan, point):
        return False
    return len(attempts(scan, point)) == 1


def started_warm(scan: Scan, point: Point) -> bool:
    """Whether the run of the point began with the parameters of another one."""
    try:
        return read_config(scan.folder(point)).train.start_from is not None
    except InputError:
        return False


def keep_better(scan: Scan, point: Point) -> bool:
    """Puts the better of two finished attempts at <point>/; returns whether that changed it."""
    folders = attempts(scan, point)
    if len(folders) < 2 or folders[0] != scan.folder(point):
        return False
    current, other = folders[:2]
    if _rank(current) <= _rank(other):
        return False
    aside = scan.path / f"{point.name}{FIRST if other.name.endswith(AGAIN) else AGAIN}"
    os.rename(current, aside)
    os.rename(other, current)
    sync_folder(scan.path)
    return True


def mend(scan: Scan) -> None:
    """Ends replacements that a kill left half done."""
    for point in scan.points:
        folder = scan.folder(point)
        first, again = (scan.path / f"{point.name}{end}" for end in (FIRST, AGAIN))
        if not folder.exists() and first.exists():
            os.rename(again if again.exists() else first, folder)


def _rank(folder: Path) -> tuple[bool, float]:
    energy = summary.read(folder / "summary.json")["energy"]
    return _verdict(folder) == summary.DOUBTFUL, math.inf if energy is None else float(energy)


def _verdict(folder: Path) -> str | None:
    try:
        return summary.verdict(summary.read(folder / "summary.json"))
    except InputError:
        return None
