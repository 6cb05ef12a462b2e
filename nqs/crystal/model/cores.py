"""The sequence model of a crystal run: one of the cores that serve the wavefunctions, as it is."""

from __future__ import annotations

import torch

from nqs.core.linear_attention import LinearTransformer
from nqs.core.recurrent import Recurrent
from nqs.core.sequence import SequenceModel
from nqs.core.state_space import StateSpace
from nqs.core.transformer import Transformer
from nqs.crystal.commands.config import ModelConfig
from nqs.errors import InputError


def build_core(
    config: ModelConfig, n_tokens: int, max_length: int, generator: torch.Generator
) -> SequenceModel:
    """Logits over n_tokens from n_tokens, up to max_length positions; parameters from generator.

    The transformer attends by softmax of queries and keys: what matters in a crystal is what was
    said, not where. Embeddings and positions start small beside the residual stream's updates.
    """
    sizes = (n_tokens, n_tokens, max_length)
    width, depth, heads = config.d_model, config.n_layers, config.n_heads
    d_ff = 4 * width if config.d_ff is None else config.d_ff
    try:
        if config.core == "transformer":
            return Transformer(
                *sizes,
                d_model=width,
                n_layers=depth,
                n_heads=heads,
                d_ff=d_ff,
                attention="softmax",
                generator=generator,
            )
        if config.core == "linear_attention":
            return LinearTransformer(
                *sizes,
                d_model=width,
                n_layers=depth,
                n_heads=heads,
                d_ff=d_ff,
                generator=generator,
            )
        if config.core == "ssm":
            return StateSpace(
                *sizes,
                d_model=width,
                n_layers=depth,
                d_state=width if config.d_state is None else config.d_state,
                d_ff=d_ff,
                generator=generator,
            )
        return Recurrent(
            *sizes,
            d_model=width,
            n_layers=depth,
            cell=config.core,
            residual=True,
            generator=generator,
        )
    except ValueError as error:
        raise InputError(f"model: {error}") from None
