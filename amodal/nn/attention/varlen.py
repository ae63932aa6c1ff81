"""Attention over a flat list of tokens, without padding.

Tokens that attend to the same tokens are put side by side, rows of equal length together, so that
every group is one call of `scaled_dot_product_attention` on a view of the list. The layout is
computed once a forward pass, not once a layer, and on the CPU: no step waits for lengths on a GPU.
A mask rule on sources only changes which keys a group of queries gets: keys that are masked are
never multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from amodal.core import Tokens
from amodal.core.column import spans
from amodal.core.host import host_copy, take, to_device
from amodal.nn.attention.cache import KeyValueCache
from amodal.nn.attention.cpu import attention_on_cpu, suits

MaskRule = Callable[[Sequence[str]], Tensor]
"""Names of S sources -> (S, S) bool, [query, key]: may the one read tokens of the other?"""

Rotate = Callable[[Tensor], Tensor]
"""(T, H, d) queries or keys -> the same, turned by the positions of their tokens."""


@dataclass(frozen=True)
class Group:
    """Runs of tokens of one length, which are one call of attention.

    Attributes:
        rows: Runs.
        queries: Tokens of a run.
        keys: Tokens that a run attends to; 0 if they are the run itself.
        mask: Which key each query attends to, (rows or 1, 1, queries, keys) bool; None for all of
            them, but see `Layout.causal`.
        bias: (rows or 1, H or 1, queries, keys) is added to the logits. It is -inf where a query
            does not attend to a key, so there is no mask beside it.
    """

    rows: int
    queries: int
    keys: int = 0
    mask: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """Which tokens stand together and what they attend to, as cu_seqlens are elsewhere.

    Attributes:
        order: (T,) the tokens in the order of the groups; None where they are in it.
        groups: They cover every token once.
        keys: (K,) the keys of groups with keys of their own, end to end, as places in that order.
        causal: Groups that attend to themselves do so in order: a token to those before it and
            itself.
        prefix: Keys and values (M, D) that no token made; their places come after those of the
            tokens.
        cache: Keys and values of tokens of earlier passes; their places come after those of the
            tokens.
        row: (T,) the row of each token in that order.
    """

    order: Tensor | None
    groups: tuple[Group, ...]
    keys: Tensor | None = None
    causal: bool = False
    prefix: tuple[Tensor, Tensor] | None = None
    cache: KeyValueCache | None = None
    row: Tensor | None = None

    @property
    def is_biased(self) -> bool:
        """Whether a bias is added to its logits."""
        return any(group.bias is not None for group in self.groups)

    def enter(self, x_TD: Tensor) -> Tensor:
        """A tensor with an entry for each token, in the order of the groups."""
        return x_TD if self.order is None else x_TD[self.order]

    def leave(self, x_TD: Tensor) -> Tensor:
        """The inverse of `enter`."""
        return x_TD if self.order is None else x_TD[torch.argsort(self.order)]


def layout_of(
    tokens: Tokens,
    mask_rule: MaskRule | None = None,
    causal: bool = False,
    cache: KeyValueCache | None = None,
) -> Layout:
    """The layout of some tokens.

    Args:
        tokens: Ordered by row; x is not read.
        mask_rule: Which sources attend to which; None for all.
        causal: A token attends only to those of its row that stand before it, and itself.
        cache: Tokens of earlier passes, which stand before these in their rows. These tokens are
            added to it, so a layout with a cache is for one pass.

    Raises:
        ValueError: Where a token has nothing to attend to.
    """
    if mask_rule is None and cache is None:
        return _whole_rows(tokens, causal)
    allowed = torch.ones(len(tokens.names), len(tokens.names), dtype=torch.bool)
    if mask_rule is not None:
        allowed = mask_rule(tokens.names).cpu()
    return _by_class(tokens, allowed, causal, cache)


def _whole_rows(tokens: Tokens, causal: bool) -> Layout:
    lengths = host_copy(tokens.lengths())
    rows, groups = _group(lengths, lengths)
    same = tuple(Group(g.rows, g.queries) for g in groups)
    order = None if len(groups) < 2 else to_device(_runs(rows, lengths), tokens.row.device)
    row = tokens.row if order is None else take(tokens.row, order)
    return Layout(order, same, causal=causal, row=row)


def _by_class(tokens: Tokens, allowed: Tensor, causal: bool, cache: KeyValueCache | None) -> Layout:
    """Queries whose sources read the same set of sources form a class; each class is grouped like
    whole rows."""
    device, row, source = tokens.row.device, host_copy(tokens.row), host_copy(tokens.source)
    number = torch.arange(len(row))
    place = number - torch.searchsorted(row, row)  # within the row, as `row` is sorted
    if cache is None:
        in_order, key_row, key_source, key_place = number, row, source, place
    else:  # keys are these tokens and those of the cache, which in their row stand before
        place = place + cache.lengths(tokens.size)[row]
        key_row, key_place = torch.cat([row, cache.row]), torch.cat([place, cache.place])
        key_source = torch.cat([source, cache.source_among(tokens.names)])
        # sorted by row, then by place: places of a row go on from the cache to these tokens
        by_place = torch.argsort(key_place, stable=True)
        in_order = by_place[torch.argsort(key_row[by_place], stable=True)]
        key_row, key_source, key_place = (t[in_order] for t in (key_row, key_source, key_place))

    order = [row[:0]]
    keys: list[Tensor] = []
    groups: list[Group] = []
    for readable in torch.unique(allowed, dim=0):  # a class: sources that read the same keys
        is_query, is_key = (allowed == readable).all(1)[source], readable[key_source]
        query, key = is_query.nonzero().squeeze(1), is_key.nonzero().squeeze(1)
        n_query, n_key = (
            torch.bincount(row[query], minlength=tokens.size),
            torch.bincount(key_row[key], minlength=tokens.size),
        )
        if bool(((n_query > 0) & (n_key == 0)).any()):
            raise ValueError(
                "the attention rule leaves some tokens nothing to read; let every source read "
                "itself"
            )
        rows, mine = _group(n_query, n_key)
        run, read = query[_runs(rows, n_query)], key[_runs(rows, n_key)]
        order.append(run)
        # queries that are their own keys need no copy of them, and `is_causal` instead of a mask
        if len(in_order) == len(row) and torch.equal(is_query, is_key):
            mine = [Group(g.rows, g.queries) for g in mine]
        else:
            keys.append(in_order[read])
            if causal:
                mine = _masked(mine, place[run], key_place[read], device)
        groups += mine
    whole = torch.cat(order)
    to_new = torch.arange(len(in_order))  # of what is cached the place stays
    to_new[whole] = number
    if cache is not None:
        cache.add(row[whole], source[whole], place[whole], tokens.names)
    return Layout(
        to_device(whole, device),
        tuple(groups),
        to_device(to_new[torch.cat(keys)], device) if keys else None,
        causal=causal,
        cache=cache,
        row=to_device(row[whole], device),
    )


def _masked(
    groups: Sequence[Group], query_place: Tensor, key_place: Tensor, device: torch.device
) -> list[Group]:
    """The groups, with a mask where a query must not read all of its keys because some come after
    it."""
    made = []
    queries = torch.split(query_place, [g.rows * g.queries for g in groups])
    keys = torch.split(key_place, [g.rows * g.keys for g in groups])
    for group, q, k in zip(groups, queries, keys):
        mask = k.view(group.rows, 1, 1, -1) <= q.view(group.rows, 1, -1, 1)
        if not bool(mask.any(3).all()):
            raise ValueError(
                "the attention rule and the order leave some tokens nothing to read; let every "
                "source read itself"
            )
        # no mask where it would hide nothing: on a GPU torch's flash kernel takes none
        made.append(group if bool(mask.all()) else replace(group, mask=to_device(mask, device)))
    return made


def _group(n_query: Tensor, n_key: Tensor) -> tuple[Tensor, list[Group]]:
    """The rows with queries, sorted by their numbers of queries and keys, and their groups."""
    shape = n_query * (n_key.max() + 1 if len(n_key) else 1) + n_key  # one number for a pair
    rows = torch.argsort(shape, stable=True)
    rows = rows[n_query[rows] > 0]
    _, counts = torch.unique_consecutive(shape[rows], return_counts=True)
    first = rows[counts.cumsum(0) - counts]
    return rows, [
        Group(*g) for g in zip(counts.tolist(), n_query[first].tolist(), n_key[first].tolist())
    ]


def _runs(rows: Tensor, lengths: Tensor) -> Tensor:
    """Where the tokens of `rows` are in a list that has `lengths` tokens of each row."""
    return spans((lengths.cumsum(0) - lengths)[rows], lengths[rows])


def attend(q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, layout: Layout) -> Tensor:
    """Attention in a layout.

    Args:
        q_THd: (T, H, d), in the order of the layout.
        k_THd, v_THd: (T + M, kv_heads, d), those of a prefix or cache behind; a head of them serves
            H / kv_heads heads of the queries.
        layout: The layout.

    Returns:
        (T, H, d).
    """
    if not layout.groups:
        return _nothing(q_THd, k_THd, v_THd)
    if _can_use_varlen(q_THd, k_THd, layout):
        return _varlen(q_THd, k_THd, v_THd, layout)
    # One split, not a slice for each group: the gradient of a slice is as large as the whole list.
    sizes = [g.rows * g.queries for g in layout.groups]
    chunks = zip(*(torch.split(t, [*sizes, len(t) - len(q_THd)]) for t in (q_THd, k_THd, v_THd)))
    read: Iterator[tuple[Tensor, ...]] = iter(())
    if layout.keys is not None:
        counts = [g.rows * g.keys for g in layout.groups if g.keys]
        read = zip(*(torch.split(t.index_select(0, layout.keys), counts) for t in (k_THd, v_THd)))
    parts = []
    for group, (q, k, v) in zip(layout.groups, chunks):
        if group.keys:
            k, v = next(read)
        q, k, v = (t.unflatten(0, (group.rows, -1)).transpose(1, 2) for t in (q, k, v))
        # `is_causal` compares numbers, so it is right only where queries are their own keys
        mixed = _mix(q, k, v, group, layout.causal and not group.keys)
        parts.append(mixed.transpose(1, 2).flatten(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _nothing(q_THd: Tensor, k_THd: Tensor, v_THd: Tensor) -> Tensor:
    """No token: nothing to mix, but what made q, k and v stays part of the graph, norms too.

    Ranks that have a gradient average it, so one of zeros must not be none.
    """
    heads = q_THd.shape[1]
    k, v = (t[: len(q_THd)].repeat_interleave(heads // t.shape[1], 1) for t in (k_THd, v_THd))
    return (q_THd + k).to(v.dtype) + v


def _mix(q: Tensor, k: Tensor, v: Tensor, group: Group, causal: bool) -> Tensor:
    if k.shape[1] != q.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    if group.bias is not None:  # a causal order is part of it
        return scaled_dot_product_attention(q, k, v, attn_mask=group.bias.to(q.dtype))
    if not causal and group.mask is None and suits(q, k):
        return attention_on_cpu(q, k, v)
    return scaled_dot_product_attention(q, k, v, attn_mask=group.mask, is_causal=causal)


def _can_use_varlen(q_THd: Tensor, k_THd: Tensor, layout: Layout) -> bool:
    """Many small groups, half precision and a GPU: one variable-length kernel instead of a launch
    for each length. From how many lengths on it is faster is not measured: 4 is a guess."""
    half = q_THd.dtype in (torch.bfloat16, torch.float16)
    plain = layout.keys is None and not layout.causal and q_THd.shape[1] == k_THd.shape[1]
    plain = plain and not layout.is_biased
    return (
        q_THd.is_cuda and half and len(layout.groups) > 4 and plain and _varlen_kernel() is not None
    )


def _varlen_kernel() -> Callable[..., Tensor] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # torch before 2.10
        return None
    return cast(Callable[..., Tensor], varlen_attn)


def _varlen(q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, layout: Layout) -> Tensor:
    lengths = [g.queries for g in layout.groups for _ in range(g.rows)]
    ends = to_device(torch.tensor([0, *lengths]).cumsum(0).to(torch.int32), q_THd.device)
    kernel = _varlen_kernel()
    assert kernel is not None
    return kernel(q_THd, k_THd, v_THd, ends, ends, max(lengths), max(lengths))


class Attention(nn.Module):
    """Multi-head self-attention of tokens in the order of a layout.

    Args:
        width: D.
        heads: H of the queries, which divide D.
        kv_heads: Heads of keys and values, each for H / kv_heads of the queries' (Ainslie et al.
            2023, arXiv:2305.13245); None for H.
        qk_norm: A norm of each query and key over its head (Henry et al. 2020, arXiv:2010.04245;
            Dehghani et al. 2023).
        norm_layer: Width -> that norm.

    Raises:
        ValueError: Where heads do not divide the width, or each other.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        qk_norm: bool = False,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        kv_heads = kv_heads or heads
        if heads % kv_heads:
            raise ValueError(
                f"{heads} heads are not divisible by {kv_heads} heads of keys and values"
            )
        self.heads, self.kv_heads = heads, kv_heads
        self.qkv: nn.Module = nn.Linear(width, width + 2 * kv_heads * (width // heads))
        self.q_norm, self.k_norm = (
            norm_layer(width // heads) if qk_norm else nn.Identity() for _ in range(2)
        )
        self.out = nn.Linear(width, width)

    def forward(self, x_TD: Tensor, layout: Layout, rotate: Rotate | None = None) -> Tensor:
        """(T, D) -> (T, D). rotate: turns queries and keys by positions."""
        qkv = self.qkv(x_TD)
        if self.kv_heads == self.heads:
            q, k, v = qkv.unflatten(1, (3, self.heads, -1)).unbind(1)
        else:
            parts = qkv.unflatten(1, (self.heads + 2 * self.kv_heads, -1))
            q, k, v = parts.split([self.heads, self.kv_heads, self.kv_heads], 1)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if layout.prefix is not None:
            more = (torch.unflatten(t.to(k.dtype), 1, (self.kv_heads, -1)) for t in layout.prefix)
            k, v = (torch.cat([t, added]) for t, added in zip((k, v), more))
        if layout.cache is not None:
            k, v = layout.cache.extend(self, k, v)
        mixed: Tensor = self.out(attend(q, k, v, layout).flatten(1))
        return mixed
