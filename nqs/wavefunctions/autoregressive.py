"""Autoregressive wavefunction: |psi(s)|^2 = prod_t p(x_t | x_0 .. x_{t-1}) over patches.

ln psi = 1/2 sum_t ln p, or 1/2 sum_t ln p + i sum_t phi(x_t | x_0 .. x_{t-1}) with a phase
(Hibat-Allah et al., arXiv:2002.02973; here phi is not bounded). Any SequenceModel gives the
conditionals: it reads a start token and the patches so far, its logits plus a bias of each patch
and state go through a softmax over the states that exist in the patch (a patch of p < P sites has
2^p of the K = 2^P states). Normalised exactly (Sharir et al., arXiv:1902.04057; Hibat-Allah et al.;
patches: Sprague & Czischek, Commun. Phys. 7, 90 (2024)).

Letters: B configurations, N sites, T patches, K patch states, G flips, R rows of a launch.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from nqs.core.decoding import draw_tokens, split_counts
from nqs.core.digits import DigitHead
from nqs.core.native.network import OutputTables, compiled
from nqs.core.native.steps import StepState
from nqs.core.positions import AddedTable
from nqs.core.sequence import SequenceModel, SequenceState
from nqs.wavefunctions.flips import FlipPlan, flipped_log_psi
from nqs.wavefunctions.patches import Patches
from nqs.wavefunctions.sector import SectorState, cleared, log_completions, ones_read
from nqs.wavefunctions.wavefunction import Samples, Wavefunction

MANY_STATES = 64
"""States of a patch from which on their conditionals are normalised at once."""


@final
class Autoregressive(Wavefunction):
    """psi from a sequence model over patches: positive, or complex with a phase.

    Args:
        core: model with vocab_size = K + 1 (token K starts the sequence), n_outputs = K (2 K with
            a phase: K logits, then K phases) and max_length >= T.
        patches: how sites are grouped.
        n_up: number of 1 bits (magnetisation N - 2 n_up); psi vanishes for any other, ln psi is
            -inf there. None: any number.
        phase: whether psi is complex.

    Raises ValueError if the sizes of core and patches do not fit, or n_up is not in 0..N.
    """

    closed: Tensor
    sector: Tensor
    ones: Tensor

    def __init__(
        self,
        core: SequenceModel,
        patches: Patches,
        *,
        n_up: int | None = None,
        phase: bool = False,
    ) -> None:
        super().__init__()
        n_states, n_patches = patches.n_states, patches.n_patches
        n_outputs = 2 * n_states if phase else n_states
        if (core.vocab_size, core.n_outputs) != (n_states + 1, n_outputs):
            raise ValueError(
                f"the core reads {core.vocab_size} tokens and writes {core.n_outputs}; these "
                f"patches need {n_states + 1} and {n_outputs}"
            )
        if core.max_length < n_patches:
            raise ValueError(
                f"max_length={core.max_length} of the core is below {n_patches} patches"
            )
        self.n_sites = patches.n_sites
        self.core = core
        self.patches = patches
        self.n_up, self.phase = n_up, phase
        self._plan: FlipPlan | None = None
        self.bias = AddedTable(core.head.weight.new_zeros(n_patches, len(core.head.weight)))
        closed = torch.zeros(n_patches, n_outputs)
        closed[:, :n_states].masked_fill_(~patches.allowed(), -torch.inf)
        self.register_buffer("closed", closed, persistent=False)  # (T, K or 2 K): 0 or -inf
        self.has_closed = not bool(patches.allowed().all())
        if n_up is not None:
            if not 0 <= n_up <= self.n_sites:
                raise ValueError(f"n_up={n_up} must be in 0..{self.n_sites}, the number of sites")
            even = torch.full((self.n_sites,), 0.5)
            self.register_buffer("sector", self._sector_table(even))  # (T, n_up + 2, K or 2 K)
            ones = nn.functional.pad(patches.state_bits().sum(1), (0, 1))  # start token: none
            self.register_buffer("ones", ones, persistent=False)  # (K + 1,)

    def _kind(self) -> str:
        values = "complex" if self.phase else "positive"
        return f"{type(self.core).__name__}, {values}, {self.patches.n_patches} patches, "

    @torch.no_grad()
    def set_product_state(
        self, probabilities: Tensor, spread: float = 0.05, *, phases: Tensor | None = None
    ) -> None:
        """Start from independent sites: bias = sum_j ln p(bit_j), head weights times `spread`.

        probabilities (N,): chance of bit 1 on each site, strictly between 0 and 1. With n_up, the
        product state's projection on the sector. phases (N,): phase of bit 1 on each site, for
        wavefunctions with a phase; None is 0.
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
        self.bias.table.zero_()
        self._set_bias(0, log_p.sum(-1))
        if self.n_up is not None:
            self.sector.copy_(self._sector_table(probabilities))
        if phases is not None:
            if not self.phase or phases.shape != (self.n_sites,):
                raise ValueError(f"phases need phase=True and {self.n_sites} numbers")
            padded = torch.cat([phases, phases.new_zeros(1)]).to(torch.float64)
            turned = bits * padded[self.patches.sites].to(self.closed.device)[:, None, :]
            self._set_bias(1, turned.sum(-1))
        self.core.head.weight.mul_(spread)
        self.core.head.bias.zero_()

    def _set_bias(self, kind: int, values: Tensor) -> None:
        """Biases of the logits (kind 0) or the phases (1): sums over sites (T, K)."""
        head = self.core.head
        own = self.bias.table.chunk(2 if self.phase else 1, dim=1)[kind]  # (T, K or F)
        own.copy_(head.coefficients(values) if isinstance(head, DigitHead) else values)

    def _biased(self, logits: Tensor, first: int) -> Tensor:
        """Logits (R, S, K or 2 K) of the patches from `first` on, with their biases.

        Biases made of digits are added to zeros and expanded; with gradients in every row, so that
        they see each sample.
        """
        head = self.core.head
        if not isinstance(head, DigitHead):
            return self.bias(logits, first)
        n_copies = len(logits) if torch.is_grad_enabled() else 1
        zeros = logits.new_zeros(n_copies, logits.shape[1], len(head.weight))
        return logits + head.expand(self.bias(zeros, first))

    def _sector_table(self, probabilities: Tensor) -> Tensor:
        """`log_completions` in the parameters' precision, 0 for phases: (T, n_up + 2, K or 2 K)."""
        assert self.n_up is not None
        table = log_completions(self.patches, probabilities, self.n_up)
        table = nn.functional.pad(table, (0, self.closed.shape[1] - table.shape[2]))
        return table.to(self.bias.table)

    def start(self, n_rows: int) -> SequenceState:
        """An empty state for n_rows configurations."""
        state = self.core.start(n_rows, self.patches.n_patches)
        if self.n_up is None:
            return state
        return SectorState(state, self.ones.new_zeros(n_rows, 1))

    def prefix(self, state: SequenceState, length: int, *, repeats: bool = False) -> SequenceState:
        """See SequenceModel.prefix."""
        if not isinstance(state, SectorState):
            return self.core.prefix(state, length, repeats=repeats)
        inner = self.core.prefix(state.inner, length, repeats=repeats)
        return SectorState(inner, state.ones_until(length))

    def inputs(self, tokens: Tensor) -> Tensor:
        """Start token and all patches but the last: tokens (B, T) -> (B, T)."""
        begin = tokens.new_full((tokens.shape[0], 1), self.patches.n_states)
        return torch.cat([begin, tokens[:, :-1]], dim=1)

    def conditionals(
        self, inputs: Tensor, state: SequenceState | None = None
    ) -> tuple[Tensor, Tensor, SequenceState]:
        """Unnormalised log-conditionals (R, S, K), their log-norms (R, S) and the state after.

        With a phase the phases follow: (R, S, 2 K). The patches predicted are those at the
        positions of `inputs` (R, S).
        For small K logsumexp, as log_softmax would write K numbers to no use; from MANY_STATES on
        log_softmax, which makes one pass in cache of it: half the time on a CPU (norms are 0 then).
        """
        first = 0 if state is None else state.length
        counted = state if isinstance(state, SectorState) else None
        logits, after = self.core(inputs, state if counted is None else counted.inner)
        logits = self._biased(logits, first)
        places, ones = slice(first, first + inputs.shape[1]), None
        if self.n_up is not None:
            ones = ones_read(counted, self.ones[inputs])  # (R, S)
            after = SectorState(after, ones)
        return *self._closed(logits, places, ones), after

    def normalised(self, logits: Tensor, inputs: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The first two of `conditionals` from the core's logits (R, S, K or 2 K) at positions
        places (S,) of whole rows of inputs (R, T)."""
        ones = None if self.n_up is None else self.ones[inputs].cumsum(1)[:, places]
        head = self.core.head
        if isinstance(head, DigitHead):
            logits = logits + head.expand(self.bias.table[places])
        else:
            logits = self.bias.at(logits, places)
        return self._closed(logits, places, ones)

    def _closed(
        self, logits: Tensor, places: slice | Tensor, ones: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Logits (R, S, K or 2 K) closed where nothing may follow, and their log-norms (R, S).

        ones (R, S): 1 bits read so far, of wavefunctions with n_up.
        """
        if self.n_up is not None:
            assert ones is not None
            rows = torch.arange(self.patches.n_patches, device=logits.device)[places]
            logits = logits + self.sector[rows, ones.clamp(max=self.n_up + 1)]
        elif self.has_closed:
            logits = logits + self.closed[places]
        if self.patches.n_states >= MANY_STATES and not self.phase:
            return torch.log_softmax(logits, dim=-1), logits.new_zeros(logits.shape[:2])
        amplitudes = logits[..., : self.patches.n_states] if self.phase else logits
        return logits, torch.logsumexp(amplitudes, dim=-1)

    def output_tables(self) -> OutputTables:
        """What `conditionals` adds to the core's outputs, as one table."""
        head = self.core.head
        bias = self.bias.table  # (T, K or F)
        bias = head.expand(bias) if isinstance(head, DigitHead) else bias
        n_inputs = self.patches.n_states + 1
        if self.n_up is None:
            table = (bias + self.closed)[:, None]
            counts = torch.zeros(n_inputs, dtype=torch.int64)
        else:
            table, counts = bias[:, None] + self.sector, self.ones
        return OutputTables(table, counts, self.patches.n_states)

    def chosen(self, logits: Tensor, log_norms: Tensor, tokens: Tensor) -> Tensor:
        """1/2 ln p + i phi of the given patches: (R, S, K or 2 K), (R, S), (R, S) -> (R, S).

        Real without a phase; in the parameters' precision.
        """
        log_probs = logits.gather(-1, tokens[..., None]).squeeze(-1) - log_norms
        if not self.phase:
            return 0.5 * log_probs
        phases = logits.gather(-1, tokens[..., None] + self.patches.n_states).squeeze(-1)
        return torch.complex(0.5 * log_probs, phases)  # 0.5 (-inf + i phi) would be NaN

    @property
    def log_psi_dtype(self) -> torch.dtype:
        """Of ln psi: float64, complex128 with a phase."""
        return torch.complex128 if self.phase else torch.float64

    def log_psi(self, configs: Tensor) -> Tensor:
        """See Wavefunction.log_psi; (B,) float64 or complex128 (conditionals as the parameters)."""
        tokens = self.patches.encode(configs)  # (B, T)
        if self.core.branch_obstacle() is None:
            result = torch.empty(len(tokens), dtype=self.log_psi_dtype)
            self.core.branch_scorer().read(self.output_tables(), tokens, result)
            return cleared(result)
        logits, log_norms, _ = self.conditionals(self.inputs(tokens))
        return cleared(self.chosen(logits, log_norms, tokens).sum(1, dtype=self.log_psi_dtype))

    def flip_plan(self, flips: Tensor) -> FlipPlan:
        """The plan of flips (G, N), kept until others come: a Hamiltonian's are always the same.

        Raises ValueError for a flip that touches no site.
        """
        if self._plan is None or not self._plan.is_of(flips):
            self._plan = FlipPlan.of(self.patches, flips, walked=self.core.constant_state)
        return self._plan

    @torch.no_grad()
    def has_compiled_flips(self) -> bool:
        """See Wavefunction.has_compiled_flips."""
        return self.core.branch_obstacle() is None

    @torch.no_grad()
    def flip_pass(self) -> str:
        """See Wavefunction.flip_pass."""
        reason = self.core.branch_obstacle()
        if reason is None:
            return f"compiled ({compiled(self.core.head.weight.dtype).description})"
        return f"torch ({reason})"

    @torch.no_grad()
    def log_psi_flipped(
        self,
        configs: Tensor,
        flips: Tensor,
        needed: Tensor | None = None,
        *,
        max_rows: int = 32_768,
    ) -> Tensor:
        """See Wavefunction.log_psi_flipped; (B, G) float64 or complex128."""
        return cleared(flipped_log_psi(self, configs, flips, needed, max_rows=max_rows))

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
        tokens, counts, log_psi = (torch.cat(column) for column in zip(*leaves, strict=True))
        return Samples(self.patches.decode(tokens), counts, log_psi)

    def _drawing(self, n_rows: int) -> SequenceState:
        """`start`, in compiled code where the core has it."""
        state = self.core.compiled_start(self.output_tables(), n_rows)
        return self.start(n_rows) if state is None else state

    def _next(self, last: Tensor, state: SequenceState) -> tuple[Tensor, Tensor, SequenceState]:
        """ln p(x_t | ...) and 1/2 ln p + i phi, (R, K) each, after reading the tokens `last` (R,).

        Normalised in float64.
        """
        if isinstance(state, StepState):
            values = state.read(last).to(torch.float64)
        else:
            logits, _, state = self.conditionals(last[:, None], state)
            values = logits[:, 0].to(torch.float64)
        n_states = self.patches.n_states
        log_probs = torch.log_softmax(values[:, :n_states], dim=-1)
        if not self.phase:
            return log_probs, 0.5 * log_probs, state
        return log_probs, torch.complex(0.5 * log_probs, values[:, n_states:]), state

    def _draw_rows(self, n_rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Independent rows: tokens (R, T), counts of 1 (R,), ln psi (R,)."""
        device = self.closed.device
        state = self._drawing(n_rows)
        last = torch.full((n_rows,), self.patches.n_states, device=device)
        total = torch.zeros(n_rows, dtype=self.log_psi_dtype, device=device)
        columns = []
        for _ in range(self.patches.n_patches):
            log_probs, log_psi, state = self._next(last, state)
            last = draw_tokens(log_probs, generator)
            total += log_psi.gather(1, last[:, None]).squeeze(1)
            columns.append(last)
        return torch.stack(columns, dim=1), torch.ones_like(last), total

    def _walk_tree(
        self, n_samples: int, generator: torch.Generator, max_rows: int
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Distinct configurations: a list of leaves (tokens (U, T), counts (U,), ln psi (U,)).

        Breadth first; a frontier that outgrows max_rows is cut in two, done one after the other.
        """
        device = self.closed.device
        root = (
            torch.full((1, 1), self.patches.n_states, device=device),  # start token
            torch.tensor([n_samples], device=device),
            torch.zeros(1, dtype=self.log_psi_dtype, device=device),
            self._drawing(1),
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
            log_probs, log_psi, state = self._next(tokens[:, -1], state)
            split = split_counts(counts, log_probs, generator)  # (R, K)
            rows, chosen = split.nonzero(as_tuple=True)
            if len(rows) > len(counts) and tokens.shape[1] < self.patches.n_patches:
                state = state.branched(rows)  # else each row goes on as one, or none goes on
            tokens = torch.cat([tokens[rows], chosen[:, None]], dim=1)
            total = total[rows] + log_psi[rows, chosen]
            frontiers.append((tokens, split[rows, chosen], total, state))
        return leaves
