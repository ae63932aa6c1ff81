"""Attention over a flat list of tokens, with no padding in it.

Tokens that read the same things are put side by side, rows of equal length together, so that every group is one call of
`scaled_dot_product_attention` on a view of the list. The order is found once for a forward pass, not once a layer. A rule on
sources ("who may read whom") only changes which keys a group of queries gets: keys that may not be read are never multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from amodal.core import Tokens
from amodal.core.column import spans

Reads = Callable[[Sequence[str]], Tensor]
"""A rule: names of S sources -> (S, S) bool, [query, key]: may tokens of the one read tokens of the other?"""


@dataclass(frozen=True)
class Group:
    """Queries start:stop of the ordered list are `rows` runs of equal length; `keys` (rows, L) are what each run reads,
    None if it reads itself."""

    start: int
    stop: int
    rows: int
    keys: Tensor | None


@dataclass(frozen=True)
class Plan:
    """order: (T,) the tokens in the order of the groups, None where they already are; groups cover every token once."""

    order: Tensor | None
    groups: tuple[Group, ...]


def plan(tokens: Tokens, reads: Reads | None = None) -> Plan:
    """How to attend: everything in a row reads everything in it, or what the rule allows."""
    return _plan_whole_rows(tokens) if reads is None else _plan_by_source(tokens, reads(tokens.names).to(tokens.row.device))


def _plan_whole_rows(tokens: Tokens) -> Plan:
    lengths = tokens.lengths()
    distinct, counts = torch.unique(lengths, return_counts=True)
    sizes = [(length, rows) for length, rows in zip(distinct.tolist(), counts.tolist()) if length]
    order = None
    if len(sizes) > 1:
        by_length = torch.argsort(lengths, stable=True)
        order = spans((lengths.cumsum(0) - lengths)[by_length], lengths[by_length])
    return Plan(order, _runs(sizes))


def _runs(sizes: Sequence[tuple[int, int]], start: int = 0) -> tuple[Group, ...]:
    groups = []
    for length, rows in sizes:
        groups.append(Group(start, start + length * rows, rows, None))
        start += length * rows
    return tuple(groups)


def _plan_by_source(tokens: Tokens, allowed: Tensor) -> Plan:
    """Queries whose sources read the same set of sources form a class; each class is planned like whole rows."""
    order, pending, start = [], [], 0
    for readable in torch.unique(allowed, dim=0):
        asks = (allowed == readable).all(1)[tokens.source]
        answers = readable[tokens.source]
        query = asks.nonzero().squeeze(1)
        if not len(query):
            continue
        key = answers.nonzero().squeeze(1)
        n_query = torch.bincount(tokens.row[query], minlength=tokens.size)
        n_key = torch.bincount(tokens.row[key], minlength=tokens.size)
        if bool(((n_query > 0) & (n_key == 0)).any()):
            raise ValueError("the attention rule leaves some tokens nothing to read; let every source read itself")
        shape = torch.stack([n_query, n_key], 1)
        itself = torch.equal(asks, answers)
        for want in torch.unique(shape[n_query > 0], dim=0):
            rows = (shape == want).all(1).nonzero().squeeze(1)
            mine = query[spans((n_query.cumsum(0) - n_query)[rows], n_query[rows])]
            theirs = None if itself else key[spans((n_key.cumsum(0) - n_key)[rows], n_key[rows])].view(len(rows), -1)
            order.append(mine)
            pending.append((start, start + len(mine), len(rows), theirs))
            start += len(mine)
    if not order:
        return Plan(None, ())
    whole = torch.cat(order)
    place = torch.empty_like(whole)
    place[whole] = torch.arange(len(whole), device=whole.device)
    return Plan(whole, tuple(Group(a, b, n, None if keys is None else place[keys]) for a, b, n, keys in pending))


def attend(q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, groups: Sequence[Group]) -> Tensor:
    """(T, H, d) for tokens in the order of the plan."""
    if not groups:
        return v_THd  # no token: nothing to mix, and the projections stay part of the graph
    if _can_use_varlen(q_THd, groups):
        return _varlen(q_THd, k_THd, v_THd, groups)
    parts = []
    for g in groups:
        q = q_THd[g.start : g.stop].unflatten(0, (g.rows, -1)).transpose(1, 2)
        if g.keys is None:
            k = k_THd[g.start : g.stop].unflatten(0, (g.rows, -1)).transpose(1, 2)
            v = v_THd[g.start : g.stop].unflatten(0, (g.rows, -1)).transpose(1, 2)
        else:
            k, v = (t.index_select(0, g.keys.flatten()).unflatten(0, g.keys.shape).transpose(1, 2) for t in (k_THd, v_THd))
        parts.append(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _can_use_varlen(q_THd: Tensor, groups: Sequence[Group]) -> bool:
    """Many small groups, half precision and a GPU: one variable-length kernel beats one launch for each length."""
    half = q_THd.dtype in (torch.bfloat16, torch.float16)
    return q_THd.is_cuda and half and len(groups) > 4 and all(g.keys is None for g in groups) and _varlen_kernel() is not None


def _varlen_kernel():
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # torch before 2.10
        return None
    return varlen_attn


def _varlen(q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, groups: Sequence[Group]) -> Tensor:
    lengths = [(g.stop - g.start) // g.rows for g in groups for _ in range(g.rows)]
    ends = torch.tensor([0, *lengths], device=q_THd.device).cumsum(0).to(torch.int32)
    return _varlen_kernel()(q_THd, k_THd, v_THd, ends, ends, max(lengths), max(lengths))


class Attention(nn.Module):
    """Multi-head self-attention on tokens in the order of a plan: (T, D) -> (T, D)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_TD: Tensor, groups: Sequence[Group], rotate: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        q, k, v = self.qkv(x_TD).unflatten(1, (3, self.heads, -1)).unbind(1)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        return self.out(attend(q, k, v, groups).flatten(1))
