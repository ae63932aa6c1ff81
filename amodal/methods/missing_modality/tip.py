"""TIP: a table and a picture are contrasted, matched, and hidden cells are predicted, so that cells
may be missing later.

Du, Zheng, Wang, Bai, O'Regan and Qin, ECCV 2024, arXiv:2407.07582, section 3: image-tabular
contrast, image-tabular matching and masked tabular reconstruction, a third each. Any field may take
the part of the table; it is matched with each other field, and all fields are contrasted with each
other.

Differs:

- encoder: transformers of the library's sizes over patches and cells. The authors have a ResNet-50,
  whose map of features is a backbone here (`--backbone image=timm:resnet50`), and four blocks of
  512 for the table. Keys, queries and values have biases; theirs have none.
- CLS: the interaction has a token of its own, so that a row without a table has a fused vector too;
  theirs comes out of the table's encoder. The table's vector in the contrast is the mean of its
  cells, theirs is that token.
- missing cells are no tokens, which is what the authors' mask of attention comes to. They hide
  those that are to be predicted from the other cells too; here the others see that they are hidden.
- a category is predicted among those of its column, by the authors among those of all columns.
- inputs: the authors replace three tenths of the cells of the table that is contrasted and matched
  by those of other records; here it is whole. Their picture is augmented 95 times in 100, here
  always, by `strong` in place of a crop, flips, rotations and colours of theirs.
- optimizer: AdamW, theirs is Adam. The cosine ends at 1 % of the rate, theirs at 0.
- the fused vector is `Tip.fused` in Python; no verb reads it yet, `amodal evaluate` takes the mean
  of the encoder's vectors. The authors fine-tune classifiers of the fused vector, of the picture
  and of the table, and average them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings, Ragged, Recipe
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared import matching as m
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import (
    field_pairs,
    ragged,
    share,
    token_column,
    two_fields,
)
from amodal.nn.attention.cross import join_lists
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce

PAPER_RECIPE = Recipe(
    lr=3e-4,
    weight_decay=1.5e-6,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_epochs=10.0,
    clip=0.0,
    batch_size=256,
    epochs=500.0,
    resolution=128,
)
"""Of the authors' configuration for DVM cars."""


def tip(
    encoder: Encoder,
    *,
    table: str = "",
    match: float = 1.0,
    fill: float = 1.0,
    ratio: float = 0.5,
    width: int = 128,
    temperature: float = 0.1,
    depth: int = 4,
    view: str = "strong",
) -> Tip:
    """Build TIP.

    Args:
        encoder: Of at least two fields.
        table: The field whose cells are hidden and attend to the other fields (by default the
            first table; without any, the first text, or the last field).
        match: Weight of matching beside that of the contrast, 0 for none.
        fill: Weight of reconstruction beside that of the contrast, 0 for none.
        ratio: Share of cells hidden.
        width: Of the common space.
        temperature: Of the contrast, fixed.
        depth: Blocks of the interaction module.
        view: How all other fields are augmented.
    """
    tables = [f for f, modality in two_fields(encoder).fields.items() if modality.is_row]
    name, others = m.pick_text_field(encoder, table or next(iter(tables), ""))
    module = Interaction(encoder.width, depth=depth, heads=encoder.num_heads)
    masked = MaskedCells(encoder, name, ratio, method="tip") if fill else None
    return Tip(
        encoder.align(width, hidden=encoder.width),
        module,
        masked,
        table=name,
        others=others,
        match=match,
        fill=fill,
        temperature=temperature,
        view=view,
    )


class Interaction(m.Matcher):
    """Cells and a CLS token attend to another field.

    Args:
        width: Of the tokens.
        depth: Blocks of cross-attention.
        heads: Of each block.
    """

    def __init__(self, width: int, *, depth: int, heads: int):
        super().__init__(width, depth=depth, heads=heads)
        self.cls = nn.Parameter(torch.randn(width) * 0.02)

    def read(self, cells: Ragged, seen: Ragged) -> Ragged:
        """The CLS token and the cells at the end. Either list may be empty."""
        first = Ragged(
            self.cls.to(cells.flat.dtype).expand(len(cells), -1), torch.ones_like(cells.lengths)
        )
        read: Ragged = self.cross(join_lists([first, cells]), seen)
        return read

    def vector(self, cells: Ragged, seen: Ragged) -> Tensor:
        """The CLS token (N, D) at the end."""
        read = self.read(cells, seen)
        return read.flat[read.starts()]

    def cells(self, cells: Ragged, seen: Ragged) -> Ragged:
        """The cells at the end."""
        read = self.read(cells, seen)
        is_cell = torch.ones(len(read.flat), dtype=torch.bool, device=read.flat.device)
        return Ragged(read.flat[is_cell.index_fill(0, read.starts(), False)], cells.lengths)

    def forward(self, words: Ragged, seen: Ragged, strength: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.vector(words, seen)).squeeze(1)
        return logits


class MaskedCells(m.MaskedWords):
    """Hides cells and predicts them; numbers and categories are kept apart."""

    def token_losses(self, encoder: Encoder, prediction: Tensor, target: Tensor) -> Tensor:
        """(t, K, 2): the loss of each hidden cell and 1, where it is of the kind, else zeros."""
        modality, both = encoder.fields[self.field], []
        for there, own in modality.target_kinds(target):
            loss_T = modality.token_loss(prediction, own)
            both.append(torch.stack([loss_T * there, there.to(loss_T.dtype)], 1))
        return torch.stack(both, 1)


