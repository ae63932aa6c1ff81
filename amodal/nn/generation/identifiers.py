"""Identifiers of records that a network can write token by token.

Tay et al. 2022, arXiv:2202.06991, 3.2 (atomic, numeric, paths of a cluster tree); Li et al. 2024,
arXiv:2402.10805, for images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amodal.core import AmodalError, Column, Ragged, row_seeds
from amodal.nn.generation.multi_source_decoder import MultiSourceDecoder
from amodal.nn.generation.trie import Trie, trie_search
from amodal.stats.kmeans import kmeans


def atomic(count: int) -> Tensor:
    """(count, 1): one token for each record."""
    return torch.arange(count)[:, None]


def numeric(count: int, base: int) -> Tensor:
    """(count, L): the digits of the number of each record, the highest first."""
    digits = 1
    while base**digits < count:
        digits += 1
    return torch.arange(count)[:, None] // base ** torch.arange(digits - 1, -1, -1) % base


def scattered(count: int, base: int, seed: int = 0) -> Tensor:
    """(count, L): digits of random numbers, so that similar records share digits only by chance."""
    codes = numeric(count, base)
    room = base ** codes.shape[1]
    drawn = torch.randperm(room, generator=torch.Generator().manual_seed(seed))[:count]
    return drawn[:, None] // base ** torch.arange(codes.shape[1] - 1, -1, -1) % base


def clustered(x_ND: Tensor, branch: int, leaf: int, levels: int) -> Tensor:
    """The path of each row through recursive k-means, then its place in its last cluster.

    Every level has tokens of its own: max(branch, leaf) of them. A cluster that k-means cannot
    split, or that would take too many levels, is cut evenly along its first principal component.

    Args:
        x_ND: Vectors of the records.
        branch: Clusters that a larger one is split into at most.
        leaf: Rows of a cluster that is not split.
        levels: Tokens of an identifier at most.

    Returns:
        (N, levels) int64, -1 behind the end.

    Raises:
        AmodalError: Where leaf * branch^(levels - 1) < N, branch < 2 or leaf < 1.
    """
    if branch < 2 or leaf < 1 or leaf * branch ** (levels - 1) < len(x_ND):
        raise AmodalError(
            f"{levels} levels of {branch} branches and leaves of {leaf} cannot name {len(x_ND)} "
            "rows"
        )
    x, codes = x_ND.double().cpu(), torch.full((len(x_ND), levels), -1)
    of_level = max(branch, leaf)

    def name(rows: Tensor, level: int) -> None:
        if len(rows) <= leaf:
            codes[rows, level] = level * of_level + torch.arange(len(rows))
            return
        most = leaf * branch ** (levels - level - 2)  # what a branch has room for
        label = kmeans(x[rows], branch, tries=1)[0]
        # too large for the levels below it, or not split at all, as where all vectors are equal
        if int(torch.bincount(label).max()) > min(most, len(rows) - 1):
            # (n, D), cut evenly along its first principal component, which is always possible
            spread = x[rows] - x[rows].mean(0)
            order = (spread @ torch.linalg.svd(spread, full_matrices=False)[2][0]).argsort(
                stable=True
            )
            label = torch.empty_like(label).index_copy(
                0, order, torch.arange(len(rows)) * branch // len(rows)
            )
        for number, cluster in enumerate(torch.unique(label)):
            members = rows[label == cluster]
            codes[members, level] = level * of_level + number
            name(members, level + 1)

    if len(x):
        name(torch.arange(len(x)), 0)
    return codes


KINDS: Sequence[str] = ("structured", "atomic", "numeric", "string")


def tokens_of(kind: str, *, branch: int, leaf: int, levels: int, most: int) -> int:
    """V: how many tokens identifiers of a kind are made of, for at most `most` records."""
    return {"structured": levels * max(branch, leaf), "atomic": most}.get(kind, branch)


def identifiers(kind: str, x_ND: Tensor, *, branch: int, leaf: int, levels: int) -> Tensor:
    """Identifiers of a kind.

    Args:
        kind: One of `KINDS`.
        x_ND: Vectors of the records.
        branch, leaf: See `clustered`; `branch` is also the base of digits.
        levels: Tokens of an identifier at most.

    Returns:
        (N, L) int64, L at most `levels`.

    Raises:
        AmodalError: Where so many tokens are too few.
    """
    count = len(x_ND)
    if kind == "structured":
        return clustered(x_ND, branch, leaf, levels)
    codes = (
        atomic(count)
        if kind == "atomic"
        else (numeric if kind == "numeric" else scattered)(count, branch)
    )
    if codes.shape[1] > levels:
        raise AmodalError(
            f"{count:,} records need identifiers of {codes.shape[1]} tokens, and there is room for "
            f"{levels}"
        )
    return codes


class Register(nn.Module):
    """Which record has which identifier.

    Args:
        most: Records at most.
        levels: Tokens of an identifier at most.

    Attributes:
        codes: (most, levels) int64, -1 for none.
        known: (most,) int64, hashes of the keys of records.
    """

    known: Tensor
    codes: Tensor

    def __init__(self, most: int, levels: int):
        super().__init__()
        self.register_buffer("known", torch.zeros(most, dtype=torch.int64))
        self.register_buffer("codes", torch.full((most, levels), -1))

    def enter(self, keys: Sequence[str]) -> None:
        """Set the records, in their order.

        Raises:
            AmodalError: If there are more than `most`.
        """
        if len(keys) > len(self.known):
            raise AmodalError(
                f"{len(keys):,} records, and room for {len(self.known):,}: give a larger `most`"
            )
        self.known[: len(keys)] = row_seeds(keys).to(self.known)

    def name(self, rows: Tensor, codes: Tensor) -> None:
        """Give the records `rows` these identifiers (n, L), and take those of all others."""
        self.codes.fill_(-1)[rows, : codes.shape[1]] = codes.to(self.codes)

    def of(self, keys: Sequence[str]) -> Tensor:
        """(B, levels) identifiers, -1 for records that are not known or have none."""
        # (B, most)
        match = row_seeds(keys).to(self.known)[:, None] == self.known
        return self.codes[match.int().argmax(1)].masked_fill(~match.any(1, keepdim=True), -1)

    def find(self, writer: IdentifierWriter, read: Column, *, beams: int) -> tuple[Column, Tensor]:
        """The records whose identifiers a query is likeliest to be followed by.

        Args:
            writer: Writes identifiers.
            read: Lists of tokens of N queries.
            beams: Records a query.

        Returns:
            (N, beams) numbers of records, best first, -1 where there are no more, and (N, beams)
            log probabilities of their identifiers.
        """
        named = (self.codes[:, 0] >= 0).nonzero().flatten()
        assert isinstance(read.values, Ragged)
        number, score = writer.find(read.values, Trie(self.codes[named]), beams=beams)
        # a number of -1 takes the last entry, which is -1
        return Column(torch.cat([named, named.new_full((1,), -1)])[number], read.rows), score


class IdentifierWriter(nn.Module):
    """A causal decoder of identifiers that reads the tokens of a query.

    Args:
        width_in: Of the query's tokens.
        tokens: V, of all identifiers.
        depth: Blocks.
        heads: Of attention.
    """

    def __init__(self, width_in: int, tokens: int, *, depth: int, heads: int):
        super().__init__()
        self.decoder = MultiSourceDecoder(
            width_in, width=width_in, depth=depth, heads=heads, sources=1, strategy="serial"
        )
        self.token, self.out = nn.Embedding(tokens, width_in), nn.Linear(width_in, tokens)

    def forward(self, read: Ragged, codes_NL: Tensor) -> Tensor:
        """The loss of each identifier.

        Args:
            read: N lists of tokens (length, width_in) of queries.
            codes_NL: (N, L) int64, -1 behind the end.

        Returns:
            (N, 2): the sum of -log p of the tokens of an identifier, and their number.
        """
        is_token = codes_NL >= 0
        lengths, flat = is_token.sum(1), codes_NL[is_token]
        states = self.decoder([read], Ragged(self.token(flat), lengths))
        last = states.lengths.cumsum(0) - 1
        before_token = torch.ones(len(states.flat), dtype=torch.bool, device=flat.device)
        before_token = before_token.index_fill(0, last, False)  # nothing follows the last state
        loss_T = cross_entropy(self.out(states.flat[before_token]), flat, reduction="none")
        owner = torch.repeat_interleave(torch.arange(len(lengths), device=flat.device), lengths)
        both = torch.stack([loss_T, torch.ones_like(loss_T)], 1)
        return both.new_zeros(len(lengths), 2).index_add(0, owner, both)

    @torch.no_grad()
    def find(self, read: Ragged, trie: Trie, *, beams: int) -> tuple[Tensor, Tensor]:
        """Numbers and log probabilities (N, beams), see `trie_search`."""

        decoding = self.decoder.begin([read])

        def step(before: Tensor, owner: Tensor, parent: Tensor) -> Tensor:
            last = self.token(before[:, -1]) if before.shape[1] else None
            out: Tensor = self.out(decoding.step(last, owner, parent)).log_softmax(1)
            return out

        return trie_search(step, trie, len(read), beams=beams)
