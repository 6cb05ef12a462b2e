"""All that has to be shown on a GPU, in one call within a given time.

    python -m benchmarks.gpu_run [--seconds 540] [--size 16] [--second-size 32] [--samples 4096]
        [--width 32] [--older-code PATH] [--device cuda|cpu] [--out benchmarks/results/gpu]

In turn, each part within its share of --seconds and saved before the next begins:

    device      name, memory, rates of large matrix products
    flip_pass   seconds, TFLOP/s and model-FLOP utilisation of the flip pass, several widths
    older_code  one Adam step of the same architecture (transformer 128, 2 layers, d_ff 2048, 2x2
                patches, 256 samples), the older code's and ours in turn; with --older-code
    first       L x L Rydberg array, L = --size, V = 7, delta = Omega = 1, trained from the product
                state, then a fresh evaluation, until its error bar is 2e-6 per site or time is up
    second      L = --second-size from the parameters of the first, some steps, fresh evaluation

Needs torch, numpy and scipy; neither Hydra nor NetKet. The number of steps is set by the time that
the first ones take, so that the schedules end with the time. A part that fails leaves its error in
the results and does not end the others. Writes gpu_run.json (all results so far) and
gpu_run_steps.csv (a line a step). References: -0.38077 per site for 16x16, -0.36891 for 32x32.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.arguments import Parser, made, positive, seed, whole_number
from benchmarks.flops import counted, least_flops
from benchmarks.matmul import matmul_rate, synchronise
from benchmarks.memory import peak_bytes
from benchmarks.older_code import OlderCode, checkout
from benchmarks.step_time import CASES, PARTS, Ours
from benchmarks.trial import Setting, Trial, warm_up
from nqs.runfolder.atomic import write_text
from nqs.vmc.optimise import StepRecord
from nqs.wavefunctions.transfer import transfer

REFERENCES = {4: -7.254611338546459 / 16, 16: -0.38077, 32: -0.36891}
"""Energies per site: exact for 4x4, the others as the task gave them."""
SHARES = {"flip_pass": 0.06, "older_code": 0.1, "first": 0.5, "second": 0.3}
"""Of --seconds; what is left is for imports, start-up and the steps that overrun."""
TRAINING = 0.8
"""Of a training part's time, the rest is for its evaluation."""
FINEST_ERROR = 2e-6
"""Per site: evaluations need no smaller error bars."""
WIDTHS = (32, 128)
LEAST_STEPS = 5
MEMORY_GB = {"cpu": 1.0, "cuda": 8.0}


@dataclass
class Report:
    """Results so far, written anew with each; steps one by one."""

    out: Path
    content: dict[str, Any]

    def add(self, part: str, found: dict[str, Any]) -> None:
        """Keeps a part's results; parts may add to theirs."""
        self.content.setdefault(part, {}).update(found)
        text = json.dumps(self.content, indent=2, default=float)
        write_text(self.out / "gpu_run.json", text + "\n")

    def step(self, part: str, record: StepRecord, n_sites: int) -> None:
        """One more line of the history."""
        path = self.out / "gpu_run_steps.csv"
        values = {"energy_per_site": record.energy / n_sites}
        values |= {"error_per_site": record.energy_error / n_sites}
        new = not path.exists()
        with path.open("a") as file:
            if new:
                print("part,step,energy_per_site,error_per_site,v_score,rows,seconds", file=file)
            numbers = [*values.values(), record.v_score, record.n_unique, record.seconds]
            print(part, record.step, *(f"{x:.9g}" for x in numbers), sep=",", file=file)


def device_part(args: argparse.Namespace) -> dict[str, Any]:
    """What it runs on."""
    device = torch.device(args.device)
    found: dict[str, Any] = {"torch": torch.__version__, "python": sys.version.split()[0]}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"name": properties.name, "memory_gb": properties.total_memory / 1e9}
    dtypes = {"float32": torch.float32, "float64": torch.float64}
    return found | {f"{name}_flops": matmul_rate(dtype, device) for name, dtype in dtypes.items()}


