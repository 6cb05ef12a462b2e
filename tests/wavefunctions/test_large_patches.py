"""Large patches of every kind of lattice, cut into sub-patches; wavefunctions over them."""

from __future__ import annotations

import pytest
import torch
from systems import all_probabilities, random_bits, scattered
from torch.testing import assert_close

from hamiltonians.lattices.lattice import Chain, Honeycomb, Kagome, Lattice, Square, Triangular
from nqs.core.large_patched import LargePatched
from nqs.core.recurrent import Recurrent
from nqs.core.transformer import Transformer
from nqs.wavefunctions.autoregressive import Autoregressive
from nqs.wavefunctions.large_patches import LargePatches, Spec, large_patches

EXACT = {"rtol": 0.0, "atol": 1e-12}

# lattice, large patches, sub-patches; sites of each sub-patch by large patch
TABLE: list[tuple[Lattice, Spec, Spec, list[list[list[int]]]]] = [
    (Square(3, 3), "3x3", "3", [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]),
    (Square(2, 4), "2x4", "2x2", [[[0, 1, 4, 5], [2, 3, 6, 7]]]),
    (Square(2, 4), "2x4", "2", [[[0, 1], [2, 3], [4, 5], [6, 7]]]),
    (Square(3, 4), "3x3", "2x2", [[[0, 1, 4, 5], [2, 6], [8, 9], [10]], [[3, 7], [11]]]),
    (Square(3, 4), "5", "2x2", [[[0, 1, 4], [2, 3]], [[5, 8, 9], [6, 7]], [[10, 11]]]),
    (Square(3, 4), "2x2", "2x2", [[[0, 1, 4, 5]], [[2, 3, 6, 7]], [[8, 9]], [[10, 11]]]),
    (Triangular(3, 2), "2x2", "1x2", [[[0, 1], [2, 3]], [[4, 5]]]),
    (Kagome(2, 2), "1x2", "1x1", [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]),
    (Honeycomb(2, 2), "2x1", "1x1", [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]),
    (Chain(7), "4", "3", [[[0, 1, 2], [3]], [[4, 5, 6]]]),
    (Chain(7), 3, 1, [[[0], [1], [2]], [[3], [4], [5]], [[6]]]),
    (Square(2, 2), [[3, 0], [1, 2]], "1", [[[3], [0]], [[1], [2]]]),
    (Square(2, 2), [[3, 0, 1], [2]], [[2], [1], [3, 0]], [[[1], [3, 0]], [[2]]]),
]
WHOLE = ((Square(3, 4), "3x3", "2x2"), (Kagome(2, 2), "1x2", "1x1"), (scattered(10), "6", "2x2"))


def nested(large: LargePatches) -> list[list[list[int]]]:
    rows = [row[row < large.patches.n_sites].tolist() for row in large.patches.sites]
    begins = [sum(large.lengths[:t]) for t in range(len(large.lengths))]
    return [rows[b : b + n] for b, n in zip(begins, large.lengths, strict=True)]


@pytest.mark.parametrize(("lattice", "spec", "sub_spec", "expected"), TABLE)
def test_sites_of_each_sub_patch(
    lattice: Lattice, spec: Spec, sub_spec: Spec, expected: list[list[list[int]]]
) -> None:
    large = large_patches(lattice, spec, sub_spec)
    assert nested(large) == expected
    for centre, subs in zip(large.centres, expected, strict=True):
        sites = [site for sub in subs for site in sub]
        assert_close(centre, lattice.positions[sites].mean(0))


@pytest.mark.parametrize(
    ("lattice", "lengths", "largest"),
    [
        (Square(8, 8), [4] * 4, 4),
        (Square(4, 4), [2] * 2, 4),
        (Square(12, 12), [4] * 9, 4),
        (Square(5, 8), [4, 4, 2, 2], 4),
        (Square(2, 2), [1], 4),
        (Square(1, 1), [1], 1),
        (Chain(16), [2, 2], 4),
        (Chain(64), [4] * 4, 4),
        (Kagome(4, 4), [4] * 4, 3),
        (Honeycomb(8, 4), [4] * 4, 4),
        (scattered(5), [2], 4),
    ],
)
def test_auto(lattice: Lattice, lengths: list[int], largest: int) -> None:
    large = large_patches(lattice, "auto", "auto")
    assert list(large.lengths) == lengths
    assert int(large.patches.sizes.max()) == largest


@pytest.mark.parametrize(
    ("lattice", "spec", "sub_spec", "message"),
    [
        (Square(4, 4), "2x2", "3x3", "sub_patch='3x3' is larger than patch='2x2'"),
        (Square(4, 4), "2x4", "4x2", "sub_patch='4x2' is larger than patch='2x4'"),
        (Square(4, 4), "2x2", "5", "sub_patch='5' is larger than patch='2x2'"),
        (Square(4, 4), "5x4", "2x2", "patch='5x4' is larger than the lattice's 4x4 cells"),
        (Square(4, 4), "4x4", "4x4", "16 sites need a softmax"),
        (Square(4, 4), "4x4", "2by2", "sub_patch='2by2' is not understood"),
        (Square(4, 4), "4by4", "2x2", "patch='4by4' is not understood"),
        (Square(2, 2), "2", [[0, 2], [1, 3]], r"the sites \[0, 2\] lie in 2 large patches"),
        (Square(2, 2), "2", [[0, 1], [1, 3]], "exactly once"),
        (Square(2, 2), "auto", [[0, 1], [2, 3]], "patch=auto needs sub_patch=AxB"),
        (Square(2, 2), [[0, 1]], "1", "every site 0..3"),
    ],
)
def test_bad_specs(lattice: Lattice, spec: Spec, sub_spec: Spec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        large_patches(lattice, spec, sub_spec)


@pytest.mark.parametrize(("lattice", "spec", "sub_spec"), WHOLE)
@pytest.mark.parametrize("inner", ["gru", "ptf"])
def test_laws_on_lattices(inner: str, lattice: Lattice, spec: str, sub_spec: str) -> None:
    """Normalised, sampled and flipped exactly where large patches differ in their sub-patches."""
    large = large_patches(lattice, spec, sub_spec)
    n_states, longest = large.patches.n_states, max(large.lengths)
    sizes = (n_states, n_states, longest)
    sub = (
        Recurrent(*sizes, d_model=5)
        if inner == "gru"
        else Transformer(*sizes, d_model=8, attention="softmax")
    )
    sizes = (longest * n_states + 1, sub.embedding.embedding_dim, len(large.lengths))
    outer = Transformer(
        *sizes, d_model=8, attention="softmax", positions="grid", coordinates=large.centres
    )
    psi = Autoregressive(LargePatched(outer, sub, large.lengths), large.patches).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in psi.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).double()
    p = all_probabilities(psi)
    assert_close(p.sum(), torch.ones(()).double(), **EXACT)
    assert p.max() > 1.5 * p.mean()
    configs, flips = random_bits(5, psi.n_sites), torch.eye(psi.n_sites, dtype=torch.bool)
    with torch.no_grad():
        flipped = psi.log_psi((configs[:, None] ^ flips).flatten(0, 1)).view(5, -1)
        assert_close(psi.log_psi_flipped(configs, flips), flipped, **EXACT)
        for unique in (False, True):
            samples = psi.sample(500, generator, unique=unique)
            assert_close(samples.log_psi, psi.log_psi(samples.configs), **EXACT)
