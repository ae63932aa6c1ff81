"""GRAM: all fields of a record are aligned at once, by the volume that their vectors span.

Cicchetti, Grassucci, Sigillo and Comminiello, ICLR 2025, arXiv:2412.11959. Volume: their section 3.
Losses: L_D2A and L_A2D, and a tenth of L_DAM, of section 4. Row 158 of the catalogue.

Matching (L_DAM): the anchor's tokens read those of all other fields of a record, and a head says
whether they belong together. Each anchor is also shown a wrong tuple, and each tuple a wrong
anchor, drawn by the softmax of their volumes, which makes hard ones likely. `--method.match 0`
leaves it out.

Product: `amodal search RUN --volume` ranks records by the volume that a query spans with all
other fields of a record, the least first, and `--rerank 50` puts the first fifty in the order of
the matching head. `amodal evaluate --protocols tuple_retrieval` measures it.

Rows with a subset of the fields: a missing field is left out of the Gram matrix, as in the paper's
retrieval. One vector more makes every volume smaller, so only rows with the same fields compete for
an anchor; for a tuple, all anchors of the batch compete. In a row without the anchor, its first
other field takes the anchor's place. A row with one field spans no volume and is an anchor only.

A volume does not know the sign of a vector, so two fields may come to point apart. Retrieval,
zero-shot classes and search therefore rank such an encoder's vectors by |cosine|. Sums of two or
more vectors have no such remedy.

Differs:

- matching: blocks of their own behind the text encoder, whose mean token is judged. In VAST, whose
  program theirs is, the text encoder itself reads the other fields in each of its 12 layers, and
  its CLS token is judged; the head is theirs. Wrong anchors are of rows with the same fields.
- encoder: transformers over tokens, from scratch. The paper goes on from VAST: EVA-CLIP for frames,
  BEATs for sound, BERT for text and subtitles. `--backbone` reads pretrained ones.
- temperature: learned as a logarithm and bounded; theirs is the number itself, without a bound.
- volume: sines below 1e-3 are held there, as float32 resolves no smaller ones; theirs takes the
  root of |det|, whose gradient is infinite at 0.
- views: `weak`; theirs are eight frames of a video, cropped and flipped.
- recipe: `PAPER_RECIPE` is that of MSR-VTT: the authors' rate, batch and epochs, and what else
  VAST's configuration has. There CLIP's encoder of frames has a rate of 5e-7
  (`--lr-multipliers encoder.tokenizers.FIELD.=0.01`), and biases and norms have no decay.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from amodal.core import (
    AmodalError,
    Batch,
    Column,
    Embeddings,
    Ragged,
    Recipe,
    name_code,
    unknown,
)
from amodal.masking.hashing import hash_bits
from amodal.methods.contract import Method
from amodal.methods.shared import matching as m
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import ragged, two_fields
from amodal.nn.attention.cross import join_lists
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.common import connected_zero
from amodal.objectives.gram_volume import gram_info_nce, volumes
from amodal.objectives.matching import matching, sample_negatives

FLOOR = 1e-4
"""Added to the probability of each wrong pair, as in the authors' program."""

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=5e-5,
    weight_decay=0.01,
    betas=(0.9, 0.98),
    schedule="linear",
    warmup=0.1,
    clip=2.0,
    batch_size=64,
    epochs=4,
)
"""Of MSR-VTT, for encoders that are pretrained."""


def gram(
    encoder: Encoder,
    *,
    anchor: str = "",
    width: int = 512,
    temperature: float = 0.07,
    max_scale: float = 100.0,
    smoothing: float = 0.1,
    match: float = 0.1,
    depth: int = 4,
) -> Gram:
    """InfoNCE over volumes, between an anchor and the tuple of all other fields, and matching.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        anchor: The field that each tuple is matched with. Default: the first text field.
        width: Width of the common space.
        temperature: Initial value of the learned temperature.
        max_scale: Upper bound of the inverse temperature.
        smoothing: Label smoothing.
        match: Weight of matching, 0 for none.
        depth: Blocks in which the anchor's tokens read those of the other fields.
    """
    texts = [f for f, modality in two_fields(encoder).fields.items() if modality.takes_prompts]
    anchor = anchor or [*texts, *encoder.fields][0]
    if anchor not in encoder.fields:
        raise unknown("field to anchor to", anchor, encoder.fields)
    scale = Scale(1 / temperature, most=max_scale)
    matcher = None
    if match:
        matcher = TupleMatcher(encoder.width, depth=depth, heads=encoder.num_heads)
    # a volume stays the same when a vector changes its sign
    aligned = encoder.align(width, similarity="abs_cosine")
    return Gram(aligned, scale, matcher, anchor=anchor, smoothing=smoothing, match=match)


class TupleMatcher(m.Matcher):
    """Whether an anchor belongs to a tuple; the head has a hidden layer.

    Args:
        width: Of the tokens.
        depth: Blocks of cross-attention.
        heads: Of each block.
    """

    def __init__(self, width: int, *, depth: int, heads: int):
        super().__init__(width, depth=depth, heads=heads)
        # the authors' head has two classes; their difference is one logit
        self.head = nn.Sequential(  # type: ignore[assignment]
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12), nn.Linear(width, 1)
        )


