"""What vision-language papers share beside towers: a matcher that reads both fields, and masked
words that are filled in from the other field. For any field in the place of the words, any other in
that of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from amodal.core import (
    AmodalError,
    Batch,
    Column,
    Embeddings,
    Ragged,
    Tokens,
    field_of,
    name_code,
    unknown,
)
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.methods.contract import Features
from amodal.methods.shared.shapes import token_column
from amodal.nn.attention.cross import CrossEncoder, grad_cam, mean_token
from amodal.nn.encoder import Encoder
from amodal.nn.queue import Queues
from amodal.objectives.matching import hard_negatives, matching

SEED = "seed"
"""The column of Features that carries the rows' seeds to losses which draw."""


class Matcher(nn.Module):
    """Words that read the other field (`cross`), and from their mean a logit: do the two belong
    together?"""

    def __init__(self, width: int, *, depth: int, heads: int):
        super().__init__()
        self.cross, self.head = CrossEncoder(width, depth, heads), nn.Linear(width, 1)

    def forward(self, words: Ragged, seen: Ragged, strength: Tensor | None = None) -> Tensor:
        """(N,) logits of pairs: words i with what is seen in i. strength: of each token that is
        seen (sum of lengths,)."""
        return self.head(mean_token(self.cross(words, seen, strength=strength))).squeeze(1)

    def watched(self, words: Ragged, seen: Ragged, layer: int = -1) -> tuple[Tensor, Tensor]:
        """(N,) logits, and the weights (N, H, Q, K) with which the words read in this block, for
        Grad-CAM."""
        out, weights = self.cross(words, seen, weigh=layer)
        return self.head(mean_token(out)).squeeze(1), weights

    def explained(self, words: Ragged, seen: Ragged, layer: int = -1) -> tuple[Tensor, Tensor]:
        """(N,) logits, and (N, Q, K) how much each word's reading of each part of what is seen
        speaks for them (`grad_cam`)."""
        with torch.enable_grad():
            same, weights = self.watched(words, seen, layer)
            return same, grad_cam(same, weights, keep=True)

    def mismatched(
        self, words: Ragged, seen: Ragged, other_seen: Tensor, other_words: Tensor
    ) -> Tensor:
        """Logits of the pairs that do not belong together; arguments as in `loss`."""
        rows = torch.arange(len(words), device=other_seen.device)
        a, b = (rows[o >= 0] for o in (other_seen, other_words))
        return self(words[torch.cat([a, other_words[b]])], seen[torch.cat([other_seen[a], b])])

    def loss(
        self,
        words: Ragged,
        seen: Ragged,
        other_seen: Tensor,
        other_words: Tensor,
        pairs: Ragged | None = None,
    ) -> Tensor:
        """Pairs that belong together, against words with another's picture and pictures with
        another's words.

        words, seen: N lists of tokens; other_seen, other_words: (N,) which row's, -1 where there is
        none (`hard_negatives`). pairs: what is seen in the pairs that belong together, if it is not
        `seen` (softly masked, say).
        """
        rows = torch.arange(len(words), device=other_seen.device)
        a, b = (rows[o >= 0] for o in (other_seen, other_words))
        asked = torch.cat([rows, a, other_words[b]])
        shown = torch.cat([rows, other_seen[a], b])
        if (
            pairs is not None
        ):  # the table of what is seen gets the changed lists behind the plain ones
            seen = Ragged(
                torch.cat([seen.flat, pairs.flat]), torch.cat([seen.lengths, pairs.lengths])
            )
            shown = torch.cat([rows + len(rows), shown[len(rows) :]])
        logits = self(words[asked], seen[shown])
        return matching(logits[: len(rows)], logits[len(rows) :])


def token_features(
    encoder: Encoder, context: dict[str, Tokens], sources: Sequence[str]
) -> dict[str, Column]:
    """`tokens/SOURCE` -> the tokens of each row, for losses that look at parts. context: of
    `Encoder.encode`."""
    return {
        f"tokens/{s}": token_column(encoder.pools[field_of(s)].strip(context[s])) for s in sources
    }


def seed_column(batch: Batch) -> Column:
    return Column(batch.seeds, torch.arange(batch.size, device=batch.seeds.device))


def item_matching(
    matcher: Matcher,
    features: Features,
    words: str,
    seen: str,
    *,
    temperature: float | Tensor,
    floor: float = 0.0,
) -> Tensor:
    """Image-text matching between two sources with hard negatives. features: vectors of both in the
    common space under their own names, their tokens under `tokens/…`, and the seeds. floor: as in
    `sample_negatives`."""
    both = shared_rows(features[f"tokens/{words}"], features[f"tokens/{seen}"])
    word_lists, seen_lists = (
        features[f"tokens/{s}"].values[i] for s, i in zip((words, seen), both)
    )
    draws = draw_negatives(features, words, seen, temperature=temperature, floor=floor)
    return matcher.loss(word_lists, seen_lists, *draws)


