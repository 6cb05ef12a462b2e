"""Tables that share features: outputs, folding, gradients, and what is learned for tokens alike."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from nqs.core import SequenceModel, Transformer
from nqs.core.features import fold_features, share_features
from nqs.core.sequence import UncachedModel

N_TOKENS, LENGTH = 9, 6


def features() -> torch.Tensor:
    """Tokens 0..3 nothing, 4..8 numbers on a scale."""
    places = torch.arange(5) / 4
    known = torch.stack([torch.cos(torch.pi * k * places) for k in range(3)], dim=1)
    table = torch.zeros(N_TOKENS, 3)
    table[4:] = known / known.norm(dim=1, keepdim=True)
    return table


@pytest.fixture(params=["ptf", "rnn", "linear_attention", "ssm"])
def model(request: pytest.FixtureRequest) -> SequenceModel:
    keys = {"n_heads": 2} if request.param in ("ptf", "linear_attention") else {}
    kind = SequenceModel.kinds[request.param]
    generator = torch.Generator().manual_seed(0)
    return kind(N_TOKENS, N_TOKENS, LENGTH, d_model=16, generator=generator, **keys)


def test_folding_changes_no_output(model: SequenceModel) -> None:
    assert share_features(model, features(), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".map"):
                parameter.normal_(generator=torch.Generator().manual_seed(2))
    tokens = torch.randint(N_TOKENS, (5, LENGTH), generator=torch.Generator().manual_seed(3))
    expected, _ = model(tokens)
    shared = {name for name in model.state_dict() if "parametrizations" in name}
    fold_features(model)
    assert len(shared) == 4 and not any("parametrizations" in name for name in model.state_dict())
    assert_close(model(tokens)[0], expected, rtol=1e-6, atol=1e-6)


def test_the_start_keeps_lengths_and_logits() -> None:
    """Vectors of known tokens are as long as those of the others, within five errors (false alarm:
    5e-6) of a mean of 1; the last map is what it was, its features begin at 0."""
    wide = Transformer(N_TOKENS, N_TOKENS, LENGTH, d_model=2048, n_layers=1, n_heads=2, d_ff=8)
    head = wide.head.weight.detach().clone()
    assert share_features(wide, features(), torch.Generator().manual_seed(1))
    squares = wide.embedding.weight.detach().square().mean(1)
    assert_close(squares, torch.ones(N_TOKENS), rtol=0, atol=5 * (2 / 2048) ** 0.5)
    assert torch.equal(wide.head.weight, head)


def test_what_is_learned_of_a_number_holds_for_its_neighbours() -> None:
    """A step that raises token 6 raises 5 and 7 more than 4 and 8, and tokens of which nothing is
    known not at all beyond what the norm of the logits asks; without features only 6 rises."""
    rises = {}
    for shared in (True, False):
        model = Transformer(N_TOKENS, N_TOKENS, LENGTH, d_model=16, n_layers=1, n_heads=2,
                            generator=torch.Generator().manual_seed(0))  # fmt: skip
        if shared:
            share_features(model, features())
        x = torch.ones(16)
        before = model.head.weight.detach() @ x
        optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
        (-(model.head.weight @ x)[6]).backward()
        optimizer.step()
        rises[shared] = (model.head.weight @ x - before).tolist()
    with_features, without = rises[True], rises[False]
    assert with_features[6] > with_features[5] > with_features[4]
    assert with_features[6] > with_features[7] > with_features[8]
    assert with_features[0] == pytest.approx(0, abs=1e-6)
    assert [abs(rise) > 1e-6 for rise in without] == [token == 6 for token in range(N_TOKENS)]


def test_a_model_without_tables_is_left_alone() -> None:
    class Plain(UncachedModel):
        def __init__(self) -> None:
            super().__init__(N_TOKENS, N_TOKENS, LENGTH)
            self.head = torch.nn.Linear(1, N_TOKENS)

        def logits(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(tokens[..., None].float())

    assert not share_features(Plain(), features())
    other = Transformer(N_TOKENS + 1, N_TOKENS, LENGTH, d_model=16, n_layers=1, n_heads=2)
    assert not share_features(other, features())
