"""Attention over a flat list of tokens, with no padding in it.

Tokens that read the same things are put side by side, rows of equal length together, so that every group is one call of
`scaled_dot_product_attention` on a view of the list. The order is found once for a forward pass, not once a layer. A rule on
sources ("who may read whom") only changes which keys a group of queries gets: keys that may not be read are never multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from amodal.core import Tokens
from amodal.core.column import spans
from amodal.nn.attention.cpu import CpuAttention, suits

Reads = Callable[[Sequence[str]], Tensor]
"""A rule: names of S sources -> (S, S) bool, [query, key]: may tokens of the one read tokens of the other?"""


@dataclass(frozen=True)
class Group:
    """`rows` runs of `queries` tokens each; every run reads `keys` tokens, or itself if `keys` is 0."""

    rows: int
    queries: int
    keys: int = 0


@dataclass(frozen=True)
class Plan:
    """order: (T,) the tokens in the order of the groups, None where they already are; groups: they cover every token once;
    keys: (K,) what the groups that do not read themselves read, end to end, as places in that order; causal: each token reads
    itself and those of its row that stand before it; given: keys and values (M, D) that no token made, whose places come after those
    of the tokens."""

    order: Tensor | None
    groups: tuple[Group, ...]
    keys: Tensor | None = None
    causal: bool = False
    given: tuple[Tensor, Tensor] | None = None


def plan(tokens: Tokens, reads: Reads | None = None, causal: bool = False) -> Plan:
    """How to attend: everything in a row reads everything in it, or what the rule allows; `causal`, without a rule: only what
    stands before it, and itself."""
    if causal and reads is not None:
        raise ValueError("a rule on sources and a causal order do not go together")
    return (
        replace(_plan_whole_rows(tokens), causal=causal)
        if reads is None
        else _plan_by_source(tokens, reads(tokens.names).to(tokens.row.device))
    )


def _plan_whole_rows(tokens: Tokens) -> Plan:
    lengths = tokens.lengths()
    rows, groups = _group(lengths, lengths)
    same = tuple(Group(g.rows, g.queries) for g in groups)
    return Plan(None if len(groups) < 2 else _runs(rows, lengths), same)


def _plan_by_source(tokens: Tokens, allowed: Tensor) -> Plan:
    """Queries whose sources read the same set of sources form a class; each class is grouped like whole rows."""
    order, keys, groups = [tokens.row[:0]], [], []
    for readable in torch.unique(allowed, dim=0):
        asks, answers = (allowed == readable).all(1)[tokens.source], readable[tokens.source]
        query, key = asks.nonzero().squeeze(1), answers.nonzero().squeeze(1)
        n_query, n_key = (torch.bincount(tokens.row[i], minlength=tokens.size) for i in (query, key))
        if bool(((n_query > 0) & (n_key == 0)).any()):
            raise ValueError("the attention rule leaves some tokens nothing to read; let every source read itself")
        rows, mine = _group(n_query, n_key)
        order.append(query[_runs(rows, n_query)])
        if torch.equal(asks, answers):
            mine = [Group(g.rows, g.queries) for g in mine]
        else:
            keys.append(key[_runs(rows, n_key)])
        groups += mine
    whole = torch.cat(order)
    place = torch.empty_like(whole)
    place[whole] = torch.arange(len(whole), device=whole.device)
    return Plan(whole, tuple(groups), place[torch.cat(keys)] if keys else None)


def with_prefix(how: Plan, tokens: Tokens, key_BPD: Tensor, value_BPD: Tensor) -> Plan:
    """The plan in which all tokens of a row also read P keys and values that are given for it (prefix-tuning, Li and Liang 2021,
    arXiv:2101.00190): they go neither through the projections of keys and values nor through rotary positions."""
    if how.causal:
        raise ValueError("keys that are given have no place in a causal order")
    row = tokens.row if how.order is None else tokens.row[how.order]
    count, start, read = key_BPD.shape[1], 0, 0
    number, keys, groups = torch.arange(count, device=row.device), [row[:0]], []
    for group in how.groups:
        stop = start + group.rows * group.queries
        if group.keys:
            own = how.keys[read : read + group.rows * group.keys].view(group.rows, -1)
            read += group.rows * group.keys
        else:
            own = torch.arange(start, stop, device=row.device).view(group.rows, -1)
        first = row[start : stop : group.queries, None]
        keys.append(torch.cat([len(row) + first * count + number, own], 1).flatten())
        groups.append(Group(group.rows, group.queries, own.shape[1] + count))
        start = stop
    given = key_BPD.flatten(0, 1), value_BPD.flatten(0, 1)
    return Plan(how.order, tuple(groups), torch.cat(keys), given=given)


def _group(n_query: Tensor, n_key: Tensor) -> tuple[Tensor, list[Group]]:
    """The rows that ask anything, those of the same numbers side by side, and the groups they form."""
    shape = n_query * (n_key.max() + 1 if len(n_key) else 1) + n_key
    rows = torch.argsort(shape, stable=True)
    rows = rows[n_query[rows] > 0]
    _, counts = torch.unique_consecutive(shape[rows], return_counts=True)
    first = rows[counts.cumsum(0) - counts]
    return rows, [Group(*g) for g in zip(counts.tolist(), n_query[first].tolist(), n_key[first].tolist())]


def _runs(rows: Tensor, lengths: Tensor) -> Tensor:
    """Where the tokens of `rows` are in a list that has `lengths` tokens of each row."""
    return spans((lengths.cumsum(0) - lengths)[rows], lengths[rows])


def attend(q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, how: Plan) -> Tensor:
    """(T, H, d) for tokens in the order of the plan."""
    if not how.groups:
        return v_THd[: len(q_THd)]  # no token: nothing to mix, and the projections stay part of the graph
    if _can_use_varlen(q_THd, how):
        return _varlen(q_THd, k_THd, v_THd, how)
    # One split, not a slice for each group: the gradient of a slice is as large as the whole list.
    sizes = [g.rows * g.queries for g in how.groups]
    own = zip(*(t.split([*sizes, len(t) - len(q_THd)]) for t in (q_THd, k_THd, v_THd)))
    read = iter(())
    if how.keys is not None:
        counts = [g.rows * g.keys for g in how.groups if g.keys]
        read = zip(*(t.index_select(0, how.keys).split(counts) for t in (k_THd, v_THd)))
    parts = []
    for group, (q, k, v) in zip(how.groups, own):
        if group.keys:
            k, v = next(read)
        q, k, v = (t.unflatten(0, (group.rows, -1)).transpose(1, 2) for t in (q, k, v))
        if not how.causal and suits(q, k):
            mixed = CpuAttention.apply(q, k, v)
        else:
            mixed = scaled_dot_product_attention(q, k, v, is_causal=how.causal)
        parts.append(mixed.transpose(1, 2).flatten(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _can_use_varlen(q_THd: Tensor, how: Plan) -> bool:
    """Many small groups, half precision and a GPU: one variable-length kernel beats one launch for each length."""
    half = q_THd.dtype in (torch.bfloat16, torch.float16)
    plain = how.keys is None and not how.causal
    return q_THd.is_cuda and half and len(how.groups) > 4 and plain and _varlen_kernel() is not None


def _varlen_kernel():
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # torch before 2.10
        return None
    return varlen_attn


def _varlen(q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, how: Plan) -> Tensor:
    lengths = [g.queries for g in how.groups for _ in range(g.rows)]
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

    def forward(self, x_TD: Tensor, how: Plan, rotate: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        q, k, v = self.qkv(x_TD).unflatten(1, (3, self.heads, -1)).unbind(1)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if how.given is not None:
            more = (t.to(k.dtype).unflatten(1, (self.heads, -1)) for t in how.given)
            k, v = (torch.cat([own, added]) for own, added in zip((k, v), more))
        return self.out(attend(q, k, v, how).flatten(1))