class Gram(Method):
    """Towers whose learned scale is one of volumes, with a matching head.

    Args:
        encoder: Aligned.
        scale: The inverse temperature.
        matcher: Judges an anchor and a tuple; None without matching.
        anchor: The field that each tuple is matched with.
        smoothing: Label smoothing.
        match: Weight of matching.
    """

    views = ("weak",)
    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        scale: Scale,
        matcher: TupleMatcher | None,
        *,
        anchor: str,
        smoothing: float,
        match: float,
    ):
        super().__init__()
        self.encoder, self.learned, self.matcher = encoder, scale, matcher
        self.anchor, self.smoothing, self.match = anchor, smoothing, match

    def features(self, batch: Batch) -> Embeddings:
        """field -> vectors; with matching also `tokens/field` -> lists of tokens, and seeds."""
        if self.matcher is None:
            z: Embeddings = self.encoder(batch)
            return z
        context = alone(self.encoder, batch)
        z = vectors(self.encoder, context, batch.size)
        tokens = m.token_features(self.encoder, context, z.sources)
        return Embeddings({**z.columns, **tokens, m.SEED: m.seed_column(batch)}, batch.size)

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        z = self.aligned(features)
        terms = self.volume_loss(z)
        if self.matcher is not None:
            terms["match"] = self.match * self.matching_loss(z, features)
        return terms

    def aligned(self, features: Embeddings) -> Embeddings:
        """The vectors among the features."""
        fields = [f for f in features if f in self.encoder.fields]
        return Embeddings({f: features[f] for f in fields}, features.size)

    def volume_loss(self, z: Embeddings) -> dict[str, Tensor]:
        """(L_D2A + L_A2D) / 2, the mean over tuples."""
        total, tuples = connected_zero(*(z[s].flat for s in z.sources), self.learned()), 0
        for rows, names in rows_by_fields(z, self.anchor):
            first, *others = (vectors_of(z, name, rows) for name in names)
            more = z[names[0]].flat[~torch.isin(z[names[0]].rows, rows)]
            loss = gram_info_nce(
                first,
                others,
                temperature=1 / self.learned(),
                smoothing=self.smoothing,
                extra_anchor_MD=more,
            )
            total, tuples = total + len(rows) * loss, tuples + len(rows)
        return {"volume": total / max(tuples, 1)}

    def matching_loss(self, z: Embeddings, features: Embeddings) -> Tensor:
        """L_DAM: cross-entropy of anchors and tuples that belong together and of those that do
        not."""
        assert self.matcher is not None
        same, wrong = [], []
        for rows, names, words, seen in self.tuples(z, features):
            same.append(self.matcher(words, seen))
            draws = self.draw_negatives(z, rows, names, features[m.SEED].flat[rows])
            wrong.append(self.matcher.negative_logits(words, seen, *draws))
        if not same:
            tokens = (features[f"tokens/{s}"].flat for s in z.sources)
            return connected_zero(*tokens, *self.matcher.parameters())
        return matching(torch.cat(same), torch.cat(wrong))

    def tuples(
        self, z: Embeddings, features: Embeddings
    ) -> Iterator[tuple[Tensor, list[str], Ragged, Ragged]]:
        """(rows, fields, tokens of the anchor, tokens of all other fields) of rows with the same
        fields."""
        for rows, names in rows_by_fields(z, self.anchor):
            columns = [features[f"tokens/{s}"] for s in names]
            words, *others = (ragged(c)[torch.searchsorted(c.rows, rows)] for c in columns)
            yield rows, names, words, join_lists(others)

    @torch.no_grad()
    def draw_negatives(
        self, z: Embeddings, rows: Tensor, names: list[str], seeds: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A wrong tuple for each anchor and a wrong anchor for each tuple, -1 for none."""
        first, *others = (vectors_of(z, name, rows) for name in names)
        logits = -volumes(first, others) * self.learned()
        index = torch.arange(len(rows), device=rows.device)
        wrong = []
        for way, scores in (("anchor>tuple", logits), ("tuple>anchor", logits.T)):
            bits = hash_bits(seeds, name_code(way))
            wrong.append(sample_negatives(scores, index, bits, column_N=seeds, floor=FLOOR))
        return wrong[0], wrong[1]

    def match_logits(self, batch: Batch) -> Column:
        """Say of each row whether its fields belong together.

        Args:
            batch: One view of each field.

        Returns:
            (N,) logits, of the rows that have two fields or more.

        Raises:
            AmodalError: For a run without the matching head.
        """
        if self.matcher is None:
            raise AmodalError(
                "this run of gram was trained without its matching head (--method.match 0) and "
                "cannot judge what belongs together; leave --rerank out"
            )
        features = self.features(batch)
        parts = list(self.tuples(self.aligned(features), features))
        if not parts:
            return Column(self.learned().new_zeros(0), batch.seeds.new_zeros(0))
        logits = torch.cat([self.matcher(words, seen) for _, _, words, seen in parts])
        rows = torch.cat([rows for rows, *_ in parts])
        return Column(logits[rows.argsort()], rows.sort().values)


def rows_by_fields(z: Embeddings, anchor: str) -> list[tuple[Tensor, list[str]]]:
    """Group the rows that have two or more fields by which fields they have.

    Returns:
        (rows, fields) for each set of fields, `anchor` first if it is one of them.
    """
    order = sorted(z.sources, key=lambda s: s != anchor)
    present = torch.stack([z[s].present(z.size) for s in order], 1)
    sets, number = torch.unique(present, dim=0, return_inverse=True)
    return [
        ((number == i).nonzero().squeeze(1), [s for s, has in zip(order, one) if has])
        for i, one in enumerate(sets.tolist())
        if sum(one) > 1
    ]


def vectors_of(z: Embeddings, name: str, rows: Tensor) -> Tensor:
    """The vectors of one field, of rows that have it."""
    return z[name].flat[torch.searchsorted(z[name].rows, rows)]
