"""To and from the operators of NetKet (netket.org), which is imported only when it is asked for.

Both sides agree on the basis: NetKet's `Spin` lists its local states as [+1, -1], so bit 0 is
sigma^z = +1 and comes first, and NetKet's first site is the most significant one. `Qubit` has
the same matrices. Traps that the bridge takes care of:

- NetKet's `Ising` is H = -h sum sx + J sum sz sz: the other sign of J.
- Its `Heisenberg` is J sum sigma . sigma (Pauli matrices, not spins 1/2) and flips the sign of the
  xy part on bipartite graphs if sign_rule is set; the operator is taken as it is.
- What is rotated here (`Hamiltonian.rotated`) is rotated back: operators are those asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamiltonians.hamiltonian import Hamiltonian, PauliTerm
from hamiltonians.pauli import PauliSum

MAX_LOCAL_SITES = 8
"""Most sites one term of a LocalOperator may act on: it has 4^n Pauli strings."""

PAULI = {
    "I": np.eye(2, dtype=complex),
    "X": np.array([[0, 1], [1, 0]], dtype=complex),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1, -1]).astype(complex),
}


def to_netket(H: Hamiltonian) -> Any:
    """H as a netket.operator.PauliStrings on Spin(s=1/2, N=N).

    Raises ImportError without netket, NotImplementedError for a class without Pauli strings.
    """
    nk = _import_netket()
    terms = H.pauli_terms() or [(0.0, {})]
    strings = ["".join(sites.get(i, "I") for i in range(H.n_sites)) for _, sites in terms]
    weights = [coefficient for coefficient, _ in terms]
    dtype = complex if H.is_complex else float
    hilbert = nk.hilbert.Spin(s=1 / 2, N=H.n_sites)
    return nk.operator.PauliStrings(hilbert, strings, weights, dtype=dtype)


def from_netket(operator: Any) -> PauliSum:
    """A NetKet operator on spins 1/2 (or qubits) as a PauliSum.

    Takes Ising, PauliStrings, LocalOperator and what is built on it (Heisenberg, sums, products)
    and their Jax forms. Raises ImportError without netket, ValueError for other operators,
    constrained or larger local spaces, and operators that are not Hermitian.
    """
    nk = _import_netket()
    n_sites = _checked_size(operator)
    return PauliSum(n_sites, _real_terms(_terms(nk, operator)))


ComplexTerm = tuple[complex, dict[int, str]]


def _terms(nk: ModuleType, operator: Any) -> Iterator[ComplexTerm]:
    """Pauli strings of an operator, in no order, possibly with repetitions."""
    if isinstance(operator, _forms(nk, "SumOperator")):
        for coefficient, part in zip(operator.coefficients, operator.operators, strict=True):
            yield from ((complex(coefficient) * c, sites) for c, sites in _terms(nk, part))
    elif isinstance(operator, _forms(nk, "Ising")):
        yield from _ising_terms(operator)
    elif isinstance(operator, _forms(nk, "PauliStrings")):
        for coefficient, string in zip(operator.weights, operator.operators, strict=True):
            yield complex(coefficient), dict(enumerate(str(string)))
    elif isinstance(operator, _forms(nk, "LocalOperator")):
        yield from _local_terms(operator)
    else:
        raise ValueError(
            f"from_netket: given {type(operator).__name__}; it must be an Ising, PauliStrings or "
            "LocalOperator operator or a sum of them"
        )


def _forms(nk: ModuleType, name: str) -> Any:
    """The classes of one operator: NetKet's versions have some of plain, Jax and Numba forms."""
    names = (name, f"{name}Jax", f"{name}Numba")
    return tuple(getattr(nk.operator, n) for n in names if hasattr(nk.operator, n))


def _ising_terms(operator: Any) -> Iterator[ComplexTerm]:
    """-h sum sx + J sum sz sz, as NetKet's documentation defines it."""
    for i in range(operator.hilbert.size):
        yield -complex(operator.h), {i: "X"}
    for i, j in np.asarray(operator.edges).tolist():
        yield complex(operator.J), {i: "Z", j: "Z"}


def _local_terms(operator: Any) -> Iterator[ComplexTerm]:
    """Every local matrix as Pauli strings, and the constant."""
    yield complex(operator.constant), {}
    for matrix, sites in zip(operator.operators, operator.acting_on, strict=True):
        dense = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
        for coefficient, letters in pauli_decomposition(dense):
            yield coefficient, dict(zip(map(int, sites), letters, strict=True))


def pauli_decomposition(matrix: NDArray[Any]) -> Iterator[tuple[complex, str]]:
    """(c_P, P) with matrix = sum_P c_P P and c_P = Tr(P matrix) / 2^n, for a (2^n, 2^n) matrix.

    Raises ValueError for n > 8 and for sizes that are no power of two.
    """
    n = round(np.log2(len(matrix)))
    if matrix.shape != (2**n, 2**n) or n > MAX_LOCAL_SITES:
        raise ValueError(
            f"from_netket: a term has a matrix of shape {matrix.shape}; it must be "
            f"2^n x 2^n with n <= {MAX_LOCAL_SITES} sites"
        )
    rows = np.arange(2**n)
    for letters in itertools.product("IXYZ", repeat=n):
        mask, elements = 0, np.ones(1, dtype=complex)  # <s| P |s xor mask>
        for letter in letters:
            flips = letter in "XY"
            mask = 2 * mask + flips
            elements = np.kron(elements, PAULI[letter][(0, 1), (1, 0) if flips else (0, 1)])
        coefficient = elements @ matrix[rows ^ mask, rows] / 2**n
        if coefficient != 0:
            yield complex(coefficient), "".join(letters)


def _real_terms(terms: Iterator[ComplexTerm]) -> list[PauliTerm]:
    """The sum of equal strings, which are real if the operator is Hermitian."""
    total: dict[tuple[tuple[int, str], ...], complex] = {}
    for coefficient, sites in terms:
        key = tuple(sorted((site, letter) for site, letter in sites.items() if letter != "I"))
        total[key] = total.get(key, 0) + coefficient
    scale = max((abs(c) for c in total.values()), default=0.0)
    for key, c in total.items():
        if abs(c.imag) > 1e-12 * scale:
            raise ValueError(
                f"from_netket: the operator is not Hermitian: {dict(key)} has coefficient {c:.6g}"
            )
    return [(c.real, dict(key)) for key, c in total.items() if abs(c.real) > 1e-15 * scale]


def _checked_size(operator: Any) -> int:
    """N of an operator on an unconstrained space of two-level sites in the order [+1, -1]."""
    hilbert = getattr(operator, "hilbert", None)
    states = np.asarray(getattr(hilbert, "local_states", [])).tolist()
    if hilbert is None or states not in ([1, -1], [0, 1]):
        raise ValueError(
            f"from_netket: given {type(operator).__name__} on {hilbert!r}; it must act on "
            "Spin(s=1/2) with local states [1, -1] or on Qubit"
        )
    if getattr(hilbert, "constrained", False):
        raise ValueError(
            f"from_netket: {hilbert!r} is constrained; rebuild the operator without the constraint"
        )
    return int(hilbert.size)


def _import_netket() -> ModuleType:
    try:
        import netket
    except ImportError as error:
        raise ImportError(
            f"netket is not installed ({error}); pip install 'nqs[netket]' brings it"
        ) from None
    return netket
