"""Mixing the values of two rows (mixup).

Tokens before the trunk travel from `features` to `losses`, where the whole batch is at hand, are
mixed there (`amodal.masking.mixing`) and go through the trunk. The update stays that of one big
batch. The cost: mixtures are not cut into micro-batches, and every process computes all of them.
"""

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
from amodal.methods.shared.shapes import ragged, token_column
from amodal.nn.encoder import Encoder
from amodal.objectives.bags import owners


def token_columns(content: Tokens) -> dict[str, Column]:
    """The tokens of a source as columns of features.

    Args:
        content: Of one source, of `Encoder.patchify`.

    Returns:
        `SOURCE/tokens`, `SOURCE/place` (their positions) and `SOURCE/grid` (the grid they make).
    """
    source, tokens = content.names[0], token_column(content)
    place = Column(Ragged(content.position, ragged(tokens).lengths), tokens.rows)
    return {
        f"{source}/tokens": tokens,
        f"{source}/place": place,
        f"{source}/grid": Column(grids(content), tokens.rows),
    }


def encode_mixed(
    encoder: Encoder, features: Features, source: str, index: Tensor, tokens: Ragged
) -> Tokens:
    """Mixtures of the tokens of one source at the end of the trunk.

    Args:
        encoder: Reads the source alone.
        features: Hold the `token_columns` of the source.
        source: Its name.
        index: (n,) the entries of those columns that were mixed.
        tokens: Their mixtures.
    """
    place = features[f"{source}/place"].at(index)
    mixed = Tokens.of(tokens.flat, place.rows, tokens.lengths, place.flat, source, features.size)
    return encoder.encode({source: encoder.add_positions(mixed)})[source]


def mixup_inputs(
    encoder: Encoder, features: Features, source: str, index: Tensor, *, alpha: float
) -> tuple[Column, Mixed]:
    """mixup of the inputs of some rows.

    Args:
        encoder: Of the source.
        features: Hold the `token_columns` of the source, its vectors, and the seeds.
        source: Its name.
        index: (n,) the entries of those columns to mix.
        alpha: Of the Beta distribution of the shares.

    Returns:
        The vectors of the source, those of the mixed rows replaced; and how they were mixed.
    """
    tokens = features[f"{source}/tokens"].at(index)
    seeds = hash_bits(features[SEED].flat[tokens.rows], name_code(source))
    mixed = everywhere(ragged(tokens), features[f"{source}/grid"].flat[index], seeds, alpha=alpha)
    before = features[source]
    new = encoder.pools[source](encode_mixed(encoder, features, source, index, mixed.tokens))
    values = before.flat.index_copy(0, shared_rows(before, new)[0], new.flat)
    return Column(values, before.rows), mixed


@torch.no_grad()
def token_relevance(encoder: Encoder, context: Tokens, words: Column, size: int) -> Column:
    """The cosine of each token, through its field's head, with the text of its row.

    Args:
        encoder: Of the fields.
        context: Tokens of one source at the end of the trunk.
        words: The aligned vectors of texts (N, D).
        size: Rows of the batch.

    Returns:
        Ragged of cosines (L,), 0 where a row has no text.
    """
    parts = regions(encoder, context)
    text_BD = parts.flat.new_zeros(size, parts.flat.shape[1])
    text_BD[words.rows] = normalize(words.flat, dim=1).to(text_BD.dtype)
    lengths = ragged(parts).lengths
    cosine = (parts.flat * text_BD[parts.rows][owners(lengths)]).sum(1)
    return Column(Ragged(cosine, lengths), parts.rows)
