"""One wavefunction for many couplings: the laws of a wavefunction at each, and its derivatives."""

from __future__ import annotations

import pytest
import torch
from systems import MODELS, SYSTEMS, build, random_bits
from torch import Tensor
from torch.testing import assert_close

from hamiltonians.exact.configurations import basis
from hamiltonians.lattices.lattice import Square
from nqs.vmc.optimizers.gradient import flat_parameters, real_parts
from nqs.vmc.optimizers.jacobian import Jacobian
from nqs.vmc.optimizers.joint_jacobian import JointJacobian
from nqs.wavefunctions.conditional import Conditional
from nqs.wavefunctions.contexts import ContextKind, coupling_groups
from nqs.wavefunctions.symmetrised import Symmetrised
from nqs.wavefunctions.wavefunction import Samples

LOW, HIGH = torch.tensor([0.0, 1.1]), torch.tensor([3.0, 1.6])
RECURRENT_DIGITS = ("gru-digits", "rnn2d-digits")
CONDITIONED = [model for model in MODELS if model not in RECURRENT_DIGITS]


def family(
    model: str, system: str = "chain-3", *, phase: bool = False, kind: ContextKind = "vector"
) -> Conditional:
    """Every parameter random, those of the context too; the second coupling belongs to a site."""
    base = build(model, *SYSTEMS[system], seed=3, phase=phase)
    generator = torch.Generator().manual_seed(8)
    psi = Conditional(base, LOW, HIGH, kind=kind, places=[(), (1,)], width=4, generator=generator)
    with torch.no_grad():
        for parameter in psi.context.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return psi


def couplings(share: float) -> Tensor:
    return (LOW + torch.tensor([share, 1 - share]) * (HIGH - LOW)).double()


def drawn(psi: Conditional, at: Tensor, n_rows: int) -> Samples:
    """Distinct rows with counts of their own."""
    generator = torch.Generator().manual_seed(5)
    return psi.moved_to(at).sample(n_rows, generator, unique=True)


KINDS: tuple[ContextKind, ...] = ("vector", "places", "encoder")
WITH_PLACES = ("factored", "lptf-gru")
"""Of the models under test, some whose positions are learned."""
PAIRS: list[tuple[str, ContextKind]] = [(model, "vector") for model in CONDITIONED]
PAIRS += [(model, kind) for model in WITH_PLACES for kind in KINDS[1:]]


@torch.no_grad()
@pytest.mark.parametrize(("model", "kind"), PAIRS)
def test_normalised_at_every_coupling(model: str, kind: ContextKind) -> None:
    """And another state at each."""
    psi = family(model, kind=kind)
    configs = basis(psi.n_sites)
    states = [psi.at(couplings(share)).log_psi(configs) for share in (0.1, 0.8)]
    for log_psi in states:
        assert_close((2 * log_psi.real).exp().sum(), torch.tensor(1.0).double())
    assert float((states[0] - states[1]).abs().max()) > 0.1


@torch.no_grad()
@pytest.mark.parametrize("model", ["factored", "gru", "lptf-gru"])
def test_at_is_a_copy_and_moved_to_is_not(model: str) -> None:
    psi, configs = family(model), random_bits(9, 7)
    here, there = couplings(0.2), couplings(0.7)
    kept = psi.at(here)
    expected = kept.log_psi(configs)
    assert psi.moved_to(here) is psi.moved_to(there)
    assert torch.equal(kept.log_psi(configs), expected)
    assert torch.equal(psi.moved_to(here).log_psi(configs), expected)
    before = flat_parameters(psi.base)
    psi.moved_to(there)
    assert torch.equal(flat_parameters(psi.base), before)


@torch.no_grad()
def test_begins_as_the_network_for_every_coupling() -> None:
    base, configs = build("factored", Square(3, 4), "2x2", seed=1), random_bits(9, 12)
    for kind in KINDS:
        psi = Conditional(base, LOW, HIGH, kind=kind)
        assert torch.equal(psi.at(couplings(0.9)).log_psi(configs), base.log_psi(configs))


