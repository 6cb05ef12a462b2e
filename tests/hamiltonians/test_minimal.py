"""Hamiltonians with only the abstract members work everywhere in the house."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from minimal import Minimal

from hamiltonians import J1J2, XXZ, Hamiltonian, Heisenberg, PauliSum, Rydberg, TransverseFieldIsing
from hamiltonians.exact import dense_matrix, ground_state
from hamiltonians.invariance import check_invariance
from hamiltonians.lattices.lattice import Chain, Kagome, Square
from hamiltonians.lattices.symmetry_group import SymmetryGroup
from nqs.core.recurrent import Recurrent
from nqs.vmc.energies import Blurred
from nqs.vmc.evaluation import evaluate
from nqs.vmc.optimise import optimise
from nqs.vmc.optimizers.natural_gradient import NaturalGradient
from nqs.vmc.product_state import commutes_with_spin_flip, complex_product_state, product_state
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.patches import Patches

SQUARE, RING, LONG = Square(2, 4), Chain(6, True), Chain(14, True)
UNEVEN = [1.0, 1.0, 1.0, 1.5, 1.0, 1.0]
ONE_BOND = [1.0 + 1e-6 * (i == 5) for i in range(14)]

CASES: dict[str, tuple[Hamiltonian, SymmetryGroup]] = {
    "rydberg": (Rydberg(SQUARE, V=3.0), SQUARE.point_group()),
    "rydberg, wide": (Rydberg(RING, V=1e6, delta=UNEVEN), RING.space_group()),
    "drives": (Rydberg(RING, V=3.0, Omega=UNEVEN), RING.translations()),
    "signs": (Rydberg(RING, V=3.0, Omega=[1.0, -1.0] * 3), RING.translations()),
    "tfim": (TransverseFieldIsing(Kagome(2, 1), h=-0.5), Kagome(2, 1).point_group()),
    "rings of 14": (TransverseFieldIsing(LONG, J=ONE_BOND, h=0.7), LONG.space_group()),
    "marshall": (Heisenberg(RING, marshall=True), RING.space_group()),
    "field": (XXZ(RING, h=UNEVEN), RING.space_group()),
    "two shells": (J1J2(SQUARE, marshall=True), SQUARE.point_group()),
    "complex": (PauliSum(6, [(1.0, f"X{i} Y{(i + 1) % 6}") for i in range(6)]), RING.space_group()),
    "one flip": (PauliSum(6, [(-1.0, "X0"), (1.0, "Z0 Z3")]), RING.space_group()),
    "no flip": (PauliSum(6, [(1.0, "Z0 Z1")]), RING.space_group()),
    "nothing": (PauliSum(6, []), RING.space_group()),
}


def verdict(H: Hamiltonian, row: torch.Tensor, inverted: bool) -> bool:
    try:
        check_invariance(H, SymmetryGroup.generated_by([(row, inverted)]))
    except ValueError as error:
        assert "not invariant under" in str(error) and len(str(error)) < 400
        return False
    return True


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_elements_judge_symmetries_as_the_strings_do(case: str, inverted: bool) -> None:
    H, group = CASES[case]
    strings = PauliSum(H.n_sites, H.pauli_terms())  # without has_symmetry
    for row in group.permutations:
        expected = verdict(H, row, inverted)
        assert verdict(Minimal(H), row, inverted) == expected
        if not H.rotated.any():
            assert verdict(strings, row, inverted) == expected


def test_the_spin_flip_is_found_without_strings() -> None:
    for H, symmetric in (
        (TransverseFieldIsing(Chain(12), h=-0.3), True),
        (Heisenberg(Chain(12), h=[0.0] * 11 + [1e-3]), False),
        (Rydberg(Chain(12), 3.0), False),
    ):
        assert commutes_with_spin_flip(Minimal(H)) == symmetric
        chances = product_state(Minimal(H), torch.Generator().manual_seed(0), n_steps=5)
        assert bool((chances == 0.5).all()) == symmetric
        complex_product_state(Minimal(H), torch.Generator().manual_seed(0), n_steps=5)


def test_exact_levels_and_observables() -> None:
    for H in (Rydberg(Square(3, 3), 1e7, Omega=-1.0), XXZ(Chain(10), h=0.3)):
        ours, bare = ground_state(H), ground_state(Minimal(H))
        np.testing.assert_allclose(bare.energies, ours.energies, atol=1e-9)
        np.testing.assert_allclose(bare.density(), ours.density(), atol=1e-6)
        # a class without strings has no rotation to undo
        np.testing.assert_allclose(bare.sigma_x(), np.abs(ours.sigma_x()), atol=1e-6)
    H = Minimal(PauliSum(3, [(1.0, "Z0 Z1"), (-0.3, "Z2")]))
    assert ground_state(H).energy == -1.3 and H.conserves_magnetisation
    assert not H.rotated.any() and H.x_signs.tolist() == [1.0] * 3
    assert repr(H) == "Minimal(other=PauliSum(3 sites, 2 strings))" and H.to("cpu").n_sites == 3
    np.testing.assert_array_equal(dense_matrix(H), dense_matrix(H.other))


@pytest.mark.parametrize(
    "H",
    [
        Rydberg(Chain(4), 7.0),
        TransverseFieldIsing(Chain(4), h=-1.5),
        Rydberg(Chain(4), 2.0, delta=[1.0, 0.3, -1.0, 2.0], Omega=0.0),  # nothing flips
    ],
    ids=repr,
)
def test_from_product_state_to_evaluation(H: Hamiltonian) -> None:
    user, generator = Minimal(H), torch.Generator().manual_seed(0)
    patches = Patches.from_spec(Chain(4), "2")
    sizes = (patches.n_states + 1, patches.n_states, patches.n_patches)
    core = Recurrent(*sizes, d_model=8, cell="gru", generator=generator)
    psi = Autoregressive(core, patches).double()
    psi.set_product_state(product_state(user, generator))
    optimise(
        psi,
        user,
        NaturalGradient(0.2).prepare(user, n_steps=60),
        n_steps=60,
        n_samples=256,
        generator=generator,
        energies=Blurred(flip_fraction=0.5 if len(H.flips) else 0.0),
    )
    found = evaluate(psi, user, 2_000, generator, thorough=True)
    exact = ground_state(user)
    assert abs(found.energy - exact.energy) < 1e-2 * abs(exact.energy) + 5 * found.energy_error
