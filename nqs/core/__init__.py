"""Sequence models: networks that predict the next of some integer tokens.

Those that can be chosen by name are imported here, for `SequenceModel.kinds` to know them.
"""

from nqs.core.large_patched import LargePatchedRecurrent, LargePatchedTransformer
from nqs.core.linear_attention import LinearTransformer
from nqs.core.recurrent import Recurrent
from nqs.core.recurrent2d import Recurrent2D
from nqs.core.sequence import SequenceModel
from nqs.core.state_space import StateSpace
from nqs.core.transformer import Transformer

__all__ = [
    "LargePatchedRecurrent",
    "LargePatchedTransformer",
    "LinearTransformer",
    "Recurrent",
    "Recurrent2D",
    "SequenceModel",
    "StateSpace",
    "Transformer",
]