def draw_negatives(
    features: Features, words: str, seen: str, *, temperature: float | Tensor, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """For the rows that have both: whose picture stands in for that of the words, whose words for
    those of the picture."""
    z_words, z_seen = features.pair(words, seen)
    rows = features[words].rows[shared_rows(features[words], features[seen])[0]]
    seeds = features[SEED].values[rows]
    own = (hash_bits(seeds, name_code(f"{a}>{b}")) for a, b in ((words, seen), (seen, words)))
    other_seen = hard_negatives(z_words, z_seen, next(own), temperature=temperature, floor=floor)
    other_words = hard_negatives(z_seen, z_words, next(own), temperature=temperature, floor=floor)
    return other_seen, other_words


def with_queue(
    loss: Callable[..., Tensor],
    z: Embeddings,
    keys: Embeddings,
    queues: Queues,
    a: str,
    b: str,
    **options,
) -> Tensor:
    """Mean of both directions of `loss(queries (N, D), keys (M, D), **options)`, whose first N keys
    are those of the same rows; the others come from the queue. keys: as `z`, of a slow copy
    perhaps."""
    ways = []
    for one, other in ((a, b), (b, a)):
        query, key = Embeddings({"query": z[one], "key": keys[other]}, z.size).pair("query", "key")
        ways.append(loss(query, torch.cat([key, queues.earlier(other).to(key.dtype)]), **options))
    return sum(ways) / 2


class MaskedWords(nn.Module):
    """Some tokens of a field are hidden and predicted from the others and from another field
    (ALBEF, arXiv:2107.07651, 3.2, "Masked Language Modeling"; BERT's 15 %, every one of them
    replaced by the mask token). A function of single rows, so for `features`."""

    def __init__(self, encoder: Encoder, field: str, ratio: float = 0.15):
        super().__init__()
        if encoder.contextual(field):
            raise AmodalError(
                f"the field {field} comes from a pretrained backbone whose tokens have seen each other, so hiding some of them hides "
                "nothing. Leave the backbone of this field out, or take a method without masked words."
            )
        self.field, self.ratio = field, ratio
        self.token = nn.Parameter(torch.randn(encoder.width) * 0.02)
        self.predictor = encoder.fields[field].predictor(encoder.width)

    def draw(self, bag: Tokens, seeds: Tensor) -> Tensor:
        """(T,) bool: what is hidden."""
        own = hash_bits(seeds, name_code(f"masked {self.field}"))
        return ~random_keep(bag.row, own[bag.row], bag.within(), self.ratio)

    def encode(self, encoder: Encoder, content: Tokens, hidden_T: Tensor) -> Tokens:
        """The tokens of one source, as the encoder reads them with some of them hidden. content: of
        `Encoder.content`."""
        return encoder.pools[self.field].strip(self.context(encoder, content, hidden_T))

    def context(self, encoder: Encoder, content: Tokens, hidden_T: Tensor) -> Tokens:
        """As `encode`, with what the pooling needs beside the tokens."""
        source = content.names[0]
        x_TD = torch.where(hidden_T[:, None], self.token.to(content.x.dtype), content.x)
        return encoder.encode({source: encoder.add_positions(content.with_x(x_TD))})[source]

    def forward(
        self, encoder: Encoder, batch: Batch, content: Tokens, seen: Column, cross: CrossEncoder
    ) -> Column:
        """For each row that has both, (N, 2): the sum of the losses of its hidden tokens, and their
        number (`token_mean` ends it). seen: lists of tokens of the other field."""
        hidden_T = self.draw(content, batch.seeds)
        words = token_column(self.encode(encoder, content, hidden_T))
        target_T = encoder.fields[self.field].targets(batch[content.names[0]].values)
        return self.guess(encoder, words, hidden_T, target_T, seen, cross)

    def guess(
        self,
        encoder: Encoder,
        words: Column,
        hidden_T: Tensor,
        target_T: Tensor,
        seen: Column,
        cross: CrossEncoder,
    ) -> Column:
        """`forward` for words that the encoder has read: the lists of `encode`, what is hidden and
        what stands there."""
        at, at_seen = shared_rows(words, seen)
        read = cross(words.values[at], seen.values[at_seen])
        hidden, target = (Ragged(t, words.values.lengths)[at].flat for t in (hidden_T, target_T))
        loss_T = encoder.fields[self.field].token_loss(
            self.predictor(read.flat[hidden]), target[hidden]
        )
        row = torch.repeat_interleave(torch.arange(len(at), device=at.device), read.lengths)[hidden]
        both = torch.stack([loss_T, torch.ones_like(loss_T)], 1)
        return Column(both.new_zeros(len(at), 2).index_add(0, row, both), words.rows[at])


def words_of(encoder: Encoder, words: str = "") -> tuple[str, list[str]]:
    """The field that asks (the first of text, else the last), and those that it is paired with."""
    texts = [f for f, m in encoder.fields.items() if m.takes_prompts]
    if words and words not in encoder.fields:
        raise unknown("field", words, encoder.fields, "It was to be the words of this method.")
    words = words or (texts or list(encoder.fields))[0 if texts else -1]
    return words, [f for f in encoder.fields if f != words]
