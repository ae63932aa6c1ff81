"""One field reads another: queries from one list of tokens, keys from a second, row by row.

Each block is self-attention among the queries, attention from the queries to the keys, and an MLP,
all with the norm before: the multimodal encoder of ALBEF (Li et al. 2021, arXiv:2107.07651, 3.1)
and the decoder of Vaswani et al. 2017 without its causal mask. Linear maps see flat tokens; only
the products of queries and keys are padded, and only where lengths differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from amodal.core import Ragged
from amodal.core.column import spans
from amodal.core.host import host_copy, to_device
from amodal.nn.gradient_checkpointing import recomputed
from amodal.objectives.packed import row_index


class CrossEncoder(nn.Module):
    """Tokens of N rows that have read other tokens of the same rows."""

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.blocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(depth))
        self.norm_keys, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.apply(_initialise)

    def forward(
        self,
        queries: Ragged,
        keys: Ragged,
        weigh: int | None = None,
        strength: Tensor | None = None,
    ) -> Ragged | tuple[Ragged, Tensor]:
        """queries, keys: N lists of tokens (length, D); row i reads row i. A row without keys reads
        nothing.

        weigh: also return the weights (N, H, Q, K) with which the queries of this block (from 0, or
        -1 for the last) read the keys, as part of the graph; Q and K are the longest lists, entries
        beyond a row's own are zero or without meaning. strength: a factor for each key (sum of
        lengths,), behind the norm that would undo it. Raises ValueError for unequal numbers of
        rows.
        """
        if len(queries) != len(keys):
            raise ValueError(
                f"{len(queries)} lists of queries and {len(keys)} of keys; row i reads row i"
            )
        asks, answers = Places(queries.lengths), Places(keys.lengths)
        x_TD, y_TD, weights = queries.flat, self.norm_keys(keys.flat), None
        if strength is not None:
            y_TD = y_TD * strength.to(y_TD.dtype)[:, None]
        watched = None if weigh is None else weigh % len(self.blocks)
        for number, block in enumerate(self.blocks):
            x_TD, seen = block(x_TD, y_TD, asks, answers, number == watched)
            weights = seen if number == watched else weights
        out = Ragged(self.norm(x_TD), queries.lengths)
        return out if weigh is None else (out, weights)


class CrossBlock(nn.Module):
    """Self-attention among the queries, attention to the keys, and an MLP, each with the norm
    before."""

    is_block = True

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1, self.own = nn.LayerNorm(width), Read(width, heads)
        self.norm2, self.other = nn.LayerNorm(width), Read(width, heads)
        self.norm3, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.Linear(hidden, width),
        )

    def forward(
        self, x_TD, y_TD, asks: Places, answers: Places, weigh: bool
    ) -> tuple[Tensor, Tensor | None]:
        return recomputed(self.compute, x_TD, y_TD, asks, answers, weigh)

    def compute(
        self, x_TD, y_TD, asks: Places, answers: Places, weigh: bool
    ) -> tuple[Tensor, Tensor | None]:
        own = self.norm1(x_TD)
        x_TD = x_TD + self.own(own, own, asks, asks)[0]
        read, weights = self.other(self.norm2(x_TD), y_TD, asks, answers, weigh)
        x_TD = x_TD + read
        return x_TD + self.down(gelu(self.up(self.norm3(x_TD)))), weights


class Read(nn.Module):
    """Multi-head attention from one flat list of tokens to another."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.query, self.key_value, self.out = (
            nn.Linear(width, n) for n in (width, 2 * width, width)
        )

    def forward(
        self, x_TD, y_TD, asks: Places, answers: Places, weigh: bool = False, causal: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """causal: where a list reads itself, each token reads those before it and itself."""
        q = asks.pad(self.query(x_TD).unflatten(1, (self.heads, -1)))
        k, v = self.keys(y_TD, answers)
        if (
            not q.numel() or not k.numel()
        ):  # nobody asks, or there is nothing to read; all stays part of the graph
            read = self.out(0 * asks.flat(q)) + 0 * (k.sum() + v.sum())
            return read, q.new_zeros(*q.shape[:3], k.shape[2]) if weigh else None
        if not weigh:
            mask = (
                None if causal else answers.mask
            )  # what is not there comes last, and no token of the list reads it
            return self.out(
                asks.flat(scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal))
            ), None
        logits = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        if answers.mask is not None:
            logits = logits.masked_fill(~answers.mask, -torch.inf)
        weights = logits.softmax(3)
        return self.out(asks.flat(weights @ v)), weights

    def keys(self, y_TD: Tensor, answers: Places) -> tuple[Tensor, Tensor]:
        """Keys and values (N, H, longest, d) of N lists."""
        k, v = (
            answers.pad(t) for t in self.key_value(y_TD).unflatten(1, (2, self.heads, -1)).unbind(1)
        )
        return k, v

    def read(self, x_MD: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """(M, D), where each of M lists has one token, and reads keys and values (M, H, L, d) that
        are there already."""
        q = self.query(x_MD).unflatten(1, (self.heads, -1))
        if not k.numel():
            return self.out(0 * q.flatten(1))
        return self.out(
            scaled_dot_product_attention(q.unsqueeze(2), k, v, attn_mask=mask).flatten(1)
        )


class Places:
    """Where the tokens of N lists of these lengths stand in a table with a line for each list."""

    def __init__(self, lengths: Tensor):
        device, lengths = lengths.device, host_copy(lengths)
        self.size, self.longest = len(lengths), int(lengths.max()) if len(lengths) else 0
        self.row = self.within = self.mask = None
        if self.size and int(lengths.min()) < self.longest:
            self.row = to_device(torch.repeat_interleave(torch.arange(self.size), lengths), device)
            self.within = to_device(spans(torch.zeros_like(lengths), lengths), device)
            # a list without a token has one place, whose value is zero
            there = torch.arange(self.longest) < lengths.clamp(min=1)[:, None]
            self.mask = to_device(there[:, None, None], device)

    def pad(self, x_THd: Tensor) -> Tensor:
        """(N, H, longest, d)"""
        if self.row is None:
            return x_THd.unflatten(0, (self.size, self.longest)).transpose(1, 2)
        table = x_THd.new_zeros(self.size, self.longest, *x_THd.shape[1:])
        return table.index_put((self.row, self.within), x_THd).transpose(1, 2)

    def flat(self, x_NHLd: Tensor) -> Tensor:
        """(T, H d)"""
        table = x_NHLd.transpose(1, 2).flatten(2)
        return table.flatten(0, 1) if self.row is None else table[self.row, self.within]


def grad_cam(score_N: Tensor, weights_NHQK: Tensor, keep: bool = False) -> Tensor:
    """(N, Q, K), no gradient: how much each query's reading of each key speaks for the score of its
    row, the mean over heads of relu(d score / d weight * weight). Selvaraju et al. 2017,
    arXiv:1610.02391, as ALBEF (arXiv:2107.07651, 6.4) applies it. keep: the graph, for a loss of
    the same scores."""
    if not weights_NHQK.numel():
        return weights_NHQK.detach().sum(1)
    (slope,) = torch.autograd.grad(score_N.sum(), weights_NHQK, retain_graph=keep)
    return (slope * weights_NHQK.detach()).relu().mean(1)


def side_by_side(parts: Sequence[Ragged]) -> Ragged:
    """Lists of the same N rows, joined row by row: the tokens of the first part, then of the
    second, …"""
    if len(parts) == 1:
        return parts[0]
    device, lengths = parts[0].lengths.device, [host_copy(p.lengths) for p in parts]
    row = [torch.repeat_interleave(torch.arange(len(n)), n) for n in lengths]
    order = to_device(torch.argsort(torch.cat(row), stable=True), device)
    return Ragged(
        torch.cat([p.flat for p in parts])[order], to_device(torch.stack(lengths).sum(0), device)
    )


def mean_token(tokens: Ragged) -> Tensor:
    """(N, D) the mean token of each list, zero where there is none."""
    row = row_index(tokens.lengths)
    total = tokens.flat.new_zeros(len(tokens), tokens.flat.shape[1]).index_add(0, row, tokens.flat)
    return total / tokens.lengths.clamp(min=1).unsqueeze(1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
