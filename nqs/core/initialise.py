"""Initial parameters drawn from a generator that is passed in, never from the ambient one."""

from __future__ import annotations

import torch
from torch import nn

from nqs.core.digits import DigitEmbedding
from nqs.core.positions import Positions


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Linear weights ~ N(0, 1/fan_in), biases 0, embeddings ~ N(0, 1), positions ~ N(0, 1/4).

    One-hot inputs and features of length 1 have fan-in 1, hence the unit variance of embeddings.
    Modules with a scheme of their own (residual projections, output heads, gates) adjust
    afterwards.
    """
    vectors = {module.map for module in model.modules() if isinstance(module, DigitEmbedding)}
    for module in model.modules():
        if module in vectors:
            module.weight.normal_(0.0, 1.0, generator=generator)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, 1.0, generator=generator)
        elif isinstance(module, Positions) and isinstance(module.table, nn.Parameter):
            module.table.normal_(0.0, 0.5, generator=generator)
