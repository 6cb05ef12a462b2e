"""Two gloo processes are one process: energies, gradient, minSR directions, evaluation."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from states import minsr, network
from torch import Tensor
from torch.testing import assert_close

from hamiltonians import Heisenberg, Rydberg, TransverseFieldIsing
from hamiltonians.hamiltonian import Hamiltonian
from hamiltonians.lattices.lattice import Chain, Square
from nqs.core.recurrent import Recurrent
from nqs.vmc.energies import Blurred, NearFlips
from nqs.vmc.energies.flip_precision import FlipPrecision
from nqs.vmc.energies.local_energy import connected, local_energies
from nqs.vmc.energies.proposal import at_least, importance
from nqs.vmc.evaluation import Evaluation, evaluate
from nqs.vmc.optimizers.gradient import add_to_parameters, energy_gradient
from nqs.vmc.optimizers.natural_gradient import NaturalGradient
from nqs.vmc.ranks import ALONE, ProcessGroup, Ranks
from nqs.vmc.statistics import RunningMoments, sample_statistics
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

N_RANKS = 2
FRACTION = 0.5
N_EVALUATED, CHUNK = 501, 100
SQUARE = Square(2, 3)


def small(phase: bool) -> Autoregressive:
    """A network of fewer parameters than its chain of eight has configurations."""
    generator = torch.Generator().manual_seed(3)
    patches = Patches.from_spec(Chain(8), "1")
    sizes = (3, 4 if phase else 2, 8)
    core = Recurrent(*sizes, d_model=3, cell="elman", generator=generator)
    psi = Autoregressive(core, patches, phase=phase).double()
    with torch.no_grad():
        for parameter in psi.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.3 * noise
    return psi


def peaked() -> Autoregressive:
    """All draws are one configuration: fewer rows than processes."""
    psi = network("gru", SQUARE, "2x1", random=False)
    psi.set_product_state(torch.full((6,), 1e-9, dtype=torch.float64))
    return psi


def cases() -> dict[str, tuple[Autoregressive, Hamiltonian, int, float, dict[str, Any]]]:
    """Wavefunction, Hamiltonian, draws, flip fraction, arguments of the optimizer."""
    atoms = Rydberg(SQUARE, V=7.0, delta=1.0, Omega=1.0)
    ising = TransverseFieldIsing(Chain(8), J=1.0, h=1.0)
    spins = Heisenberg(Chain(8), J=1.0, marshall=False)
    return {
        "real": (network("ptf", SQUARE, "2x1"), atoms, 41, FRACTION, {}),
        "real in pieces": (network("ptf", SQUARE, "2x1"), atoms, 41, FRACTION, {"memory_gb": 6e-5}),
        "real, P x P": (small(False), ising, 2001, FRACTION, {}),
        "complex": (small(True), spins, 30, FRACTION, {}),
        "complex in pieces": (small(True), spins, 30, FRACTION, {"memory_gb": 1e-5}),
        "complex, P x P": (small(True), spins, 2001, FRACTION, {"memory_gb": 2e-4}),
        "one configuration": (peaked(), atoms, 40, 0.0, {}),
    }


def optimizer(arguments: dict[str, Any]) -> NaturalGradient:
    return minsr(0.05, momentum=0.8, implicit=True, max_norm=0.3, **arguments)


def two_steps(name: str, ranks: Ranks, drawn: list[Any] | None = None) -> list[dict[str, Any]]:
    """What two steps of a case draw and find, the second with momentum; drawn: samples to take."""
    psi, hamiltonian, n_samples, fraction, arguments = cases()[name]
    generator = torch.Generator().manual_seed(10 + ranks.rank)
    minsr, steps = optimizer(arguments), []
    for step in range(2):
        if drawn is None:
            energies = Blurred(flip_fraction=fraction)
            found = energies.draw(psi, hamiltonian, n_samples, generator, ranks=ranks)
            samples, e_loc = found.samples, found.e_loc
        else:
            samples = Samples(*drawn[step])
            e_loc = local_energies(psi, hamiltonian, samples)
        gradient = energy_gradient(psi, samples, e_loc, chunk=7, ranks=ranks)
        update = minsr.update(psi, samples, e_loc, ranks)
        add_to_parameters(psi, update)
        steps.append(
            {
                "samples": [samples.configs, samples.counts, samples.log_psi, samples.importance],
                "e_loc": e_loc,
                "gradient": gradient,
                "update": update,
                "norm": minsr.diagnostics["gradient_norm"],
                "parameters": torch.cat([p.detach().flatten() for p in psi.parameters()]),
            }
        )
    return steps


def measured(psi: Wavefunction, ranks: Ranks, n_samples: int) -> Evaluation:
    hamiltonian = Rydberg(SQUARE, V=7.0, delta=1.0, Omega=1.0)
    generator = torch.Generator().manual_seed(20 + ranks.rank)
    return evaluate(psi, hamiltonian, n_samples, generator, chunk=CHUNK, ranks=ranks)


def chosen(ranks: Ranks) -> dict[str, Any]:
    """What the flips' products are found to do, with draws of all ranks."""
    atoms = Rydberg(SQUARE, V=7.0, delta=1.0, Omega=1.0)
    products = FlipPrecision("bfloat16")
    generator = torch.Generator().manual_seed(30 + ranks.rank)
    psi = network("ptf", SQUARE, "2x1").float()
    products.update(psi, atoms, 256, FRACTION, generator, ranks)
    return {"kind": products.kind, "bias": products.bias, "rms_share": products.rms_share}


