"""Regions and sentences in the aligned space, for pages whose losses look at parts of a value."""

from __future__ import annotations

import torch

from amodal.core import AmodalError, Column, Embeddings, field_of
from amodal.nn.encoder import Encoder
from amodal.nn.multi_vector import per_source as alone
from amodal.nn.multi_vector import unit_tokens as regions
from amodal.nn.trunks import SourceTokens

__all__ = ["alone", "regions", "sentences", "texts_and_others", "vectors"]


def vectors(encoder: Encoder, context: SourceTokens, size: int) -> Embeddings:
    """The aligned vectors of tokens.

    Args:
        encoder: Pools and projects.
        context: source -> its tokens at the end of the trunk, of `alone`.
        size: Rows of the batch.

    Returns:
        source -> (N, D).
    """
    pooled = {
        s: encoder.pools[field_of(s)](tokens)
        for s, tokens in context.items()
        if field_of(s) in encoder.fields
    }
    return encoder.project(Embeddings(pooled, size))


def sentences(z: Embeddings, sources: list[str]) -> Column:
    """Stack the vectors of K views of one field, which the same rows have.

    Args:
        z: Vectors of sources.
        sources: The K views.

    Returns:
        (N, K, D).
    """
    return Column(torch.stack([z[s].flat for s in sources], 1), z[sources[0]].rows)


def texts_and_others(encoder: Encoder) -> tuple[list[str], list[str]]:
    """The fields that are text and those that are not. Raises AmodalError unless there are both."""
    texts = [f for f, m in encoder.fields.items() if m.takes_prompts]
    others = [f for f in encoder.fields if f not in texts]
    if not texts or not others:
        raise AmodalError(
            "this method ties sentences to what they describe and needs a text field and one of "
            f"another kind; there are only {', '.join(encoder.fields)}. Take clip or simclr, or "
            "give records with both."
        )
    return texts, others
