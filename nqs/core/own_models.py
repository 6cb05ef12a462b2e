"""What is asked of a sequence model of anyone's before it is used."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nqs.core.digits import DigitHead
from nqs.core.sequence import SequenceModel
from nqs.errors import InputError


def check_model(model: SequenceModel, key: str) -> None:
    """Reads two sequences. Raises InputError, one line "KEY=MODULE:CLASS: ...", unless the logits
    (2, T, K) are real, finite, the same at each call and the same in two pieces, depend on the
    parameters, and do not depend on later tokens."""
    kind = type(model)
    whose = f"{key}={kind.__module__}:{kind.__qualname__}"
    _check_parts(model, whose)
    length, n_outputs = model.max_length, model.n_outputs
    device = next(model.parameters()).device
    draws = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.vocab_size, (2, length), generator=draws).to(device)
    with torch.enable_grad():
        first = _logits(model, tokens, whose)
    shape = (2, length, n_outputs)
    if first.shape != shape or not first.is_floating_point():
        has = f"have the shape {tuple(first.shape)} and the type {first.dtype}"
        raise InputError(f"{whose}: its logits {has}, must have {shape} and real numbers")
    if not bool(first.isfinite().all()):
        raise InputError(f"{whose}: its logits are not finite")
    if not first.requires_grad:
        raise InputError(f"{whose}: its logits do not depend on its parameters")
    with torch.no_grad():
        again = _logits(model, tokens, whose)
        if not _equal(again, first):
            raise InputError(f"{whose}: its logits differ from call to call")
        half = length // 2
        if not half:
            return
        later = tokens.clone()
        later[:, half:] = (later[:, half:] + 1) % model.vocab_size
        if not _equal(_logits(model, later, whose)[:, :half], first[:, :half]):
            raise InputError(f"{whose}: its logits [:, i] depend on tokens after [:, i]")
        pieces = _logits(model, tokens, whose, half)
        if pieces.shape != shape or not _equal(pieces, first):
            raise InputError(f"{whose}: its logits differ when it goes on from a state of `start`")


def _check_parts(model: SequenceModel, whose: str) -> None:
    """The parameters and the last linear map."""
    sizes = ("vocab_size", "n_outputs", "max_length")
    if "_parameters" not in vars(model) or not all(hasattr(model, name) for name in sizes):
        rule = "its constructor must call super().__init__(n_tokens, n_outputs, length)"
        raise InputError(f"{whose}: {rule}")
    head = getattr(model, "head", None)
    linear = isinstance(head, nn.Linear) and head.bias is not None
    if not linear and not isinstance(head, DigitHead):
        rule = "nqs.core.head.Head(width, n_outputs), the last linear map"
        raise InputError(f"{whose}: its constructor must set self.head = {rule}")
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise InputError(f"{whose}: the parameter {name} has no shape yet; no lazy layers")
        if not parameter.requires_grad:
            raise InputError(f"{whose}: the parameter {name} is frozen; make it a buffer")


def _logits(model: SequenceModel, tokens: Tensor, whose: str, half: int = 0) -> Tensor:
    """(2, T, K) of one call, or of two with `half` tokens in the first."""
    try:
        if half:
            state = model.start(len(tokens), tokens.shape[1])
            before, state = model(tokens[:, :half], state)
            after, _ = model(tokens[:, half:], state)
            return torch.cat([before, after], dim=1)
        logits, _ = model(tokens)
    except Exception as error:  # whatever a stranger's network raises
        reason = " ".join(str(error).split()) or "no reason given"
        raise InputError(f"{whose}: {type(error).__name__}: {reason}") from None
    if not isinstance(logits, Tensor):
        raise InputError(f"{whose}: its logits are no tensor")
    return logits


def _equal(one: Tensor, two: Tensor) -> bool:
    """But for rounding."""
    return torch.allclose(one, two.detach(), rtol=1e-3, atol=1e-4)