def locally(ranks: Ranks, rank: int, n_samples: int) -> list[Tensor]:
    """What near flips find with the generator of a rank."""
    psi, hamiltonian, *_ = cases()["real"]
    generator = torch.Generator().manual_seed(30 + rank)
    energies = NearFlips(flip_radius=1.0, exact_fraction=0.5, flip_fraction=FRACTION)
    drawn = energies.draw(psi, hamiltonian, n_samples, generator, ranks=ranks)
    samples = drawn.samples
    assert samples.importance is not None
    return [samples.configs, samples.counts, samples.importance, drawn.e_loc, drawn.noise]


def exchanges(ranks: Ranks) -> dict[str, Any]:
    """Rows and columns of unequal number, of every kind that is sent."""
    rows = torch.arange(10).view(5, 2)[ranks.share(5)] + 0.5
    panel = torch.arange(30.0).view(2, 5, 3)[:, ranks.share(5)].flatten(0, 1)
    return {
        "gathered": ranks.gathered(rows),
        "from one": ranks.gathered(torch.tensor([True, False])[: 2 * ranks.rank]),
        "complex": ranks.gathered(torch.tensor([1j * ranks.rank])),
        "exchanged": ranks.exchanged(panel, 5),
        "narrow": ranks.exchanged(panel[:, :1], 5),
        "sum": ranks.sum(torch.tensor(1.0 + ranks.rank)),
        "first": ranks.broadcast(torch.tensor([ranks.rank])),
        "shared": ranks.shared({"rank": ranks.rank, "t": torch.ones(2)} if not ranks.rank else 0),
    }


def work(rank: int, folder: Path) -> None:
    """One of the processes; what it finds is in a file of its own."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=N_RANKS
    )
    ranks = ProcessGroup()
    found = {name: two_steps(name, ranks) for name in cases()}
    evaluation = measured(network("ptf", SQUARE, "2x1"), ranks, N_EVALUATED)
    content = {
        "steps": found,
        "exchanges": exchanges(ranks),
        "evaluation": plain(evaluation),
        "chosen": chosen(ranks),
    }
    content["local"] = locally(ranks, rank, 41)
    torch.save(content, folder / f"{rank}.pt")
    dist.destroy_process_group()


def plain(evaluation: Evaluation) -> dict[str, Any]:
    """All numbers of an evaluation."""
    numbers = {key: value for key, value in vars(evaluation).items() if key != "observables"}
    for name, estimate in evaluation.observables.items():
        numbers[name], numbers[f"{name} error"] = estimate.value, estimate.error
    return numbers


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = [get_context("spawn").Process(target=work, args=(r, folder)) for r in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(N_RANKS)]


def test_every_rank_holds_the_same_bits(found: list[dict[str, Any]]) -> None:
    for key in ("steps", "evaluation"):
        assert_close(found[0][key], found[1][key], rtol=0, atol=0)


@pytest.fixture
def one_of_one(tmp_path: Path, device: torch.device) -> Iterator[Ranks]:
    """A process group of this process alone."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield ProcessGroup()
    dist.destroy_process_group()


