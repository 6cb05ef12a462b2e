"""nqs crystal train | generate | evaluate | plot."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Annotated, Any

import typer

from nqs.conf.kinds import MISSING
from nqs.conf.sections import documentation, from_mapping
from nqs.conf.words import check_known, merged, parsed
from nqs.crystal.commands.config import Config, known_keys, read_yaml
from nqs.crystal.commands.task_config import EvaluateConfig, GenerateConfig, PlotConfig
from nqs.crystal.model.cores import CORES
from nqs.errors import shown

app = typer.Typer(add_completion=False, no_args_is_help=False, rich_markup_mode=None)
Keys = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="See the list above.")]


@app.callback()
def about() -> None:
    """Learn, draw, judge and picture inorganic crystals, written as sequences of tokens."""


def key_lines(section: Any, prefix: str = "") -> list[str]:
    """One line a key with its default and documentation."""
    lines = []
    hints = typing.get_type_hints(section)
    if section is Config:
        hints["model"] = CORES
    for field in dataclasses.fields(section):
        key = f"{prefix}{field.name}"
        if hints[field.name] is CORES:
            lines += core_lines()
        elif dataclasses.is_dataclass(hints[field.name]):
            lines += key_lines(hints[field.name], f"{key}.")
        else:
            default = "" if field.default is dataclasses.MISSING else f"={shown(field.default)}"
            lines.append(f"{key}{default}: {documentation(section)[field.name]}")
    return lines


def core_lines() -> list[str]:
    """One line for the choice of a core, and one for each key, with the cores that have it."""
    words = ", ".join(CORES.kinds)
    lines = [f"model.core=transformer: {CORES.text}: {words}, or MODULE:CLASS of your own."]
    owners: dict[str, list[str]] = {}
    for core in CORES.kinds:
        for name, key in CORES.keys(core).items():
            default = "" if key.default is MISSING else f"={shown(key.default)}"
            owners.setdefault(f"model.{name}{default}: {key.line}", []).append(core)
    for line, cores in owners.items():
        lines.append(line if len(cores) == len(CORES.kinds) else f"{line} ({', '.join(cores)})")
    return lines


def names(section: type) -> list[str]:
    """The keys of a flat section."""
    return [field.name for field in dataclasses.fields(section)]


def help_text(summary: str, section: type) -> str:
    """A command's help: what it does, then every key."""
    return "\n\n".join([summary, *key_lines(section)])


TRAIN = help_text(
    "Train a crystal language model: nqs crystal train data.train=crystals.csv; go on with "
    "run.dir=PATH run.resume=true.",
    Config,
)
GENERATE = help_text(
    "Draw crystals from a run: nqs crystal generate RUN n=1000; each is a CIF file and a line of "
    "samples.csv, with a verdict on it.",
    GenerateConfig,
)
EVALUATE = help_text(
    "Judge a folder of samples (validity, novelty, match rates beside baselines) or the model of a "
    "run (perplexity, translations).",
    EvaluateConfig,
)
PLOT = help_text(
    "Pictures of a folder of samples (distributions beside the data, structures, matches) or of "
    "the data of a run.",
    PlotConfig,
)


@app.command("train", help=TRAIN)
def train_command(
    keys: Keys = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of keys; KEY=VALUE goes before it.")
    ] = None,
) -> int:
    from nqs.crystal.commands.run_folder import resumed_config, with_start
    from nqs.crystal.commands.training_run import run
    from nqs.runfolder.folder import holds_nothing

    given = parsed(keys or [])
    words = ["nqs", "crystal", "train", *(keys or [])]
    if config is not None:
        words += ["--config", str(config)]
    if given.get("run.resume") is True and isinstance(given.get("run.dir"), str):
        begins = config is not None or any(not key.startswith("run.") for key in given)
        if not (begins and holds_nothing(Path(given["run.dir"]))):
            return run(resumed_config(Path(given["run.dir"]), given), words)
        given["run.resume"] = False  # one command line starts a run or goes on with it
    mapping = merged({} if config is None else read_yaml(config), given)
    model = mapping.get("model")
    check_known(given, known_keys(model.get("core") if isinstance(model, dict) else None))
    return run(Config.from_dict(with_start(mapping)), words)


@app.command("generate", help=GENERATE)
def generate_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    keys: Keys = None,
) -> int:
    from nqs.crystal.commands.generation_run import run as generate

    given = parsed(keys or [])
    check_known(given, names(GenerateConfig))
    return generate(run, from_mapping(GenerateConfig, given))


@app.command("evaluate", help=EVALUATE)
def evaluate_command(
    folder: Annotated[Path, typer.Argument(metavar="RUN|SAMPLES", help="Folder of either.")],
    keys: Keys = None,
) -> int:
    from nqs.crystal.commands.evaluation_run import run as evaluate

    given = parsed(keys or [])
    check_known(given, names(EvaluateConfig))
    return evaluate(folder, from_mapping(EvaluateConfig, given))


@app.command("plot", help=PLOT)
def plot_command(
    folder: Annotated[Path, typer.Argument(metavar="RUN|SAMPLES", help="Folder of either.")],
    keys: Keys = None,
) -> int:
    from nqs.crystal.commands.plot_run import run as plot

    given = parsed(keys or [])
    check_known(given, names(PlotConfig))
    return plot(folder, from_mapping(PlotConfig, given))
