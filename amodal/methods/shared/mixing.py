"""Mixing the values of two rows: tokens before the trunk travel from `features` to `losses`, where
the whole batch is at hand, are mixed there (`amodal.masking.mixing`) and go through the trunk. The
update stays that of one big batch; what it costs is that mixtures are not cut into micro-batches,
and that every process computes all of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Column, Ragged, Tokens, name_code
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits
from amodal.masking.mixing import Mixed, everywhere, grids
from amodal.methods.contract import Features
from amodal.methods.shared.matching import SEED
from amodal.methods.shared.regions import regions
from amodal.methods.shared.shapes import token_column
from amodal.nn.encoder import Encoder
from amodal.objectives.packed import row_index


def carried(content: Tokens) -> dict[str, Column]:
    """`SOURCE/tokens`, `SOURCE/place`, `SOURCE/grid`: the tokens of a source (`Encoder.content`),
    where they stand, the grid they make."""
    source, tokens = content.names[0], token_column(content)
    place = Column(Ragged(content.position, tokens.values.lengths), tokens.rows)
    return {
        f"{source}/tokens": tokens,
        f"{source}/place": place,
        f"{source}/grid": Column(grids(content), tokens.rows),
    }


def encoded(
    encoder: Encoder, features: Features, source: str, at: Tensor, tokens: Ragged
) -> Tokens:
    """Mixtures of the tokens of `source`, of the entries `at` of what was carried, at the end of
    the trunk. Each source alone."""
    place = features[f"{source}/place"].at(at)
    bag = Tokens.of(
        tokens.flat, place.rows, tokens.lengths, place.values.flat, source, features.size
    )
    return encoder.encode({source: encoder.add_positions(bag)})[source]


def mixed_up(
    encoder: Encoder, features: Features, source: str, at: Tensor, *, alpha: float
) -> tuple[Column, Mixed]:
    """mixup of the inputs of the entries `at` of what was carried: the trunk's vectors of `source`
    with theirs replaced, and how they were mixed. features: also those vectors and the seeds."""
    tokens = features[f"{source}/tokens"].at(at)
    seeds = hash_bits(features[SEED].values[tokens.rows], name_code(source))
    mixed = everywhere(tokens.values, features[f"{source}/grid"].values[at], seeds, alpha=alpha)
    own, new = (
        features[source],
        encoder.pools[source](encoded(encoder, features, source, at, mixed.tokens)),
    )
    return Column(own.values.index_copy(0, shared_rows(own, new)[0], new.values), own.rows), mixed


@torch.no_grad()
def fit(encoder: Encoder, context: Tokens, words: Column, size: int) -> Column:
    """Ragged of (L,): the cosine of each token, through its field's head, with the aligned vector
    of its row's words; 0 where a row has no words. context: of one source."""
    parts = regions(encoder, context)
    told = parts.values.flat.new_zeros(size, parts.values.flat.shape[1])
    told[words.rows] = normalize(words.values, dim=1).to(told.dtype)
    lengths = parts.values.lengths
    return Column(
        Ragged((parts.values.flat * told[parts.rows][row_index(lengths)]).sum(1), lengths),
        parts.rows,
    )