def test_on_every_device(one_of_one: Ranks, device: torch.device) -> None:
    """What ranks tell each other stays on its device; a step through them is a step alone."""
    panel = torch.arange(30.0, device=device).view(10, 3)
    for values in (panel, panel > 3, panel * 1j):
        for same in (one_of_one.sum(panel), one_of_one.broadcast(panel)):
            assert same.device == panel.device and same.tolist() == panel.tolist()
        found = one_of_one.gathered(values)
        assert found.device == panel.device and found.tolist() == values.tolist()
    assert one_of_one.exchanged(panel, 10).tolist() == panel.tolist()
    psi, hamiltonian, n_samples, fraction, arguments = cases()["real"]
    psi, hamiltonian, updates = psi.to(device), hamiltonian.to(device), []
    for ranks in (ALONE, one_of_one):
        draws = torch.Generator(device).manual_seed(1)
        energies = Blurred(flip_fraction=fraction)
        found = energies.draw(psi, hamiltonian, n_samples, draws, ranks=ranks)
        updates.append(optimizer(arguments).update(psi, found.samples, found.e_loc, ranks).cpu())
    assert_close(updates[1], updates[0], rtol=1e-9, atol=1e-12)


def test_products_are_measured_by_all(found: list[dict[str, Any]]) -> None:
    choice, same = (rank["chosen"] for rank in found)
    assert choice == same
    assert choice["kind"] == "bfloat16" and choice["rms_share"] > 0
    assert choice["bias"] != chosen(ALONE)["bias"]


def test_exchanges(found: list[dict[str, Any]]) -> None:
    for rank in range(N_RANKS):
        seen = found[rank]["exchanges"]
        assert torch.equal(seen["gathered"], torch.arange(10).view(5, 2) + 0.5)
        assert torch.equal(seen["from one"], torch.tensor([True, False]))
        assert torch.equal(seen["complex"], torch.tensor([0j, 1j]))
        columns = [slice(0, 2), slice(2, 3)][rank]
        whole = torch.arange(30.0).view(10, 3)
        assert torch.equal(seen["exchanged"], whole[:, columns])
        assert torch.equal(seen["narrow"], whole[:, : 1 - rank])
        assert seen["sum"] == 3.0 and seen["first"] == 0
        assert seen["shared"]["rank"] == 0 and torch.equal(seen["shared"]["t"], torch.ones(2))


@pytest.mark.parametrize("name", cases())
def test_two_processes_are_one(found: list[dict[str, Any]], name: str) -> None:
    """Given the same samples: local energies, gradient, direction without and with momentum."""
    psi, hamiltonian, n_samples, fraction, _ = cases()[name]
    steps = found[0]["steps"][name]
    for step, alone in zip(
        steps, two_steps(name, ALONE, [s["samples"] for s in steps]), strict=True
    ):
        assert int(step["samples"][1].sum()) == n_samples
        for key in ("e_loc", "gradient", "update", "norm", "parameters"):
            assert_close(step[key], alone[key], rtol=1e-8, atol=1e-10)
    configs, counts, log_psi, weights = steps[0]["samples"]
    with torch.no_grad():
        assert_close(log_psi, psi.log_psi(configs), rtol=1e-10, atol=1e-10)
        elements, ratios = connected(psi, hamiltonian, Samples(configs, counts, log_psi), 1000)
    if fraction:
        assert len(configs.unique(dim=0)) == len(configs)
        assert_close(weights, importance(elements, ratios, fraction))
    else:
        assert len(configs) == N_RANKS


