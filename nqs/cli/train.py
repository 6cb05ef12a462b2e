"""`nqs train` and `nqs scan`: read the words, build, run, report; see nqs.cli.help."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nqs.cli import older_words
from nqs.cli.composition import compose
from nqs.cli.grammar import HELP, MULTIRUN, check_once
from nqs.cli.help import help_text
from nqs.cli.scan import load_scan
from nqs.conf.kinds import naming
from nqs.errors import InputError, one_line, printable
from nqs.families import run as families
from nqs.ground_states.config import Config
from nqs.ground_states.run import run, run_loaded, run_on
from nqs.ground_states.run_folder import resumed_config
from nqs.runfolder.folder import holds_nothing
from nqs.runfolder.invocation import program
from nqs.runfolder.terminal import leads
from nqs.scans import run as scans
from nqs.vmc.ranks import Ranks


def job(arguments: Sequence[str]) -> int:
    """What the command line asks for: help, a scan or a run; returns the exit code."""
    if HELP & set(arguments):
        print(help_text([word for word in arguments if word not in HELP | MULTIRUN]))
        return 0
    if not older_words.is_legacy(arguments):
        check_once([word for word in arguments if word not in MULTIRUN])
    if MULTIRUN & set(arguments):
        return run_scan([word for word in arguments if word not in MULTIRUN])
    command = [*program(), *arguments]
    if os.environ.get("WORLD_SIZE", "1") != "1":  # what one of them refuses, all do
        return run_loaded(lambda: load_config(arguments), command, work)
    return run(load_config(arguments), command, work)


def work(ranks: Ranks, config: Config, command: Sequence[str]) -> int:
    """A ground-state run, or that of a family."""
    return (families.run_on if config.family.ranges else run_on)(ranks, config, command)


def load_config(arguments: Sequence[str]) -> Config:
    """The checked configuration of a command line in today's or in the older form."""
    if older_words.is_legacy(arguments):
        translation = older_words.translate(arguments)
        arguments = translation.overrides
        if translation.notes and leads():
            notes = ", ".join(translation.notes)
            print(one_line(f"without meaning here: {notes}"), file=sys.stderr)
        if leads():
            print(printable(f"today's form: {shlex.join([*program(), *arguments])}"))
    mapping, named = compose(older_words.renamed(arguments))
    if mapping["run"].get("resume") is True and mapping["run"].get("dir") is not None:
        path = Path(str(mapping["run"]["dir"]))
        begins = holds_nothing(path) and any(not key.startswith("run.") for key in named)
        if not begins:
            return resumed_config(path, named)
        mapping["run"]["resume"] = False  # one command line for a job that is requeued
    return Config.from_dict(mapping)


def run_scan(words: Sequence[str]) -> int:
    """A new scan or, with scan.resume=true, what is missing of one; returns the exit code."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        rule = "a scan under torchrun; start it without, with launcher=joblib or submitit"
        raise InputError(f"-m: {rule}")
    scan, chosen, resume = load_scan(words)
    launcher = chosen.build()
    with naming("launcher", chosen.own):
        launcher.check()
    return (scans.resume if resume else scans.start)(scan, launcher)