def flip_pass(args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """The flip pass of --size and --samples for each width; the best of a few, in the time."""
    rate = matmul_rate(device=args.device)
    found: dict[str, Any] = {}
    for width in WIDTHS:
        trial = Trial(Setting(args.size, args.samples, width=width, device=args.device))
        psi, hamiltonian = trial.psi, trial.hamiltonian
        samples = psi.sample(args.samples, trial.generator, unique=True)
        n_rows = len(samples.counts)
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < 5 and (not times or time.perf_counter() - began < seconds / len(WIDTHS)):
            before = time.perf_counter()
            psi.log_psi_flipped(samples.configs, hamiltonian.flips)
            synchronise(trial.device)
            times.append(time.perf_counter() - before)
        run = counted(lambda: psi.log_psi_flipped(samples.configs, hamiltonian.flips))  # noqa: B023
        least = least_flops(psi, hamiltonian, n_rows).flips
        found[f"width_{width}"] = {
            "rows": n_rows,
            "seconds": min(times),
            "tflops": run / min(times) / 1e12,
            "run_share": run / min(times) / rate,
            "mfu": least / min(times) / rate,
        }
    return found


def older_code(args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Seconds a step, in turn; ratios of neighbours, so that a drifting machine does not decide."""
    case, side, n_samples = CASES[0], args.size, args.older_samples
    ours = Ours(case, side=side, n_samples=n_samples, device=args.device)
    older = OlderCode(
        args.older_code,
        case.model,
        side=side,
        n_samples=n_samples,
        n_loops=ours.psi.patches.n_patches,
        options=case.older_options,
    )
    pairs: list[tuple[dict[str, float], dict[str, float]]] = []
    began = time.perf_counter()
    while len(pairs) < 6 and (len(pairs) < 2 or time.perf_counter() - began < seconds):
        pairs.append((ours.step(), older.step()))
    pairs = pairs[1:]  # the first warms up
    found: dict[str, Any] = {"case": case.name, "side": side, "samples": n_samples}
    for place, name in enumerate(("ours", "older")):
        for part in PARTS:
            found[f"{name}_{part}"] = statistics.median(pair[place][part] for pair in pairs)
    ratios = [sum(theirs.values()) / sum(mine.values()) for mine, theirs in pairs]
    return found | {"times_faster": statistics.median(ratios), "pairs": len(pairs)}


def trained(
    args: argparse.Namespace, report: Report, part: str, seconds: float, source: Trial | None
) -> Trial:
    """Trains and evaluates one size; from `source` if there is one."""
    side = args.size if source is None else args.second_size
    setting = Setting(side, args.samples, width=args.width, device=args.device, seed=args.seed)
    began = time.perf_counter()
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    warm_up(setting)
    # how long a step takes where it is slowest, all rows distinct: at the start
    first = begun(setting, LEAST_STEPS, source)
    for _ in range(2):
        first.advance()
    left = TRAINING * seconds - (time.perf_counter() - began)
    n_steps = max(LEAST_STEPS, int(left / (first.seconds / 2)))
    report.add(part, {"side": side, "samples": args.samples, "planned_steps": n_steps})
    trial = begun(setting, n_steps, source)
    n_sites = side**2
    while trial.step < n_steps:
        if trial.step > 0 and time.perf_counter() - began > TRAINING * seconds:
            break
        report.step(part, trial.advance(), n_sites)
    found = {
        "steps": trial.step,
        "training_seconds": trial.seconds,
        "n_parameters": trial.n_parameters,
        "peak_gb": peak_bytes(trial.device) / 1e9,
    }
    report.add(part, found)
    evaluated(trial, args, seconds - (time.perf_counter() - began), lambda e: report.add(part, e))
    return trial


def begun(setting: Setting, n_steps: int, source: Trial | None) -> Trial:
    """A run before its first step, at the product state or where another size has got to."""
    memory_gb = MEMORY_GB[setting.device]
    trial = Trial(setting, n_steps, memory_gb)
    if source is None:
        return trial.start()
    transfer(source.psi, trial.psi, source.lattice, trial.lattice)
    return trial


def evaluated(
    trial: Trial, args: argparse.Namespace, seconds: float, said: Callable[[dict[str, Any]], None]
) -> None:
    """Fresh batches of samples until the time is up, at least one, or the error bar is small."""
    side, n_sites = trial.setting.side, trial.setting.side**2
    began, energies, squares, counts = time.perf_counter(), [], [], []
    while True:
        batch = trial.evaluation(args.eval_samples)
        counts.append(batch.n_samples)
        energies.append(batch.n_samples * batch.energy)
        squares.append((batch.n_samples * batch.energy_error) ** 2)
        total = sum(counts)
        energy, error = sum(energies) / total, math.sqrt(sum(squares)) / total
        found = {
            "energy_per_site": energy / n_sites,
            "error_bar_per_site": error / n_sites,
            "eval_samples": total,
            "v_score": batch.v_score,
            "evaluation_seconds": time.perf_counter() - began,
        }
        if side in REFERENCES:
            found["reference_per_site"] = REFERENCES[side]
            found["above_reference_per_site"] = energy / n_sites - REFERENCES[side]
        said(found)
        one = (time.perf_counter() - began) / len(counts)
        if error / n_sites < FINEST_ERROR or time.perf_counter() - began + one > seconds:
            return


def attempt(report: Report, part: str, work: Callable[[], Any]) -> Any:
    """What a part returns; None, and its reason among the results, if it fails."""
    began = time.perf_counter()
    try:
        return work()
    except (ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        report.add(part, {"failed": " ".join(str(error).split())[:300]})
        return None
    finally:
        report.add(part, {"wall_seconds": time.perf_counter() - began})
        print(part, json.dumps(report.content[part], default=float), flush=True)


def run(args: argparse.Namespace) -> None:
    """All parts, later ones with the time that is left."""
    began = time.perf_counter()
    report = Report(args.out, {"arguments": {k: str(v) for k, v in vars(args).items()}})
    (args.out / "gpu_run_steps.csv").unlink(missing_ok=True)

    def share(part: str) -> float:
        later = list(SHARES)[list(SHARES).index(part) :]
        left = args.seconds * sum(SHARES.values()) - (time.perf_counter() - began)
        return max(1.0, left * SHARES[part] / sum(SHARES[name] for name in later))

    attempt(report, "device", lambda: report.add("device", device_part(args)))
    attempt(
        report, "flip_pass", lambda: report.add("flip_pass", flip_pass(args, share("flip_pass")))
    )
    if args.older_code:
        attempt(
            report,
            "older_code",
            lambda: report.add("older_code", older_code(args, share("older_code"))),
        )
    first = attempt(report, "first", lambda: trained(args, report, "first", share("first"), None))
    if first is not None:
        attempt(report, "second", lambda: trained(args, report, "second", share("second"), first))
    report.add("total", {"seconds": time.perf_counter() - began})


def parser() -> argparse.ArgumentParser:
    result = Parser(
        prog="python -m benchmarks.gpu_run",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = result.add_argument
    add("--seconds", type=positive, default=540.0, help="of all parts together")
    add("--size", type=whole_number, default=16)
    add("--second-size", type=whole_number, default=32)
    add("--samples", type=whole_number, default=4096)
    add("--width", type=whole_number, default=32)
    add("--eval-samples", type=whole_number, default=16_384, help="of one batch")
    add("--older-code", metavar="PATH", help="a checkout of VMC_with_LPTFs")
    add("--older-samples", type=whole_number, default=256)
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--seed", type=seed, default=0)
    add("--out", type=Path, default=Path("benchmarks/results/gpu"))
    return result


def checked(args: argparse.Namespace) -> None:
    """Raises ValueError, one line, for what would fail later."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here; use --device cpu")
    for side in (args.size, args.second_size):
        if side < 4 or side % 2:
            raise ValueError(f"size {side}: must be an even number >= 4 (patches are 2x2)")
    if args.eval_samples < 2:
        raise ValueError(f"--eval-samples {args.eval_samples}: must be at least 2")
    if args.older_code:
        checkout(args.older_code)
    made(args.out)


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        checked(args)
        run(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was measured is saved", file=sys.stderr)
        return 130
    print(f"written: {args.out / 'gpu_run.json'}, {args.out / 'gpu_run_steps.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