def test_local_draws_are_those_of_each_rank(found: list[dict[str, Any]]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranks have: sums of several threads round otherwise
    try:
        parts = [locally(ALONE, rank, n) for rank, n in enumerate((21, 20))]
    finally:
        torch.set_num_threads(threads)
    for rank in range(N_RANKS):
        for joined, *alone in zip(found[rank]["local"], *parts, strict=True):
            assert torch.equal(joined, torch.cat(alone))


def test_each_form_of_the_system_is_met() -> None:
    """Or the cases above would not say what they are called."""
    for name, (psi, hamiltonian, n_samples, fraction, _) in cases().items():
        generator = torch.Generator().manual_seed(0)
        drawn = Blurred(flip_fraction=fraction).draw(psi, hamiltonian, n_samples, generator)
        samples = drawn.samples
        n_rows = len(samples.counts) * (2 if samples.log_psi.is_complex() else 1)
        n_parameters = sum(p.numel() for p in psi.parameters())
        assert (n_parameters < n_rows) == ("P x P" in name), (name, n_parameters, n_rows)
        assert samples.log_psi.is_complex() == ("complex" in name)


class Replay(Wavefunction):
    """A wavefunction whose draws were made before."""

    def __init__(self, psi: Wavefunction, draws: list[Samples]) -> None:
        super().__init__()
        self.psi, self.n_sites, self.draws = psi, psi.n_sites, deque(draws)

    def log_psi(self, configs: Tensor) -> Tensor:
        return self.psi.log_psi(configs)

    def sample(
        self, n_samples: int, generator: torch.Generator, *, unique: bool = False
    ) -> Samples:
        return self.draws.popleft()

    def log_psi_flipped(
        self,
        configs: Tensor,
        flips: Tensor,
        needed: Tensor | None = None,
        *,
        max_rows: int = 32_768,
    ) -> Tensor:
        return self.psi.log_psi_flipped(configs, flips, needed, max_rows=max_rows)


def test_the_joined_evaluation_is_that_of_all_draws(found: list[dict[str, Any]]) -> None:
    psi, draws = network("ptf", SQUARE, "2x1"), []
    for rank, n_samples in enumerate((251, 250)):
        generator = torch.Generator().manual_seed(20 + rank)
        for begin in range(0, n_samples, CHUNK):
            draws.append(psi.sample(min(CHUNK, n_samples - begin), generator, unique=True))
    assert sum(x.n_samples for x in draws) == N_EVALUATED
    alone = plain(measured(Replay(psi, draws), ALONE, CHUNK * len(draws)))
    assert alone["n_samples"] == N_EVALUATED
    joined = dict(found[0]["evaluation"])
    for name in ("energy", "energy_error", "variance", "v_score", "variance_outside", "excess"):
        # sums about the first draws' energy, which are others: equal to second order
        assert joined.pop(name) == pytest.approx(alone.pop(name), rel=0.02)
    for name in [name for name in alone if name.startswith("symmetric_")]:
        # of random images, which are others: a standard error is 0.02
        assert_close(joined.pop(name), alone.pop(name), rtol=0, atol=0.1)
    assert_close(joined, alone, rtol=1e-9, atol=1e-12)


def test_moments_of_one_rank_stay(generator: torch.Generator) -> None:
    """Bit for bit: joining is in the path of a single process."""
    moments = RunningMoments()
    for n in (5, 8):
        moments.add(torch.rand(n, 3, generator=generator), torch.arange(1, n + 1))
    n, mean, squares = moments.n, moments.mean, moments.squares
    moments.join(ALONE)
    assert moments.n == n and torch.equal(moments.mean, mean)
    assert torch.equal(moments.squares, squares)


def test_shares_are_all_rows_once() -> None:
    ranks = Three()
    for n in range(8):
        assert sum(ranks.shares(n)) == n and max(ranks.shares(n)) - min(ranks.shares(n)) <= 1
    assert ranks.shares(7) == [3, 2, 2] and ranks.share(7) == slice(5, 7)


class Three(type(ALONE)):  # type: ignore[misc]
    """The last of three, for what needs no exchange."""

    rank, size = 2, 3


def test_rows_for_every_rank_leave_the_estimators(generator: torch.Generator) -> None:
    counts, e_loc = torch.tensor([7, 2]), torch.rand(2, generator=generator, dtype=torch.float64)
    weights = torch.rand(2, generator=generator, dtype=torch.float64)
    configs, log_psi = torch.eye(2, dtype=torch.bool), torch.zeros(2)
    rows, split = at_least(5, counts)
    assert len(rows) == 5 and split.min() > 0
    assert torch.equal(torch.zeros(2, dtype=torch.int64).index_add_(0, rows, split), counts)
    few = sample_statistics(e_loc, Samples(configs, counts, log_psi, weights), 2, 0.0)
    many = Samples(configs[rows], split, log_psi[rows], weights[rows])
    for key, value in vars(sample_statistics(e_loc[rows], many, 2, 0.0)).items():
        assert math.isclose(value, getattr(few, key), rel_tol=1e-12)
    assert torch.equal(at_least(2, counts)[1], counts)
    with pytest.raises(FloatingPointError, match=r"9 draws have a weight .* fewer than the 10"):
        at_least(10, counts)
    with pytest.raises(FloatingPointError, match="zero or not finite"):
        at_least(1, counts[:0])
