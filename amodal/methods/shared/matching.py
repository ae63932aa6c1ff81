"""What vision-language papers share beside towers: a head for image-text matching, and masked
language modelling with the other field as context.

Any field may take the place of the words, and any other that of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from amodal.core import (
    Batch,
    Column,
    Embeddings,
    Ragged,
    Tokens,
    name_code,
    unknown,
)
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep, random_keep_units
from amodal.methods.contract import Features
from amodal.methods.shared.shapes import ragged, refuse_backbones, token_column
from amodal.methods.shared.typed_parts import field_pool
from amodal.methods.shared.whole_words import units
from amodal.nn.attention.cross import CrossEncoder, grad_cam, mean_token
from amodal.nn.encoder import Encoder
from amodal.nn.queue import Queues
from amodal.objectives.matching import hard_negatives, matching

SEED = "seed"
"""The column of Features that carries the rows' seeds to losses which draw."""


class Matcher(nn.Module):
    """Image-text matching: words attend to the other field, and their mean gives a logit.

    Args:
        width: Of the tokens.
        depth: Blocks of cross-attention.
        heads: Of each block.
    """

    def __init__(self, width: int, *, depth: int, heads: int):
        super().__init__()
        self.cross, self.head = CrossEncoder(width, depth, heads), nn.Linear(width, 1)

    def forward(self, words: Ragged, seen: Ragged, strength: Tensor | None = None) -> Tensor:
        """Logits of pairs.

        Args:
            words: N lists of tokens.
            seen: N lists of tokens of the other field.
            strength: Weight of each token of `seen` (sum of lengths,).

        Returns:
            (N,) logits.
        """
        read = self.cross(words, seen, key_scale=strength)
        logits: Tensor = self.head(mean_token(read)).squeeze(1)
        return logits

    def logits_and_attention(
        self, words: Ragged, seen: Ragged, layer: int = -1
    ) -> tuple[Tensor, Tensor]:
        """Logits (N,), and the attention weights (N, H, Q, K) of one block, for Grad-CAM."""
        out, weights = self.cross.with_weights(words, seen, layer)
        return self.head(mean_token(out)).squeeze(1), weights

    def logits_and_relevance(
        self, words: Ragged, seen: Ragged, layer: int = -1
    ) -> tuple[Tensor, Tensor]:
        """Logits (N,), and the relevance of each part of the other field for each word (N, Q, K),
        by Grad-CAM."""
        with torch.enable_grad():
            same, weights = self.logits_and_attention(words, seen, layer)
            return same, grad_cam(same, weights, keep_graph=True)

    def negative_logits(
        self, words: Ragged, seen: Ragged, other_seen: Tensor, other_words: Tensor
    ) -> Tensor:
        """Logits of the pairs that do not belong together; arguments as of `loss`."""
        rows = torch.arange(len(words), device=other_seen.device)
        a, b = (rows[o >= 0] for o in (other_seen, other_words))
        asked, shown = torch.cat([a, other_words[b]]), torch.cat([other_seen[a], b])
        logits: Tensor = self(words[asked], seen[shown])
        return logits

    def loss(
        self,
        words: Ragged,
        seen: Ragged,
        other_seen: Tensor,
        other_words: Tensor,
        pairs: Ragged | None = None,
    ) -> Tensor:
        """Cross-entropy of matching pairs against mismatched ones.

        Args:
            words: N lists of tokens.
            seen: N lists of tokens of the other field.
            other_seen: (N,) the row whose picture is the negative of these words, -1 for none
                (`hard_negatives`).
            other_words: (N,) the row whose words are the negative of this picture, -1 for none.
            pairs: Takes the place of `seen` in the pairs that match (softly masked, say).
        """
        rows = torch.arange(len(words), device=other_seen.device)
        a, b = (rows[o >= 0] for o in (other_seen, other_words))
        asked = torch.cat([rows, a, other_words[b]])
        shown = torch.cat([rows, other_seen[a], b])
        if pairs is not None:  # the changed lists are appended to the plain ones
            seen = Ragged(
                torch.cat([seen.flat, pairs.flat]), torch.cat([seen.lengths, pairs.lengths])
            )
            shown = torch.cat([rows + len(rows), shown[len(rows) :]])
        # matching and mismatched pairs in one pass
        logits = self(words[asked], seen[shown])
        return matching(logits[: len(rows)], logits[len(rows) :])


