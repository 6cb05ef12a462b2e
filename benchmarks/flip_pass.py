"""Seconds of one flip pass, compiled and in torch, and the share of the matrix-product rate.

    OMP_NUM_THREADS=1 python -m benchmarks.flip_pass [--sides 4 6 8] [--draws 512] [--repeats 3]

train.py's default network on L x L atoms with 2x2 patches, float32, random configurations, all
single flips. Both passes alternate, each counts with its best time. One thread is measured in
processor time, so that other work on the machine does not count; more in wall time.
The share is of the operations that the compiled pass needs, over its time and the rate of a large
product in the same process.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import torch

from benchmarks.tables import aligned
from hamiltonians.lattices.lattice import Square
from nqs.core.native.build import SWITCH
from nqs.core.transformer import Transformer
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches

PRODUCT = 2_048
"""Side of the product that is the yardstick, as in benchmarks.matmul."""


def clock() -> float:
    """Seconds: of the processor for one thread, else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def product_rate() -> float:
    """FLOP/s of a large product, the best of several."""
    a, b = torch.randn(2, PRODUCT, PRODUCT).unbind()
    seconds = []
    for _ in range(6):
        began = clock()
        torch.mm(a, b)
        seconds.append(clock() - began)
    return 2 * PRODUCT**3 / min(seconds)


def network(side: int) -> Autoregressive:
    """As train.py begins, but for its product state."""
    patches = Patches.from_spec(Square(side, side), "2x2")
    core = Transformer(
        *(patches.n_states + 1, patches.n_states, patches.n_patches),
        coordinates=patches.centres,
        generator=torch.Generator().manual_seed(0),
    )
    return Autoregressive(core, patches)


def operations(psi: Autoregressive, n_draws: int) -> int:
    """2 a multiply-add of the compiled pass: suffixes of single flips, one altered token each."""
    core, sizes = psi.core, psi.patches.sizes.tolist()
    assert isinstance(core, Transformer)
    n_patches, width, n_layers = len(sizes), core.d_model, len(core.blocks)
    hidden = core.blocks[0].perceptron.expand.out_features
    token = n_layers * 2 * width * hidden + (n_layers - 1) * 2 * width**2
    token += core.n_heads * width + width * core.n_outputs
    total = 0
    for first, n_flips in enumerate(sizes):
        n_own = n_patches - first - 1
        mixing = (n_layers - 1) * width * n_own * (n_own + 1) // 2
        total += n_flips * (n_own * token + mixing)
    return 2 * n_draws * total


def measure(side: int, n_draws: int, repeats: int, rate: float) -> list[str]:
    """A row of the table."""
    psi = network(side)
    generator = torch.Generator().manual_seed(1)
    configs = torch.rand(n_draws, side**2, generator=generator) < 0.5
    flips = torch.eye(side**2, dtype=torch.bool)
    best = {"0": float("inf"), "1": float("inf")}
    results = {}
    for repeat in range(repeats + 1):  # the first warms up
        for switch in best:  # ends with the compiled one
            os.environ[SWITCH] = switch
            began = clock()
            results[switch] = psi.log_psi_flipped(configs, flips)
            if repeat:
                best[switch] = min(best[switch], clock() - began)
    ratio = best["0"] / best["1"]
    share = operations(psi, n_draws) / best["1"] / rate
    difference = float((results["0"] - results["1"]).abs().max())
    numbers = [f"{best['0']:.4f}", f"{best['1']:.4f}", f"{ratio:.2f}", f"{share:.0%}"]
    return [f"{side}x{side}", *numbers, f"{difference:.1e}"]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[4, 6, 8, 12, 16])
    parser.add_argument("--draws", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    psi = network(4)
    if not psi.flip_pass().startswith("compiled"):
        print(psi.flip_pass(), file=sys.stderr)
        return 2
    rate = product_rate()
    print(f"{psi.flip_pass()}, {torch.get_num_threads()} threads, product {rate / 1e9:.1f} GFLOP/s")
    header = ["array", "torch/s", "compiled/s", "ratio", "share of product", "difference"]
    rows = [measure(side, args.draws, args.repeats, rate) for side in args.sides]
    print(aligned([header, *rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
