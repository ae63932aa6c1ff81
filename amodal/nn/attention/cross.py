"""Cross-attention: queries from one list of tokens, keys from another, row by row.

Each block is self-attention among the queries, attention from the queries to the keys, and an MLP,
all pre-norm: the multimodal encoder of ALBEF (Li et al. 2021, arXiv:2107.07651, 3.1), and the
decoder of Vaswani et al. 2017 without its causal mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from amodal.core import Ragged
from amodal.core.column import spans
from amodal.core.host import host_copy, to_device
from amodal.nn.attention.bias import CrossBias
from amodal.nn.gradient_checkpointing import recomputed
from amodal.objectives.packed import row_index

BiasTables = tuple[Tensor | None, Tensor | None]
"""What is added to the logits among the queries, and from them to the keys."""


class CrossEncoder(nn.Module):
    """Blocks in which tokens of one list read those of another list of the same row.

    Args:
        width: D.
        depth: Blocks.
        heads: H.
        self_attention: Whether queries of a row see each other.
    """

    def __init__(self, width: int, depth: int, heads: int, *, self_attention: bool = True):
        super().__init__()
        self.blocks = nn.ModuleList(
            CrossBlock(width, heads, self_attention=self_attention) for _ in range(depth)
        )
        self.norm_keys, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.apply(_initialise)

    def forward(
        self,
        queries: Ragged,
        keys: Ragged,
        key_scale: Tensor | None = None,
        bias: CrossBias | None = None,
    ) -> Ragged:
        """The queries after all blocks and a norm.

        Args:
            queries, keys: N lists of tokens (length, D); list i reads list i. A list without keys
                reads nothing.
            key_scale: (sum of lengths,) a factor for each key, after the norm, which would undo it.
            bias: Is added to the logits of all blocks.

        Raises:
            ValueError: For different numbers of lists.
        """
        return self._run(queries, keys, key_scale, None, bias)[0]

    def with_weights(
        self, queries: Ragged, keys: Ragged, block: int = -1, bias: CrossBias | None = None
    ) -> tuple[Ragged, Tensor]:
        """As `forward`, and the weights with which the queries of one block read the keys.

        Args:
            queries, keys: As for `forward`.
            block: Its number; negative ones count from the last.
            bias: As for `forward`.

        Returns:
            The queries, and (N, H, Q, K), part of the graph. Q and K are the longest lists; entries
            behind the end of a row's own lists are zero or have no meaning.
        """
        out, weights = self._run(queries, keys, None, block % len(self.blocks), bias)
        assert weights is not None
        return out, weights

    def _run(
        self,
        queries: Ragged,
        keys: Ragged,
        key_scale: Tensor | None,
        watched: int | None,
        bias: CrossBias | None = None,
    ) -> tuple[Ragged, Tensor | None]:
        if len(queries) != len(keys):
            raise ValueError(
                f"{len(queries)} lists of queries and {len(keys)} of keys; row i reads row i"
            )
        query_layout, key_layout = PaddedLayout(queries.lengths), PaddedLayout(keys.lengths)
        x_TD, y_TD, weights = queries.flat, self.norm_keys(keys.flat), None
        if key_scale is not None:
            y_TD = y_TD * key_scale.to(y_TD.dtype)[:, None]
        tables = (None, None) if bias is None else bias.tables(query_layout, key_layout)
        for number, block in enumerate(self.blocks):
            x_TD, block_weights = block(
                x_TD, y_TD, query_layout, key_layout, number == watched, tables
            )
            weights = block_weights if number == watched else weights
        return Ragged(self.norm(x_TD), queries.lengths), weights


class CrossBlock(nn.Module):
    """Self-attention among the queries, attention to the keys, and an MLP, all pre-norm.

    Args:
        width: D.
        heads: H.
        mlp_ratio: Width of the MLP's hidden layer over D.
        self_attention: Whether there is any among the queries.
    """

    is_block = True

    def __init__(
        self, width: int, heads: int, mlp_ratio: float = 4.0, *, self_attention: bool = True
    ):
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.self_attention: PaddedAttention | None = None
        if self_attention:
            self.norm1, self.self_attention = nn.LayerNorm(width), PaddedAttention(width, heads)
        self.norm2, self.cross_attention = nn.LayerNorm(width), PaddedAttention(width, heads)
        self.norm3, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.Linear(hidden, width),
        )

    def forward(
        self,
        x_TD: Tensor,
        y_TD: Tensor,
        query_layout: PaddedLayout,
        key_layout: PaddedLayout,
        need_weights: bool,
        bias: BiasTables = (None, None),
    ) -> tuple[Tensor, Tensor | None]:
        """Queries (T, D) after the block, and the weights (N, H, Q, K) if they are needed.

        Args:
            x_TD, y_TD: Queries and keys.
            query_layout, key_layout: Of their lists.
            need_weights: Also return the attention weights.
            bias: See `CrossBias.tables`.
        """
        return recomputed(self.compute, x_TD, y_TD, query_layout, key_layout, need_weights, bias)

    def compute(
        self,
        x_TD: Tensor,
        y_TD: Tensor,
        query_layout: PaddedLayout,
        key_layout: PaddedLayout,
        need_weights: bool,
        bias: BiasTables = (None, None),
    ) -> tuple[Tensor, Tensor | None]:
        """`forward`, without gradient checkpointing."""
        among, across = bias
        if self.self_attention is not None:
            normed_TD, layout = self.norm1(x_TD), query_layout
            x_TD = (
                x_TD + self.self_attention(normed_TD, normed_TD, layout, layout, bias_NHQK=among)[0]
            )
        mixed_TD, weights = self.cross_attention(
            self.norm2(x_TD), y_TD, query_layout, key_layout, need_weights, bias_NHQK=across
        )
        x_TD = x_TD + mixed_TD
        return x_TD + self.down(gelu(self.up(self.norm3(x_TD)))), weights


class PaddedAttention(nn.Module):
    """Multi-head attention from one flat list of tokens to another.

    Linear maps see flat tokens; only products of queries and keys are padded.

    Args:
        width: D.
        heads: H, which divide D.

    Raises:
        ValueError: If they do not.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.query, self.key_value, self.out = (
            nn.Linear(width, n) for n in (width, 2 * width, width)
        )

    def forward(
        self,
        x_TD: Tensor,
        y_TD: Tensor,
        query_layout: PaddedLayout,
        key_layout: PaddedLayout,
        need_weights: bool = False,
        causal: bool = False,
        bias_NHQK: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """What each query reads.

        Args:
            x_TD: Queries of N lists, end to end.
            y_TD: Keys of N lists; list i of the queries reads list i of the keys.
            query_layout, key_layout: Of the lists.
            need_weights: Also return the attention weights.
            causal: For self-attention: a token reads those before it and itself.
            bias_NHQK: Is added to the logits; -inf behind the end of a list. Not with `causal`.

        Returns:
            (T, D), and the weights (N, H, Q, K) or None.
        """
        q = query_layout.pad(self.query(x_TD).unflatten(1, (self.heads, -1)))
        k, v = self.keys(y_TD, key_layout)
        if not q.numel() or not k.numel():
            # no queries, or nothing to read: all parameters stay part of the graph
            mixed = self.out(0 * query_layout.flat(q)) + 0 * (k.sum() + v.sum())
            return mixed, q.new_zeros(*q.shape[:3], k.shape[2]) if need_weights else None
        if not need_weights:
            # causal needs no mask: padding comes last, so no token of a list reads it
            mask = None if causal else key_layout.mask
            if bias_NHQK is not None:
                mask = bias_NHQK.to(q.dtype)
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
            return self.out(query_layout.flat(mixed)), None
        # written out, since torch's function does not return the weights
        logits = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        if bias_NHQK is not None:
            logits = logits + bias_NHQK
        elif key_layout.mask is not None:
            logits = logits.masked_fill(~key_layout.mask, -torch.inf)
        weights = logits.softmax(3)
        return self.out(query_layout.flat(weights @ v)), weights

    def keys(self, y_TD: Tensor, layout: PaddedLayout) -> tuple[Tensor, Tensor]:
        """Keys and values (N, H, L, d) of N lists, L the longest."""
        key_value = self.key_value(y_TD).unflatten(1, (2, self.heads, -1))
        k, v = (layout.pad(t) for t in key_value.unbind(1))
        return k, v

    def step(self, x_MD: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """One query for each of M lists, whose keys and values are there already.

        Args:
            x_MD: The queries.
            k, v: (M, H, L, d), as `keys` gives them.
            mask: (M, 1, 1, L) bool, which keys there are; None for all.

        Returns:
            (M, D).
        """
        q = self.query(x_MD).unflatten(1, (self.heads, -1))
        if not k.numel():
            nothing: Tensor = self.out(0 * q.flatten(1))
            return nothing
        mixed = scaled_dot_product_attention(q.unsqueeze(2), k, v, attn_mask=mask)
        out: Tensor = self.out(mixed.flatten(1))
        return out


class PaddedLayout:
    """How N lists of tokens, end to end, become a padded table and flat tokens again.

    Args:
        lengths: (N,) int64. They are read on the CPU, once for all blocks.

    Attributes:
        size: N.
        max_length: L, the longest list.
        mask: (N, 1, 1, L) bool, where a token is; None if all lists are as long.
    """

    def __init__(self, lengths: Tensor):
        device, lengths = lengths.device, host_copy(lengths)
        self.size, self.max_length = len(lengths), int(lengths.max()) if len(lengths) else 0
        self.row: Tensor | None = None
        self.within: Tensor | None = None
        self.mask: Tensor | None = None
        if self.size and int(lengths.min()) < self.max_length:
            self.row = to_device(torch.repeat_interleave(torch.arange(self.size), lengths), device)
            self.within = to_device(spans(torch.zeros_like(lengths), lengths), device)
            # an empty list has one entry, whose value is zero: softmax over nothing would be NaN
            is_token = torch.arange(self.max_length) < lengths.clamp(min=1)[:, None]
            self.mask = to_device(is_token[:, None, None], device)

    def pad(self, x_THd: Tensor) -> Tensor:
        """(T, H, d) -> (N, H, L, d), zero behind the end of a list."""
        if self.row is None or self.within is None:
            return torch.unflatten(x_THd, 0, (self.size, self.max_length)).transpose(1, 2)
        table = x_THd.new_zeros(self.size, self.max_length, *x_THd.shape[1:])
        return table.index_put((self.row, self.within), x_THd).transpose(1, 2)

    def flat(self, x_NHLd: Tensor) -> Tensor:
        """(N, H, L, d) -> (T, H d)."""
        table = x_NHLd.transpose(1, 2).flatten(2)
        return table.flatten(0, 1) if self.row is None else table[self.row, self.within]


def grad_cam(score_N: Tensor, weights_NHQK: Tensor, keep_graph: bool = False) -> Tensor:
    """How much the attention of each query to each key speaks for the score of its row.

    The mean over heads of relu(d score / d weight * weight). Selvaraju et al. 2017,
    arXiv:1610.02391, as ALBEF applies it (arXiv:2107.07651, 6.4).

    Args:
        score_N: (N,) computed from the weights.
        weights_NHQK: Of `CrossEncoder.with_weights`.
        keep_graph: For a loss of the same scores.

    Returns:
        (N, Q, K), without a gradient.
    """
    if not weights_NHQK.numel():
        return weights_NHQK.detach().sum(1)
    # a row's score depends on its own weights alone, so the gradient of the sum is that of each
    # score
    (slope,) = torch.autograd.grad(score_N.sum(), weights_NHQK, retain_graph=keep_graph)
    return (slope * weights_NHQK.detach()).relu().mean(1)


def join_lists(parts: Sequence[Ragged]) -> Ragged:
    """Lists of the same N rows, joined row by row: tokens of the first part, then of the second."""
    if len(parts) == 1:
        return parts[0]
    device, lengths = parts[0].lengths.device, [host_copy(p.lengths) for p in parts]
    row = [torch.repeat_interleave(torch.arange(len(n)), n) for n in lengths]
    # stable: within a row tokens of the first part stay before those of the second
    order = to_device(torch.argsort(torch.cat(row), stable=True), device)
    flat = torch.cat([p.flat for p in parts])[order]
    return Ragged(flat, to_device(torch.stack(lengths).sum(0), device))


def mean_token(tokens: Ragged) -> Tensor:
    """(N, D) the mean token of each list, zero for an empty one."""
    row = row_index(tokens.lengths)
    total = tokens.flat.new_zeros(len(tokens), tokens.flat.shape[1]).index_add(0, row, tokens.flat)
    return total / tokens.lengths.clamp(min=1).unsqueeze(1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