def token_features(
    encoder: Encoder, context: dict[str, Tokens], sources: Sequence[str]
) -> dict[str, Column]:
    """The tokens of each row, for losses that compare parts.

    Args:
        encoder: Of the sources.
        context: source -> tokens at the end of the trunk, of `Encoder.encode`.
        sources: The sources to take.

    Returns:
        `tokens/SOURCE` -> lists of tokens.
    """
    return {f"tokens/{s}": token_column(field_pool(encoder, s).strip(context[s])) for s in sources}


def seed_column(batch: Batch) -> Column:
    """The rows' seeds as a column of features, for losses that draw."""
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
    """Image-text matching between two sources with hard negatives.

    Args:
        matcher: Gives the logits.
        features: The vectors of both sources in the common space, their tokens as `tokens/SOURCE`,
            and the seeds.
        words: The source of the words.
        seen: The other source.
        temperature: Of the similarities that negatives are drawn by.
        floor: Least weight of a negative, see `hard_negatives`.
    """
    both = shared_rows(features[f"tokens/{words}"], features[f"tokens/{seen}"])
    word_lists, seen_lists = (
        ragged(features[f"tokens/{s}"])[i] for s, i in zip((words, seen), both)
    )
    draws = draw_negatives(features, words, seen, temperature=temperature, floor=floor)
    return matcher.loss(word_lists, seen_lists, *draws)


