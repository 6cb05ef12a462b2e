"""Positive autoregressive wavefunction: |psi(s)|^2 = prod_t p(x_t | x_0 .. x_{t-1}) over patches.

ln psi = 1/2 sum_t ln p. Any SequenceModel gives the conditionals: it reads a start token and the
patches so far, its logits plus a bias of each patch and state go through a softmax over the states
that exist in the patch (a patch of p < P sites has 2^p of the K = 2^P states). Normalised exactly
(Sharir et al., arXiv:1902.04057; Hibat-Allah et al., arXiv:2002.02973; patches: Sprague & Czischek,
Commun. Phys. 7, 90 (2024)).

Letters: B configurations, N sites, T patches, K patch states, G flips, R rows of a launch.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from nqs.core.decoding import draw, split_counts
from nqs.core.positions import AddedTable
from nqs.core.sequence import SequenceModel, SequenceState
from nqs.wavefunctions.flips import flipped_log_probs
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.wavefunction import Samples, Wavefunction


@final
class Autoregressive(Wavefunction):
    """psi > 0 from a sequence model over patches.

    Args:
        core: model with vocab_size = K + 1 (token K starts the sequence), n_outputs = K and
            max_length >= T.
        patches: how sites are grouped.

    Raises ValueError if the sizes of core and patches do not fit.
    """

    closed: Tensor

    def __init__(self, core: SequenceModel, patches: Patches) -> None:
        super().__init__()
        n_states, n_patches = patches.n_states, patches.n_patches
        if (core.vocab_size, core.n_outputs) != (n_states + 1, n_states):
            raise ValueError(
                f"the core reads {core.vocab_size} tokens and writes {core.n_outputs}; these "
                f"patches need {n_states + 1} and {n_states}"
            )
        if core.max_length < n_patches:
            raise ValueError(
                f"max_length={core.max_length} of the core is below {n_patches} patches"
            )
        self.n_sites = patches.n_sites
        self.core = core
        self.patches = patches
        self.bias = AddedTable(core.head.weight.new_zeros(n_patches, n_states))
        closed = torch.zeros(n_patches, n_states).masked_fill(~patches.allowed(), -torch.inf)
        self.register_buffer("closed", closed, persistent=False)  # (T, K): 0 or -inf
        self.has_closed = not bool(patches.allowed().all())

    @torch.no_grad()
    def set_product_state(self, probabilities: Tensor, spread: float = 0.05) -> None:
        """Start from independent sites: bias = sum_j ln p(bit_j), head weights times `spread`.

        probabilities (N,): chance of bit 1 on each site, strictly between 0 and 1.
        """
        if probabilities.shape != (self.n_sites,) or not bool(
            ((probabilities > 0) & (probabilities < 1)).all()
        ):
            raise ValueError(f"probabilities must be {self.n_sites} numbers in the open (0, 1)")
        padded = torch.cat([probabilities, probabilities.new_full((1,), 0.5)]).to(torch.float64)
        one = padded[self.patches.sites].to(self.closed.device)[:, None, :]  # (T, 1, P)
        bits = self.patches.state_bits()[None]  # (1, K, P)
        inside = (self.patches.sites < self.n_sites)[:, None, :]  # (T, 1, P)
        log_p = torch.where(bits, one.log(), torch.log1p(-one)) * inside
        self.bias.table.copy_(log_p.sum(-1))
        self.core.head.weight.mul_(spread)
        self.core.head.bias.zero_()

    def inputs(self, tokens: Tensor) -> Tensor:
        """Start token and all patches but the last: tokens (B, T) -> (B, T)."""
        begin = tokens.new_full((tokens.shape[0], 1), self.patches.n_states)
        return torch.cat([begin, tokens[:, :-1]], dim=1)

    def conditionals(
        self, inputs: Tensor, state: SequenceState | None = None
    ) -> tuple[Tensor, Tensor, SequenceState]:
        """Unnormalised log-conditionals (R, S, K), their log-norms (R, S) and the state after.

        The patches predicted are those at the positions of `inputs` (R, S).
        logsumexp rather than log_softmax: the latter takes 6 times longer for K = 16 on CPU.
        """
        first = 0 if state is None else state.length
        logits, state = self.core(inputs, state)
        logits = self.bias(logits, first)
        if self.has_closed:
            logits = logits + self.closed[first : first + inputs.shape[1]]
        return logits, torch.logsumexp(logits, dim=-1), state

    def log_psi(self, configs: Tensor) -> Tensor:
        """See Wavefunction.log_psi; (B,) float64, conditionals in the parameters' precision."""
        tokens = self.patches.encode(configs)  # (B, T)
        logits, log_norms, _ = self.conditionals(self.inputs(tokens))
        chosen = logits.gather(2, tokens[:, :, None]).squeeze(2)  # (B, T)
        return 0.5 * (chosen - log_norms).sum(1, dtype=torch.float64)

    @torch.no_grad()
    def log_psi_flipped(
        self,
        configs: Tensor,
        flips: Tensor,
        needed: Tensor | None = None,
        *,
        max_rows: int = 32_768,
    ) -> Tensor:
        """See Wavefunction.log_psi_flipped; (B, G) float64."""
        return 0.5 * flipped_log_probs(self, configs, flips, needed, max_rows=max_rows)

    @torch.no_grad()
    def sample(
        self,
        n_samples: int,
        generator: torch.Generator,
        *,
        unique: bool = False,
        max_rows: int = 32_768,
    ) -> Samples:
        """See Wavefunction.sample. Never more than max_rows rows (or prefixes) at a time."""
        if n_samples < 1:
            raise ValueError(f"n_samples={n_samples} must be at least 1")
        if unique:
            leaves = self._walk_tree(n_samples, generator, max_rows)
        else:
            starts = range(0, n_samples, max_rows)
            leaves = [self._draw_rows(min(max_rows, n_samples - i), generator) for i in starts]
        tokens, counts, log_probs = (torch.cat(column) for column in zip(*leaves, strict=True))
        return Samples(self.patches.decode(tokens), counts, 0.5 * log_probs)

    def _next_log_probs(self, last: Tensor, state: SequenceState) -> tuple[Tensor, SequenceState]:
        """Normalised float64 ln p(x_t | ...) (R, K) after reading the tokens `last` (R,)."""
        logits, _, state = self.conditionals(last[:, None], state)
        return torch.log_softmax(logits[:, 0].to(torch.float64), dim=-1), state

    def _draw_rows(self, n_rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Independent rows: tokens (R, T), counts of 1 (R,), ln p (R,)."""
        device = self.closed.device
        state = self.core.start(n_rows, self.patches.n_patches)
        last = torch.full((n_rows,), self.patches.n_states, device=device)
        total = torch.zeros(n_rows, dtype=torch.float64, device=device)
        drawn = []
        for _ in range(self.patches.n_patches):
            log_probs, state = self._next_log_probs(last, state)
            last = draw(log_probs, generator)
            total += log_probs.gather(1, last[:, None]).squeeze(1)
            drawn.append(last)
        return torch.stack(drawn, dim=1), torch.ones_like(last), total

    def _walk_tree(
        self, n_samples: int, generator: torch.Generator, max_rows: int
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Distinct configurations: a list of leaves (tokens (U, T), counts (U,), ln p (U,)).

        Breadth first; a frontier that outgrows max_rows is cut in two, done one after the other.
        """
        device = self.closed.device
        root = (
            torch.full((1, 1), self.patches.n_states, device=device),  # start token
            torch.tensor([n_samples], device=device),
            torch.zeros(1, dtype=torch.float64, device=device),
            self.core.start(1, self.patches.n_patches),
        )
        frontiers, leaves = [root], []
        while frontiers:
            tokens, counts, total, state = frontiers.pop()
            if tokens.shape[1] == self.patches.n_patches + 1:
                leaves.append((tokens[:, 1:], counts, total))
                continue
            if len(counts) > max_rows:
                for rows in torch.arange(len(counts), device=device).chunk(2):
                    frontiers.append((tokens[rows], counts[rows], total[rows], state.select(rows)))
                continue
            log_probs, state = self._next_log_probs(tokens[:, -1], state)
            split = split_counts(counts, log_probs, generator)  # (R, K)
            rows, chosen = split.nonzero(as_tuple=True)
            tokens = torch.cat([tokens[rows], chosen[:, None]], dim=1)
            total = total[rows] + log_probs[rows, chosen]
            frontiers.append((tokens, split[rows, chosen], total, state.select(rows)))
        return leaves
