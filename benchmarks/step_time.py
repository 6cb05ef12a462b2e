"""Seconds of one VMC step, part by part, beside the older code on the same machine in the same run.

    python -m benchmarks.step_time [--older-code PATH] [--repeats 5] [--equal-seconds 40]

8x8 Rydberg array, 2x2 patches, 256 samples. Ours and the older code's steps alternate (A B A B ...)
and each ratio is the median of the pairwise ratios, so a drifting machine does not decide.
"ours, bfloat16" is the same network with energies.flip_precision=bfloat16, compared with a matrix
product of bfloat16 operands. "default" is train.py's own model and optimizer with as many samples,
beside the older code's PTF; with --equal-seconds both are then trained for so long, from the start,
and the variance of H (of fresh samples) is added.
The flip pass is also given as a share of the measured rate of a large matrix product; its
operations are those of the products that are really run (benchmarks.flops).
Writes step_time.csv and step_time.png into --out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.flops import counted
from benchmarks.matmul import matmul_rate, synchronise
from benchmarks.older_code import OlderCode
from benchmarks.tables import aligned, write_csv
from hamiltonians import Rydberg
from hamiltonians.lattices.lattice import Square
from nqs.core.recurrent import Recurrent
from nqs.core.transformer import Transformer
from nqs.vmc.energies.local_energy import local_energies
from nqs.vmc.optimizers import Adam
from nqs.vmc.optimizers.gradient import add_to_parameters
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches

if TYPE_CHECKING:
    from benchmarks.programs import Ours as Default

PARTS = ("sampling", "flips", "gradient")


@dataclass(frozen=True)
class Case:
    """One architecture: ours, the older code's options for the same, and the ratio asked for."""

    name: str
    model: str
    d_ff: int | None
    older_options: dict[str, object]
    target: float
    rounded_target: float | None = None


OLDER_PTF = {"patch": "2x2", "Nh": 128, "nhead": 8, "num_layers": 2}
CASES = (
    Case("PTF d_ff=2048", "ptf", 2048, OLDER_PTF, 1.5, 3.0),
    Case("PTF d_ff=512", "ptf", 512, OLDER_PTF, 4.0),
    Case("GRU 128", "rnn", None, {"patch": "2x2", "Nh": 128, "rnntype": "GRU"}, 2.0),
)