@pytest.mark.parametrize("phase", [False, True])
@pytest.mark.parametrize(("model", "kind"), PAIRS)
def test_derivatives_are_those_of_autograd(model: str, kind: ContextKind, phase: bool) -> None:
    """By all parameters, the context's included, with the formula written out as a graph."""
    psi = family(model, phase=phase, kind=kind)
    at = couplings(0.3)
    samples = drawn(psi, at, 6)
    joint = JointJacobian(psi, [(at, samples)])
    names = [name for name, _ in psi.base.named_parameters()]
    moved = psi.context(psi.scaled(at))
    vectors = dict(zip(psi.tables, moved, strict=True))
    tensors = {
        name: parameter + vectors[name] if name in vectors else parameter
        for name, parameter in psi.base.named_parameters()
    }
    assert list(tensors) == names
    log_psi = torch.func.functional_call(
        _LogPsi(psi.base), {f"psi.{name}": x for name, x in tensors.items()}, (samples.configs,)
    )
    rows = []
    for part in real_parts(log_psi):
        found = [
            torch.autograd.grad(value, list(psi.parameters()), retain_graph=True, allow_unused=True)
            for value in part
        ]
        rows.append(torch.stack([_flat(each, psi) for each in found]))
    weights = samples.weights
    expected = torch.cat([weights.sqrt()[:, None] * (x - weights @ x) for x in rows])
    gram, image = joint.gram(flat_parameters(psi))
    assert_close(gram, expected @ expected.T)
    assert_close(image, expected @ flat_parameters(psi))
    a = torch.linspace(-1, 1, joint.n_rows, dtype=torch.float64)
    assert_close(joint.pull_back(a), a @ expected)


class _LogPsi(torch.nn.Module):
    def __init__(self, psi: torch.nn.Module) -> None:
        super().__init__()
        self.psi = psi

    def forward(self, configs: Tensor) -> Tensor:
        return self.psi.log_psi(configs)  # type: ignore[operator]


def _flat(gradients: tuple[Tensor | None, ...], psi: Conditional) -> Tensor:
    pairs = zip(gradients, psi.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def test_joint_system_of_several_couplings() -> None:
    """Rows of each coupling centred on its own mean, all weights together 1; both forms agree."""
    psi = family("factored", "square-2x2")
    parts = [(at, drawn(psi, at, 40)) for at in (couplings(0.2), couplings(0.9))]
    joint = JointJacobian(psi, parts)
    energies = [torch.randn(len(s.counts), dtype=torch.float64) for _, s in parts]
    centred = [x - s.weights @ x for x, (_, s) in zip(energies, parts, strict=True)]
    errors = joint.rows(centred)
    roots = torch.cat([(s.weights / 2).sqrt() for _, s in parts])
    assert_close(roots @ roots, torch.tensor(1.0).double())
    begin = 0
    for (at, samples), own in zip(parts, centred, strict=True):
        rows = slice(begin, begin + len(own))
        alone = Jacobian(psi.moved_to(at), samples)
        size = sum(p.numel() for p in psi.base.parameters())
        mean = roots[rows] @ joint._rows[rows]  # of the centred derivatives
        assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-12)
        (gram,) = alone.gram()
        block = joint._rows[rows, :size]
        assert_close(block @ block.T, gram / 2)
        assert_close(errors[rows], alone.rows(own) / 2**0.5)
        begin += len(own)
    gram, _ = joint.gram(flat_parameters(psi))
    metric, force = joint.metric(errors)
    shift = 0.01
    small = torch.linalg.solve(gram + shift * torch.eye(len(gram)), errors)
    large = torch.linalg.solve(metric + shift * torch.eye(len(metric)), force)
    assert_close(joint.pull_back(small), large)