def kind_mean(column: Column) -> Tensor:
    """The mean over kinds of the mean loss of all hidden cells of a kind.

    Args:
        column: (N, K, 2) of `MaskedCells`. A kind of which nothing is hidden is left out.
    """
    total_K, count_K = column.flat.sum(0).unbind(1)
    mean: Tensor = (total_K / count_K.clamp(min=1)).sum() / (count_K > 0).sum().clamp(min=1)
    return mean


@dataclass(frozen=True, kw_only=True)
class TipFeatures(FeatureRecord):
    """Features of TIP.

    Args:
        vectors: source -> (N, D), aligned.
        tokens: field -> lists of tokens.
        reconstruct: field -> (N, K, 2), the losses of hidden cells that attend to this field and
            their number, of each kind.
        seed: (B,) of the rows.
    """

    vectors: Columns
    tokens: Columns
    reconstruct: Columns
    seed: Column


class Tip(Method):
    """Contrast, matching, and reconstruction of cells, a third each.

    Args:
        encoder: Aligned.
        module: Cells attend to another field.
        masked: Hides cells; None without reconstruction.
        table: The field of the cells.
        others: All other fields.
        match: Weight of matching.
        fill: Weight of reconstruction.
        temperature: Of the contrast.
        view: How all other fields are augmented.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        module: Interaction,
        masked: MaskedCells | None,
        *,
        table: str,
        others: Sequence[str],
        match: float,
        fill: float,
        temperature: float,
        view: str,
    ):
        super().__init__()
        self.encoder, self.module, self.masked = encoder, module, masked
        self.table, self.others = table, list(others)
        self.match, self.fill, self.temperature = match, fill, temperature
        self.views = {f: ("plain" if f == table else view,) for f in encoder.fields}

    def features(self, batch: Batch) -> TipFeatures:
        encoder, t, content = self.encoder, self.table, self.encoder.patchify(batch)
        positioned = {s: encoder.add_positions(tokens) for s, tokens in content.items()}
        context, reconstruct = alone(encoder, batch, positioned), {}
        z = vectors(encoder, context, batch.size)
        columns = m.token_features(encoder, context, list(encoder.fields))
        tokens = {f: columns[f"tokens/{f}"] for f in encoder.fields}
        if self.masked is not None:
            hidden_T = self.masked.draw(encoder, content[t], batch)
            cells = token_column(self.masked.encode(encoder, content[t], hidden_T))
            target_T = encoder.fields[t].targets(batch[t].values)
            for s in self.others:
                reconstruct[s] = self.masked.predict_hidden(
                    encoder, cells, hidden_T, target_T, tokens[s], self.module.cells
                )
        return TipFeatures(
            size=batch.size,
            vectors=z.columns,
            tokens=tokens,
            reconstruct=reconstruct,
            seed=m.seed_column(batch),
        )

    def losses(self, features: TipFeatures) -> dict[str, Tensor]:
        z = Embeddings({f: features.vectors[f] for f in self.encoder.fields}, features.size)
        terms = share(
            {
                f"contrast/{a}~{b}": info_nce(*z.pair(a, b), temperature=self.temperature) / 3
                for a, b in field_pairs(z)
            }
        )
        if self.match:
            match = {s: self.matching_loss(features, s) for s in self.others}
            terms |= share({f"match/{s}": self.match * loss / 3 for s, loss in match.items()})
        if self.masked is not None:
            fill = {s: kind_mean(features.reconstruct[s]) for s in self.others}
            terms |= share({f"reconstruct/{s}": self.fill * loss / 3 for s, loss in fill.items()})
        return terms

    def matching_loss(self, features: TipFeatures, field: str) -> Tensor:
        """Image-tabular matching with hard negatives."""
        tokens = {f"tokens/{f}": column for f, column in features.tokens.items()}
        columns = {**features.vectors, **tokens, m.SEED: features.seed}
        return m.item_matching(
            self.module,
            Embeddings(columns, features.size),
            self.table,
            field,
            temperature=self.temperature,
            floor=1e-4,
        )

    def fused(self, batch: Batch) -> Column:
        """The CLS token of the interaction module, the mean over the other fields of a row.

        Args:
            batch: One view of each field.

        Returns:
            (N, D) of every row that has any field.
        """
        context = alone(self.encoder, batch)
        columns = m.token_features(self.encoder, context, list(context))
        zero = torch.zeros_like(batch.seeds)  # lists are empty for rows without the field
        lists = {
            s: Ragged(c.flat, zero.index_copy(0, c.rows, ragged(c).lengths))
            for s, c in columns.items()
        }
        # of a field that the batch has not even empty
        nothing = Ragged(self.module.cls[None][:0], zero)
        cells, *others = (lists.get(f"tokens/{s}", nothing) for s in (self.table, *self.others))
        present = torch.stack([tokens.lengths > 0 for tokens in others])
        cls = torch.stack([self.module.vector(cells, tokens) for tokens in others])
        # a row without any other field reads nothing, the same for each of them
        weight = (present | ~present.any(0)).to(cls.dtype).unsqueeze(2)
        rows = (present.any(0) | (cells.lengths > 0)).nonzero().squeeze(1)
        return Column(((cls * weight).sum(0) / weight.sum(0))[rows], rows)