class Ours:
    """Our model of a case, stepping with Adam like the older code."""

    def __init__(
        self,
        case: Case,
        *,
        side: int,
        n_samples: int,
        device: str,
        products: str = "full",
        seed: int = 0,
    ) -> None:
        self.products = products
        self.device = torch.device(device)
        init = torch.Generator().manual_seed(seed)
        lattice = Square(side, side)
        patches = Patches.from_spec(lattice, "2x2")
        sizes = (patches.n_states + 1, patches.n_states, patches.n_patches)
        if case.model == "ptf":
            core = Transformer(
                *sizes,
                d_model=128,
                n_layers=2,
                n_heads=8,
                d_ff=case.d_ff,
                attention="softmax",
                activation="relu",
                generator=init,
            )
        else:
            core = Recurrent(*sizes, d_model=128, cell="gru", generator=init)
        self.psi = Autoregressive(core, patches).to(self.device)
        self.hamiltonian = Rydberg(lattice, V=7.0, delta=1.0, Omega=1.0).to(self.device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.optimizer = Adam(5e-4, schedule="constant")
        self.n_samples = n_samples

    def step(self) -> dict[str, float]:
        """One optimisation step; seconds of its parts."""
        marks = [self._now()]
        samples = self.psi.sample(self.n_samples, self.generator)
        marks.append(self._now())
        e_loc = local_energies(self.psi, self.hamiltonian, samples, precision=self.products)
        marks.append(self._now())
        add_to_parameters(self.psi, self.optimizer.update(self.psi, samples, e_loc))
        marks.append(self._now())
        return {part: b - a for part, a, b in zip(PARTS, marks, marks[1:], strict=False)}

    def flip_operations(self) -> int:
        """Floating-point operations of one flip pass."""
        samples = self.psi.sample(self.n_samples, self.generator)
        return counted(lambda: self.psi.log_psi_flipped(samples.configs, self.hamiltonian.flips))

    def _now(self) -> float:
        synchronise(self.device)
        return time.perf_counter()


def older_code(options: dict[str, object], model: str, args: argparse.Namespace) -> OlderCode:
    """The older code with these options, its flips in as many chunks as there are 2x2 patches."""
    return OlderCode(
        args.older_code,
        model,
        side=args.side,
        n_samples=args.samples,
        n_loops=args.n_loops or ((args.side + 1) // 2) ** 2,
        options=options,
    )


def measure(case: Case, args: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of the table for one case: ours, in both precisions, and with a checkout the older."""
    sizes = {"side": args.side, "n_samples": args.samples, "device": args.device}
    programs: dict[str, Ours | OlderCode] = {
        "ours": Ours(case, **sizes),
        "ours, bfloat16": Ours(case, **sizes, products="bfloat16"),
    }
    if args.older_code:
        programs["older code"] = older_code(case.older_options, case.model, args)
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for repeat in range(args.repeats + 1):  # the first round warms up
        for name, program in programs.items():
            parts = program.step()
            if repeat:
                steps[name].append(parts)
    rows = [_row(case.name, name, parts) for name, parts in steps.items()]
    ours = programs["ours"]
    assert isinstance(ours, Ours)
    operations = ours.flip_operations()
    for row, dtype in zip(rows, (torch.float32, torch.bfloat16), strict=False):
        rate = matmul_rate(dtype, args.device)
        row["flip_gflops"] = operations / float(row["flips"]) / 1e9  # type: ignore[arg-type]
        row["matmul_gflops"] = rate / 1e9
        row["flip_share"] = operations / float(row["flips"]) / rate  # type: ignore[arg-type]
        if args.older_code:
            pairs = zip(steps["older code"], steps[str(row["program"])], strict=True)
            row["times_faster"] = statistics.median(
                sum(a.values()) / sum(b.values()) for a, b in pairs
            )
            row["target"] = case.target if dtype == torch.float32 else case.rounded_target
    return rows


def measure_default(args: argparse.Namespace) -> list[dict[str, object]]:
    """train.py's defaults beside the older code's PTF: whole steps, then equal wall times."""
    programs = default_programs(args)
    steps: dict[str, list[float]] = {name: [] for name in programs}
    for repeat in range(args.repeats + 3):  # the product state's few configurations go first
        for name, program in programs.items():
            began = time.perf_counter()
            program.step()
            if repeat > 2:
                steps[name].append(time.perf_counter() - began)
    rows: list[dict[str, object]] = [
        {"case": "default", "program": name, "step": statistics.median(seconds)}
        for name, seconds in steps.items()
    ]
    if args.older_code:
        pairs = zip(steps["older code"], steps["ours"], strict=True)
        rows[0]["times_faster"] = statistics.median(a / b for a, b in pairs)
        rows[0]["target"] = 10.0
    if args.equal_seconds:
        for row, program in zip(rows, default_programs(args).values(), strict=True):
            row["variance"] = variance_after(program, args.equal_seconds)
    return rows


def default_programs(args: argparse.Namespace) -> dict[str, Default | OlderCode]:
    """Both at their start."""
    from benchmarks.problems import PROBLEMS  # needs Hydra, which nothing else here does
    from benchmarks.programs import Ours as Default

    ours = Default(PROBLEMS["8x8"], 0, (f"train.n_samples={args.samples}",))
    ours.start()
    programs: dict[str, Default | OlderCode] = {"ours": ours}
    if args.older_code:
        programs["older code"] = older_code(OLDER_PTF, "ptf", args)
    return programs


def variance_after(program: Default | OlderCode, seconds: float) -> float:
    """Var H of 1024 fresh samples after so many seconds of steps; ours ends with its own steps."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until and (isinstance(program, OlderCode) or not program.finished):
        program.step()
    if isinstance(program, OlderCode):
        return float(program.local_energies(1_024).var())
    return program.evaluation(1_024).variance


def _row(case: str, program: str, steps: list[dict[str, float]]) -> dict[str, object]:
    median = {part: statistics.median(step[part] for step in steps) for part in PARTS}
    total = statistics.median(sum(step.values()) for step in steps)
    return {"case": case, "program": program, "step": total, **median}


COLUMNS = (
    *("case", "program", "step", *PARTS),
    *("flip_gflops", "matmul_gflops", "flip_share", "times_faster", "target", "variance"),
)


def table(rows: list[dict[str, object]]) -> str:
    """The rows as aligned text; seconds unless the column says otherwise."""
    return aligned([COLUMNS, *([_cell(row.get(column)) for column in COLUMNS] for row in rows)])


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def save(rows: list[dict[str, object]], out: Path) -> None:
    """step_time.csv and step_time.png (stacked bars of the parts)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "step_time.csv", COLUMNS, rows)
    rows = [row for row in rows if "flips" in row]
    figure, axes = plt.subplots(figsize=(7, 0.6 * len(rows) + 1.2), layout="constrained")
    names = [f"{row['case']}\n{row['program']}" for row in rows]
    left = [0.0] * len(rows)
    for part in PARTS:
        seconds = [float(row[part]) for row in rows]  # type: ignore[arg-type]
        axes.barh(names, seconds, left=left, label=part)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds per VMC step")
    axes.legend()
    figure.savefig(out / "step_time.png", dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--older-code", metavar="PATH", help="a checkout of VMC_with_LPTFs")
    parser.add_argument("--repeats", type=int, default=5, help="counted steps of each program")
    parser.add_argument("--side", type=int, default=8, help="L of the L x L array")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--n-loops", type=int, help="NLOOPS of the older code; default: patches")
    parser.add_argument("--equal-seconds", type=float, default=0.0, help="0: no variances")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args(argv)
    if not args.older_code:
        print("no --older-code PATH given: the comparison with the older code is skipped")
    try:
        rows = [row for case in CASES for row in measure(case, args)]
        if args.side == 8 and args.device == "cpu":
            rows += measure_default(args)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    where = f"{args.samples} samples, {torch.get_num_threads()} threads"
    print(f"{args.side}x{args.side}, 2x2 patches, {where}")
    print(table(rows))
    save(rows, args.out)
    print(f"written: {args.out / 'step_time.csv'}, {args.out / 'step_time.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