@torch.no_grad()
def test_symmetrised() -> None:
    lattice = Square(3, 3)
    base = Symmetrised(build("factored", lattice, "3x1", seed=2), lattice.point_group())
    psi = Conditional(base, LOW, HIGH, generator=torch.Generator().manual_seed(1))
    for parameter in psi.context.parameters():
        parameter.normal_(generator=torch.Generator().manual_seed(2))
    here, configs = psi.at(couplings(0.4)), random_bits(9, 9)
    assert_close((2 * here.log_psi(basis(9))).exp().sum(), torch.tensor(1.0).double())
    for image in lattice.point_group().permutations:
        assert_close(here.log_psi(configs[:, image]), here.log_psi(configs))


def test_what_cannot_be_conditioned_is_refused() -> None:
    base = build("gru", *SYSTEMS["chain-3"])
    for low, high in (([1.0], [1.0]), ([2.0], [1.0]), ([0.0], [torch.inf]), ([], [])):
        with pytest.raises(ValueError, match=r"range|vectors"):
            Conditional(base, torch.tensor(low), torch.tensor(high))
    with pytest.raises(ValueError, match="positions=learned"):
        Conditional(base, LOW, HIGH, kind="places")
    for model in RECURRENT_DIGITS:
        with pytest.raises(ValueError, match="digit_decay"):
            Conditional(build(model, *SYSTEMS["square-2x3"]), LOW, HIGH)
    with pytest.raises(ValueError, match="2 couplings"):
        family("gru").at(torch.tensor([1.0]))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_biases_are_fitted(kind: ContextKind) -> None:
    """Those of a straight line in the couplings: by each place, by the mean of all places, or as
    far as an encoder's answers go. Nothing else moves."""
    base = build("factored", Square(3, 4), "2x2", seed=1)
    psi = Conditional(base, LOW, HIGH, kind=kind, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(3)
    x = 2 * torch.rand(4000, 2, generator=generator, dtype=torch.float64) - 1
    n_places, n_states = dict(base.named_parameters())[psi.tables[1]].shape
    slopes = torch.randn(2, n_places, n_states, generator=generator, dtype=torch.float64)
    biases = torch.einsum("kc,ctf->ktf", x, slopes) + 0.3
    psi.context.fit(x, biases)
    found = torch.stack([psi.context(each)[1].expand(n_places, n_states) for each in x[:50]])
    assert not any(bool(psi.context(each)[0].any()) for each in x[:50])
    wanted = biases[:50]
    if kind == "encoder":  # one layer for all places, but queries of their own
        left = (found - wanted).square().mean() / (wanted - 0.3).square().mean()
        assert float(left) < 0.9
    else:
        wanted = wanted if kind == "places" else wanted.mean(1, keepdim=True).expand_as(wanted)
        assert_close(found, wanted, rtol=0, atol=0.01)


def test_each_patch_reads_its_own_couplings() -> None:
    """Of sites, of bonds by either end, and those of all."""
    places = [(), (0,), (1,), (2,), (3,), (1, 2)]
    assert coupling_groups(places, [(0, 1), (2, 3)]).tolist() == [[0, 1, 2, 5], [0, 3, 4, 5]]
    assert coupling_groups(places, [(0,), (1, 2, 3)]).tolist() == [
        [0, 1, 6, 6, 6],
        [0, 2, 3, 4, 5],
    ]


@torch.no_grad()
def test_the_encoder_sees_where_a_coupling_is() -> None:
    """The same number at another site is another state; the groups are what tells them apart."""
    base = build("factored", Square(3, 4), "2x2", seed=1)
    at = torch.tensor([0.3, -0.8]).double()
    ends = torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0])
    states = []
    for places in ([(0,), (11,)], [(11,), (0,)]):
        generator = torch.Generator().manual_seed(4)
        psi = Conditional(base, *ends, kind="encoder", places=places, width=8, generator=generator)
        for parameter in psi.context.last.parameters():
            parameter.normal_(generator=generator)
        states += [psi.at(at), psi.at(at.flip(0))]
    configs = random_bits(20, 12)
    here, swapped, elsewhere, back = (psi.log_psi(configs) for psi in states)
    assert_close(here, back)
    assert_close(swapped, elsewhere)
    assert float((here - swapped).abs().max()) > 0.05
