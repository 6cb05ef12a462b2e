"""The models that are compared, as train.py's own keys, and how their cost should grow."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class Model:
    """One row of the tables.

    Attributes:
        name: as --models takes it.
        arguments: what a user adds to `python train.py` for it; all else is the default.
        sequence: exponents of N for sampling and for ln psi at a fixed patch: of the dense layers
            and of the fastest growing term (attention).
        flips: the same for all N single-site flips.
    """

    name: str
    arguments: tuple[str, ...]
    sequence: Range
    flips: Range

    def theory(self, operation: str) -> Range:
        """Exponents of "sampling", "log_psi" or "flips"."""
        return self.flips if operation == "flips" else self.sequence


ATTENTION: tuple[Range, Range] = ((1.0, 2.0), (2.0, 3.0))
RECURRENT: tuple[Range, Range] = ((1.0, 1.0), (2.0, 2.0))

MODELS = {
    model.name: model
    for model in (
        Model("ptf", ("model=ptf",), *ATTENTION),
        Model("ptf-softmax", ("model=ptf", "model.attention=softmax"), *ATTENTION),
        Model("ptf-symmetric", ("model=ptf", "model.symmetry=point_group"), *ATTENTION),
        Model("lptf", ("model=lptf",), *ATTENTION),
        Model("lptf_ptf", ("model=lptf_ptf",), *ATTENTION),
        Model("rnn", ("model=rnn",), *RECURRENT),
        Model("rnn2d", ("model=rnn2d",), *RECURRENT),
        Model("linear_attention", ("model=linear_attention",), *RECURRENT),
        Model("ssm", ("model=ssm",), *RECURRENT),
    )
}
