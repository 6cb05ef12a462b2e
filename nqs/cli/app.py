"""nqs train | scan: runs and grids of runs; evaluate | reweight | plot | show | collect: what one
does with them; crystal: the crystal language model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nqs.cli.loading import find_modules_here, loading
from nqs.errors import InputError, printable, require
from nqs.runfolder.terminal import run_command

if TYPE_CHECKING:
    from nqs.scans.collect import Collected

# click's UsageError; newer versions of typer carry click inside themselves
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
app = typer.Typer(add_completion=False, no_args_is_help=False, rich_markup_mode=None)
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
AS_TYPED: dict[str, Any] = {
    "context_settings": {
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
    "options_metavar": "KEY=VALUE ...",
}
"""Of commands that read their words themselves."""


@app.callback()
def about() -> None:
    """Neural quantum states: train them, scan couplings, look at runs; or work with crystals."""


@app.command("train", **AS_TYPED)
def train_run(context: typer.Context) -> int:
    """Find a ground state, model=ptf lattice.Lx=6 ...; nqs train --help lists every key."""
    with loading():
        from nqs.cli import train
    return train.job(context.args)


@app.command("scan", **AS_TYPED)
def scan_runs(context: typer.Context) -> int:
    """A run for each of several values, hamiltonian.delta=0,1,2 ...; the same as train -m."""
    with loading():
        from nqs.cli import train
    return train.job(["-m", *context.args])


@app.command("crystal", **(AS_TYPED | {"options_metavar": "COMMAND ..."}))
def crystal(context: typer.Context) -> int:
    """Learn, draw and judge inorganic crystals: nqs crystal train | generate | evaluate | plot."""
    try:
        with loading():
            from nqs.crystal.commands.app import app as commands
    except ModuleNotFoundError as error:
        raise InputError(
            f"crystal: needs the package {error.name}; pip install 'nqs[crystal]'"
        ) from None
    return run_words(commands, context.args, "nqs crystal")


@app.command("evaluate")
def evaluate_run(
    run: RunFolder,
    couplings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]", help="Of a family: hamiltonian.delta=1.37 ..."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Fresh configurations, 2 .. 1e9.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of the samples, >= 0.")] = 1,
    subsystem: Annotated[
        list[str] | None,
        typer.Option(help="Sites whose Renyi entropy to measure, 0,1,2; repeatable [half]."),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(help="Of a family: energies at so many draws of its couplings.")
    ] = None,
) -> None:
    """Measure the newest checkpoint again and add the result, with all observables, to run.h5.

    A family (train family.hamiltonian.KEY=interval(LOW,HIGH)) is measured at the couplings that are
    given, inside of its ranges and between all grids, or at draws of them, such as disorder.
    """
    from nqs.ground_states.later_evaluation import evaluate_later
    from nqs.ground_states.run_folder import read_config

    _check_samples("--samples", samples, 10**9)
    config = read_config(run)
    if not config.family.ranges:
        rule = "is for families; this run has one coupling"
        require(not couplings, "KEY=VALUE", " ".join(couplings or ()), rule)
        require(draws is None, "--draws", draws, rule)
        evaluate_later(run, samples, seed, subsystem or ())
        return
    from nqs.cli.grammar import values_of
    from nqs.families import later

    if draws is None:
        given = values_of(couplings or ())
        later.evaluate_at(run, config, given, samples, seed, subsystem or ())
        return
    rule = "not beside --draws"
    require(not couplings, "KEY=VALUE", " ".join(couplings or ()), rule)
    require(not subsystem, "--subsystem", ",".join(subsystem or ()), rule)
    later.evaluate_draws(run, config, draws, samples, seed)


@app.command("reweight")
def reweight_run(
    run: RunFolder,
    couplings: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUES", help="E.g. hamiltonian.delta=1.05,1.1")
    ],
    samples: Annotated[int, typer.Option(help="Configurations, 2 .. 1e7.")] = 20_000,
    lanczos_samples: Annotated[
        int,
        typer.Option(help="Configurations of the improved energy, 2 .. 1e7; the costly part."),
    ] = 1_000,
    seed: Annotated[int, typer.Option(help="Seed of the samples, >= 0.")] = 1,
) -> None:
    """Estimate neighbouring couplings from the newest checkpoint; added to reweighting.json.

    Upper bounds of the energy: of the trained state, and of the best state after one Lanczos step,
    whose observables are means with importance weights. Few effective samples: too far away.
    """
    from nqs.ground_states.reweight import reweight

    _check_samples("--samples", samples, 10**7)
    _check_samples("--lanczos-samples", lanczos_samples, 10**7)
    reweight(run, couplings, samples, lanczos_samples, seed)


@app.command("plot")
def plot_run(run: RunFolder) -> None:
    """Draw convergence.png again, and observables.png, from run.h5."""
    from nqs.ground_states import summary
    from nqs.ground_states.build import build_lattice
    from nqs.ground_states.ground_state_run import draw
    from nqs.ground_states.observables_plot import save_observables
    from nqs.ground_states.own_classes import own_observables
    from nqs.ground_states.run_file import read
    from nqs.ground_states.run_folder import read_config

    result = summary.read(run / "summary.json")
    content = read(run / "run.h5")
    if not content.columns.get("energy"):
        raise InputError(f"{run}: has done no step of its own yet; resume the run first")
    draw(run, content, result)
    print(run / "convergence.png")
    config = read_config(run)
    if content.evaluations and not config.family.ranges:
        lattice, also = build_lattice(config.lattice), own_observables(config.train.observables)
        save_observables(run / "observables.png", content.evaluations[-1], lattice, run.name, also)
        print(run / "observables.png")


@app.command("show")
def show_run(run: RunFolder) -> None:
    """The summary of a run as a table."""
    from nqs.families import summary as families
    from nqs.ground_states import summary

    require(not (run / "scan.json").exists(), "RUN", run, "is a scan; see nqs collect")
    table = Table(title=Text(printable(str(run))), show_header=False)
    content = summary.read(run / "summary.json")
    entries = families.entries if families.is_family(content) else summary.entries
    for name, text in entries(content):
        table.add_row(Text(name), Text(text))  # plain: brackets in a name are no markup
    Console().print(table)


@app.command("collect")
def collect_scan(
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="Folder of a scan.")],
    observable: Annotated[
        list[str] | None, typer.Option(help="Draw this one; may be given several times.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="Of a family: KEY=VALUES of an axis; may be given several times."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Of a family: draws a point, 4 .. 1e9.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of a family: seed of the samples, >= 0.")] = 1,
) -> None:
    """All points of a scan as one dataset, collected.nc, and phase_diagram.png.

    Of a family the same at any resolution, --grid "hamiltonian.delta=range(0,3,0.05)", with the
    susceptibility of the fidelity.
    """
    try:
        import h5netcdf  # noqa: F401

        from nqs.scans import collect, plot
    except ModuleNotFoundError as error:
        raise InputError(
            f"collect: needs the package {error.name}; pip install 'nqs[scan]'"
        ) from None
    if (scan / "scan.json").exists() or not (scan / "config.yaml").exists():
        require(not grid, "--grid", " ".join(grid or ()), "is for the folder of a family")
        collected = collect.collect(scan)
    else:
        collected = _family_on(scan, grid or [], samples, seed)
    for line in collect.lines(collected):
        print(printable(line))
    print(printable(str(collect.write(collected))))
    print(printable(str(plot.save(collected, observable or []))))


def _family_on(folder: Path, words: list[str], samples: int, seed: int) -> Collected:
    """A family on the grid of some words."""
    from nqs.cli.scan import axes_of
    from nqs.families.grid import collect_family
    from nqs.ground_states.run_folder import read_config

    require(4 <= samples <= 10**9, "--samples", samples, "must be a whole number >= 4 and <= 1e9")
    require(0 <= seed < 2**63, "--seed", seed, "must be >= 0 and < 2^63")
    config = read_config(folder)
    require(bool(config.family.ranges), "SCAN", folder, "is a single run; see nqs show")
    return collect_family(folder, config, axes_of(words), samples, seed)


def _check_samples(option: str, given: int, most: int) -> None:
    require(2 <= given <= most, option, given, f"must be a whole number >= 2 and <= {most}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script `nqs`; returns the exit code, 2 for bad input (one line)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: job(given))


def job(arguments: list[str]) -> int:
    """Runs the command of a command line."""
    find_modules_here()
    return run_words(app, arguments, "nqs")


def run_words(commands: typer.Typer, words: list[str], program: str) -> int:
    """Runs the one of `commands` that the words choose; returns the exit code. Raises InputError
    for words that choose none."""
    command = typer.main.get_command(commands)
    try:
        code = command.main(args=words, prog_name=program, standalone_mode=False)
    except UsageError as error:
        raise InputError(error.format_message()) from None  # type: ignore[attr-defined]
    except typer.Abort:  # typer's word for Ctrl-C
        raise KeyboardInterrupt from None
    return code if isinstance(code, int) else 0
