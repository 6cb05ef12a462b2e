"""Vectors and logits of tokens that share what is known of them.

Where tokens stand for things with properties (numbers with a size, chemical elements), a table with
a row for each learns nothing of one from another. With features phi (K, F) of the K tokens the rows
of an embedding, or of the last linear map, are

    w_k = t_k + sum_f phi_kf M_f,    t (K, D) a table, M (F, D) a map, both learned:

any table is still possible, but those come first that are alike for tokens that are alike. Once
learned, both fold into one table, so that nothing is slower.
"""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nqs.core.head import Head
from nqs.core.sequence import SequenceModel

SHARE: Final = 0.5
"""Of the embeddings' initial variance that comes from features."""


@final
class FromFeatures(nn.Module):
    """Adds features @ map to a table (K, D).

    Args:
        features: (K, F).
        initial: (F, D), of the map.
    """

    features: Tensor

    def __init__(self, features: Tensor, initial: Tensor) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.map = nn.Parameter(initial)

    def forward(self, table: Tensor) -> Tensor:
        """(K, D) -> (K, D)."""
        return table + (self.features @ self.map).to(table.dtype)


def share_features(
    model: SequenceModel, features: Tensor, generator: torch.Generator | None = None
) -> bool:
    """Lets the model's embedding and its last map share features (K, F) of its K tokens, each row
    of length 1 or 0; False, and nothing done, if it has no table of so many tokens.

    The map of the embedding begins at random, such that its vectors keep their length; that of the
    last one at 0.
    """
    embedding = getattr(model, "embedding", None)
    n_tokens, n_features = features.shape
    if not isinstance(embedding, nn.Embedding) or not isinstance(model.head, Head):
        return False
    if embedding.num_embeddings != n_tokens or model.head.out_features != n_tokens:
        return False
    given = features.to(embedding.weight)
    known = given.norm(dim=1, keepdim=True) > 0  # (K, 1)
    drawn = torch.randn(n_features, embedding.embedding_dim, generator=generator)
    with torch.no_grad():
        embedding.weight.mul_(torch.where(known, (1 - SHARE) ** 0.5, 1.0))
    start = SHARE**0.5 * drawn.to(embedding.weight)
    parametrize.register_parametrization(embedding, "weight", FromFeatures(given, start))
    zero = torch.zeros(n_features, model.head.in_features).to(embedding.weight)
    parametrize.register_parametrization(model.head, "weight", FromFeatures(given, zero))
    return True


def fold_features(model: SequenceModel) -> None:
    """Makes plain tables of tables that share features; the outputs stay the same."""
    for module in [*model.modules()]:
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