def draw_negatives(
    features: Features, words: str, seen: str, *, temperature: float | Tensor, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Draw hard negatives of the n rows that have both sources.

    Returns:
        (n,) the row whose picture is the negative of these words, and (n,) the row whose words are
        the negative of this picture; -1 for none.
    """
    z_words, z_seen = features.pair(words, seen)
    rows = features[words].rows[shared_rows(features[words], features[seen])[0]]
    seeds = features[SEED].flat[rows]
    # a stream for each direction, or both would draw the same places
    first, second = (
        hash_bits(seeds, name_code(f"{a}>{b}")) for a, b in ((words, seen), (seen, words))
    )
    other_seen = hard_negatives(z_words, z_seen, first, temperature=temperature, floor=floor)
    other_words = hard_negatives(z_seen, z_words, second, temperature=temperature, floor=floor)
    return other_seen, other_words


def with_queue(
    loss: Callable[..., Tensor],
    z: Embeddings,
    keys: Embeddings,
    queues: Queues,
    a: str,
    b: str,
    **options: object,
) -> Tensor:
    """The mean of both directions of a loss with the keys of a queue.

    Args:
        loss: (queries (N, D), keys (M, D), **options) -> a scalar; the first N keys are those of
            the same rows, the others come from the queue.
        z: Queries.
        keys: Keys, such as those of a momentum encoder.
        queues: The keys of earlier batches.
        a: A source.
        b: Another source.
        **options: Of the loss.
    """
    ways = []
    for one, other in ((a, b), (b, a)):
        query, key = Embeddings({"query": z[one], "key": keys[other]}, z.size).pair("query", "key")
        ways.append(loss(query, torch.cat([key, queues.earlier(other).to(key.dtype)]), **options))
    return (ways[0] + ways[1]) / 2


class MaskedWords(nn.Module):
    """Some tokens of a field are hidden and predicted from the others and from another field.

    ALBEF, arXiv:2107.07651, 3.2, "Masked Language Modeling"; BERT's 15 %, every one of them
    replaced by the mask token. A function of single rows, so for `features`.

    Args:
        encoder: Of the fields.
        field: Whose tokens are hidden.
        ratio: Share of tokens hidden.
        method: Its name, for messages.
        whole_words: Hide words, not tokens, where tokens are parts of words.

    Raises:
        AmodalError: For a backbone whose tokens have already seen each other.
    """

    def __init__(
        self,
        encoder: Encoder,
        field: str,
        ratio: float = 0.15,
        *,
        method: str,
        whole_words: bool = False,
    ):
        super().__init__()
        refuse_backbones(
            encoder, method, fields=[field], instead="take a method without masked tokens"
        )
        self.field, self.ratio, self.whole_words = field, ratio, whole_words
        self.token = nn.Parameter(torch.randn(encoder.width) * 0.02)
        self.predictor = encoder.fields[field].predictor(encoder.width)

    def content(self, encoder: Encoder, batch: Batch) -> Tokens:
        """The field's tokens before they see each other."""
        return encoder.patchify(batch.only(self.field))[self.field]

    def draw(self, encoder: Encoder, tokens: Tokens, batch: Batch) -> Tensor:
        """Draw the mask (T,) bool of the tokens of a batch, True where one is hidden."""
        bits = hash_bits(batch.seeds, name_code(f"masked {self.field}"))[tokens.row]
        values = batch[tokens.names[0]].values
        unit = units(encoder, tokens, values, whole_words=self.whole_words)
        hide = random_keep_units if self.whole_words else random_keep
        return ~hide(tokens.row, bits, unit, self.ratio)

    def encode(self, encoder: Encoder, content: Tokens, hidden_T: Tensor) -> Tokens:
        """Encode the tokens of one source, of `Encoder.patchify`, with some of them hidden."""
        return field_pool(encoder, self.field).strip(self.context(encoder, content, hidden_T))

    def context(self, encoder: Encoder, content: Tokens, hidden_T: Tensor) -> Tokens:
        """As `encode`, with the tokens of the pooling."""
        source = content.names[0]
        x_TD = torch.where(hidden_T[:, None], self.token.to(content.x.dtype), content.x)
        return encoder.encode({source: encoder.add_positions(content.with_x(x_TD))})[source]

    def forward(
        self,
        encoder: Encoder,
        batch: Batch,
        content: Tokens,
        seen: Column,
        cross: Callable[[Ragged, Ragged], Ragged],
    ) -> Column:
        """The losses of hidden tokens.

        Args:
            encoder: Of the fields.
            batch: B rows.
            content: The field's tokens, of `Encoder.patchify`.
            seen: Lists of tokens of the other field.
            cross: Words attend to the other field.

        Returns:
            (N, 2): the sum of the losses of a row's hidden tokens, and their number (`token_mean`
            ends it), of the rows that have both.
        """
        hidden_T = self.draw(encoder, content, batch)
        words = token_column(self.encode(encoder, content, hidden_T))
        target_T = encoder.fields[self.field].targets(batch[content.names[0]].values)
        return self.predict_hidden(encoder, words, hidden_T, target_T, seen, cross)

    def predict_hidden(
        self,
        encoder: Encoder,
        words: Column,
        hidden_T: Tensor,
        target_T: Tensor,
        seen: Column,
        cross: Callable[[Ragged, Ragged], Ragged],
    ) -> Column:
        """`forward` for words that the encoder has read.

        Args:
            words: Lists of the tokens of `encode`.
            hidden_T: The mask.
            target_T: What stands at each token.
            seen: Lists of tokens of the other field.
            cross: What words make of the other field.
        """
        index, seen_index = shared_rows(words, seen)
        lists = ragged(words)
        read = cross(lists[index], ragged(seen)[seen_index])
        hidden, target = (Ragged(t, lists.lengths)[index].flat for t in (hidden_T, target_T))
        both = self.token_losses(encoder, self.predictor(read.flat[hidden]), target[hidden])
        row = torch.arange(len(index), device=index.device)
        row = torch.repeat_interleave(row, read.lengths)[hidden]
        total = both.new_zeros(len(index), *both.shape[1:]).index_add(0, row, both)
        return Column(total, words.rows[index])

    def token_losses(self, encoder: Encoder, prediction: Tensor, target: Tensor) -> Tensor:
        """(t, ..., 2): the loss of each hidden token, and 1."""
        loss_T = encoder.fields[self.field].token_loss(prediction, target)
        return torch.stack([loss_T, torch.ones_like(loss_T)], 1)


def pick_text_field(encoder: Encoder, text_field: str = "") -> tuple[str, list[str]]:
    """The field of the words, and the fields that it is paired with.

    Args:
        encoder: Of the fields.
        text_field: Its name; by default the first field of text, else the last field.

    Raises:
        AmodalError: If there is no such field.
    """
    texts = [f for f, m in encoder.fields.items() if m.takes_prompts]
    if text_field and text_field not in encoder.fields:
        raise unknown("field", text_field, encoder.fields, "It should hold the words.")
    text_field = text_field or (texts or list(encoder.fields))[0 if texts else -1]
    return text_field, [f for f in encoder.fields if f != text_field]
