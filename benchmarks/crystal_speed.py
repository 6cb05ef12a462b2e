"""Crystals a second: ours beside CrystaLLM's generation loop, in one run on one machine.

    python -m benchmarks.crystal_speed --crystallm PATH [--width 512 --layers 8 --heads 8]

PATH is a checkout of CrystaLLM (Antunes et al., Nature Communications 15, 10570 (2024)), whose GPT
class is imported from it. Same width, depth, heads, feed-forward width (4 D) and vocabulary;
untrained weights, whose values do not matter for the time. Both draw sequences of --tokens tokens
(a CIF of that format has about 400; its loop makes one at a time and reads all tokens again for
each new one), forced to the full length, so that neither gains by ending early. A third row is what
a user gets: as many crystals as --batch from the coordinate tokeniser, of --atoms atoms each,
grammar included.

Writes crystal_speed.csv into --out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tables import aligned, write_csv
from nqs.conf.kinds import Selection
from nqs.core.decoding import draw_tokens
from nqs.core.sequence import SequenceModel
from nqs.crystal.model.cores import build_core, core_choice
from nqs.crystal.model.generation import Filters, Request, generate
from nqs.crystal.tokens import make_tokeniser
from nqs.crystal.tokens.tokeniser import Conditions

COLUMNS = ("program", "tokens", "crystals", "seconds", "crystals_per_second", "times_faster")


def import_crystallm(path: str) -> None:
    """Puts its tokeniser and model into sys.modules without its package's other needs (its
    __init__ imports a message queue and featurisers). Raises ValueError if path is no checkout."""
    folder = Path(path) / "crystallm"
    if not (folder / "_model.py").is_file():
        raise ValueError(f"--crystallm={path}: no crystallm/_model.py; give a CrystaLLM checkout")
    package: Any = types.ModuleType("crystallm")
    package.__path__ = [str(folder)]
    sys.modules["crystallm"] = package
    package.CIFTokenizer = importlib.import_module("crystallm._tokenizer").CIFTokenizer
    importlib.import_module("crystallm._model")


def crystallm_model(path: str, n_tokens: int, args: argparse.Namespace) -> Any:
    """Its GPT of the same size, untrained. Raises ValueError if path holds no checkout."""
    import_crystallm(path)
    from crystallm._model import GPT, GPTConfig

    config = GPTConfig(
        block_size=1024,
        vocab_size=n_tokens,
        n_layer=args.layers,
        n_head=args.heads,
        n_embd=args.width,
        bias=True,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        return GPT(config).eval()


def time_crystallm(model: Any, n_crystals: int, n_tokens: int) -> float:
    """Seconds of its own loop for n_crystals, one at a time as its bin/sample.py draws them.

    Its `generate` ends a sequence at two line ends; their logits are ruled out by a hook.
    """
    from crystallm import CIFTokenizer

    newline = CIFTokenizer().token_to_id["\n"]

    def never_newline(module: Any, inputs: Any, output: Tensor) -> Tensor:
        output[..., newline] = -torch.inf
        return output

    hook = model.lm_head.register_forward_hook(never_newline)
    start = torch.full((1, 1), newline)
    begin = time.perf_counter()
    with torch.no_grad():
        for _ in range(n_crystals):
            model.generate(start, n_tokens, temperature=1.0, top_k=None)
    hook.remove()
    return time.perf_counter() - begin


@torch.no_grad()
def time_ours(model: SequenceModel, n_crystals: int, n_tokens: int) -> float:
    """Seconds of cached decoding of n_crystals side by side, n_tokens each."""
    generator = torch.Generator().manual_seed(0)
    begin = time.perf_counter()
    state = model.start(n_crystals, n_tokens)
    last = torch.zeros(n_crystals, dtype=torch.int64)
    for _ in range(n_tokens):
        logits, state = model(last[:, None], state)
        last = draw_tokens(logits[:, -1].log_softmax(-1), generator)
    return time.perf_counter() - begin


def time_coordinates(args: argparse.Namespace) -> tuple[float, int]:
    """(seconds, tokens a crystal) of `generate` with the coordinate tokeniser and its grammar."""
    tokeniser = make_tokeniser("coordinate", args.atoms)
    model = build_core(
        model_config(args), len(tokeniser.vocabulary), tokeniser.max_length, torch.Generator()
    )
    request = Request(args.batch, Conditions(composition={8: args.atoms}))
    options = {"filters": Filters(), "batch_size": args.batch}
    begin = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    (samples,) = generate(model.eval(), tokeniser, [request], generator=generator, **options)
    return time.perf_counter() - begin, len(samples[0].tokens) - 1


def model_config(args: argparse.Namespace) -> Selection:
    """Ours of the same size."""
    return core_choice(d_model=args.width, n_layers=args.layers, n_heads=args.heads)


def measure(args: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of the table."""
    from_vocabulary = 371  # CrystaLLM's
    theirs = None
    if args.crystallm:
        model = crystallm_model(args.crystallm, from_vocabulary, args)
        time_crystallm(model, 1, 8)  # warms up
        theirs = time_crystallm(model, args.crystals, args.tokens)
    core = build_core(model_config(args), from_vocabulary, 1024, torch.Generator()).eval()
    time_ours(core, args.batch, 8)
    ours = time_ours(core, args.batch, args.tokens)
    coordinates, n_tokens = time_coordinates(args)
    rows = [
        row("ours, as many tokens", args.tokens, args.batch, ours),
        row(f"ours, coordinate tokens, {args.atoms} atoms", n_tokens, args.batch, coordinates),
    ]
    if theirs is not None:
        rate = args.crystals / theirs
        for entry in rows:
            entry["times_faster"] = float(str(entry["crystals_per_second"])) / rate
        rows.insert(0, row("CrystaLLM", args.tokens, args.crystals, theirs))
    return rows


def row(program: str, n_tokens: int, n_crystals: int, seconds: float) -> dict[str, object]:
    """One line of the table."""
    return {
        "program": program,
        "tokens": n_tokens,
        "crystals": n_crystals,
        "seconds": seconds,
        "crystals_per_second": n_crystals / seconds,
        "times_faster": None,
    }


def shown(value: object) -> str:
    """A cell of the table."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--crystallm", help="a checkout of CrystaLLM; without it only ours")
    for name, default in (("width", 512), ("layers", 8), ("heads", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tokens", type=int, default=400, help="tokens a crystal")
    parser.add_argument("--crystals", type=int, default=1, help="how many CrystaLLM draws")
    parser.add_argument("--batch", type=int, default=64, help="how many ours draws, side by side")
    parser.add_argument("--atoms", type=int, default=20, help="atoms of the coordinate crystals")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        rows = measure(args)
    except ValueError as error:
        parser.error(str(error))
    print(aligned([COLUMNS, *([shown(entry[name]) for name in COLUMNS] for entry in rows)]))
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "crystal_speed.csv", COLUMNS, rows)


if __name__ == "__main__":
    main()
