"""TIP: a table and a picture are contrasted, matched, and hidden cells are predicted, so that cells
may be missing later.

Du, Zheng, Wang, Bai, O'Regan and Qin, ECCV 2024, arXiv:2407.07582, section 3: image-tabular
contrast, image-tabular matching and masked tabular reconstruction, a third each. Any field may take
the part of the table; it is matched with each other field, and all fields are contrasted with each
other.

Product: the fused vector of a record, of whatever fields and cells it has. It is what `amodal
evaluate` probes as `fused`, beside the picture's and the table's, and what `amodal adapt` learns a
label from; `amodal search --rerank` reads a pair by the matching head. In Python:
`model.encoder.features(batch)["fused"]`.

Differs:

- encoder: transformers of the library's sizes over patches and cells. The authors have a ResNet-50,
  whose map of features is a backbone here (`--backbone image=timm:resnet50@scratch`), and four
  blocks of 512 for the table. Keys, queries and values have biases; theirs have none.
- CLS: the interaction has a token of its own, so that a row without a table has a fused vector too;
  theirs comes out of the table's encoder. The table's vector in the contrast is the mean of its
  cells, theirs is that token.
- missing cells are no tokens, which is what the authors' mask of attention comes to. They hide
  those that are to be predicted from the other cells too; here the others see that they are hidden.
- a category is predicted among those of its column, by the authors among those of all columns.
- inputs: their picture is augmented 95 times in 100, here always, by `strong` in place of a crop,
  flips, rotations and colours of theirs.
- optimizer: AdamW, theirs is Adam. The cosine ends at 1 % of the rate, theirs at 0.
- classifier: one, of the fused vector. Theirs are three, also of the picture and of the table,
  whose outputs are averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged, Recipe
from amodal.core.column import shared_rows
from amodal.core.embeddings import FUSED
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared import matching as m
from amodal.methods.shared.marginals import Marginals
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import (
    field_pairs,
    ragged,
    share,
    token_column,
    two_fields,
)
from amodal.methods.shared.typed_parts import table_modality
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.cross_pool import CrossPool
from amodal.objectives.info_nce import info_nce
from amodal.objectives.matching import matching

QUANTILES = 4096
"""Values that are kept of each column, at most."""

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
    corruption: float = 0.3,
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
        corruption: Share of the cells that the contrast and matching see replaced by those of other
            records, of a table.
        view: How all other fields are augmented.

    Raises:
        AmodalError: For a joint trunk, one field only, and an unknown `table`.
    """
    if encoder.trunk == "joint":
        raise AmodalError(
            "tip reads one field by another in its interaction module, and in a joint trunk all "
            "fields have been read together before; take the trunk separate or shared"
        )
    tables = [f for f, modality in two_fields(encoder).fields.items() if modality.is_row]
    name, others = m.pick_text_field(encoder, table or next(iter(tables), ""))
    masked = MaskedCells(encoder, name, ratio, method="tip") if fill else None
    if match or fill:  # else nothing would train it
        pool = CrossPool(
            encoder.width,
            field=name,
            others=others,
            depth=depth,
            heads=encoder.num_heads,
            class_tokens=encoder.pool_name == "cls",
        )
        encoder.set_pool(FUSED, pool)
    return Tip(
        encoder.align(width, hidden=encoder.width),
        masked,
        table=name,
        others=others,
        match=match,
        fill=fill,
        temperature=temperature,
        corruption=corruption,
        view=view,
    )


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
        encoder: Aligned; its fused vectors are those of the interaction module.
        masked: Hides cells; None without reconstruction.
        table: The field of the cells.
        others: All other fields.
        match: Weight of matching.
        fill: Weight of reconstruction.
        temperature: Of the contrast.
        corruption: Share of the cells that are replaced by those of other records.
        view: How all other fields are augmented.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        masked: MaskedCells | None,
        *,
        table: str,
        others: Sequence[str],
        match: float,
        fill: float,
        temperature: float,
        corruption: float,
        view: str,
    ):
        super().__init__()
        self.encoder, self.masked = encoder, masked
        self.match_head = nn.Linear(encoder.width, 1) if match else None
        self.table, self.others = table, list(others)
        self.match, self.fill, self.temperature = match, fill, temperature
        self.corruption, self.marginals = corruption, None
        if corruption and encoder.fields[table].is_row:
            self.marginals = Marginals(len(table_modality(encoder, table).columns), QUANTILES)
        self.views = {f: ("plain" if f == table else view,) for f in encoder.fields}

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        """Keep what each column of the training records holds."""
        if self.marginals is not None:
            rows = [
                batch[self.table].flat.cpu() for batch in records if self.table in batch.columns
            ]
            if rows:
                self.marginals.fit(torch.cat(rows))

    def corrupt(self, batch: Batch) -> Batch:
        """The batch with some cells of the table replaced by those of other records."""
        if self.marginals is None or self.table not in batch.columns:
            return batch
        column = batch[self.table]
        cells_NC = self.marginals.corrupt(
            column.flat, batch.seeds[column.rows], share=self.corruption, name=self.table
        )
        columns = {**batch.columns, self.table: Column(cells_NC, column.rows)}
        return replace(batch, columns=columns)

    def features(self, batch: Batch) -> TipFeatures:
        encoder, t, content = self.encoder, self.table, self.encoder.patchify(self.corrupt(batch))
        positioned = {s: encoder.add_positions(tokens) for s, tokens in content.items()}
        context, reconstruct = alone(encoder, batch, positioned), {}
        z = vectors(encoder, context, batch.size)
        columns = m.token_features(encoder, context, list(encoder.fields))
        tokens = {f: columns[f"tokens/{f}"] for f in encoder.fields}
        if self.masked is not None:
            whole = content[t]  # hidden cells are predicted from true ones
            if self.marginals is not None:
                whole = encoder.patchify(batch.only(t))[t]
            hidden_T = self.masked.draw(encoder, whole, batch)
            cells = token_column(self.masked.encode(encoder, whole, hidden_T))
            target_T = encoder.fields[t].targets(batch[t].values)
            for s in self.others:
                reconstruct[s] = self.masked.predict_hidden(
                    encoder, cells, hidden_T, target_T, tokens[s], self.interaction.contextual
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

    @property
    def interaction(self) -> CrossPool:
        """The interaction module: cells read another field."""
        return cast(CrossPool, self.encoder.pools[FUSED])

    def matching_loss(self, features: TipFeatures, field: str) -> Tensor:
        """Image-tabular matching with hard negatives."""
        at_table, at_field = shared_rows(features.tokens[self.table], features.tokens[field])
        cells = ragged(features.tokens[self.table])[at_table]
        seen = ragged(features.tokens[field])[at_field]
        wrong_seen, wrong_cells = m.draw_negatives(
            Embeddings({**features.vectors, m.SEED: features.seed}, features.size),
            self.table,
            field,
            temperature=self.temperature,
            floor=1e-4,
        )
        rows = torch.arange(len(cells), device=wrong_seen.device)
        a, b = rows[wrong_seen >= 0], rows[wrong_cells >= 0]
        asked = torch.cat([rows, a, wrong_cells[b]])
        shown = torch.cat([rows, wrong_seen[a], b])
        # matching and mismatched pairs in one pass
        logits = self.pair_logits(cells[asked], seen[shown])
        return matching(logits[: len(rows)], logits[len(rows) :])

    def pair_logits(self, cells: Ragged, seen: Ragged) -> Tensor:
        """(N,) logits that cells and a value of another field belong together."""
        assert self.match_head is not None
        logits: Tensor = self.match_head(self.interaction.vector(cells, seen)).squeeze(1)
        return logits

    def match_logits(self, batch: Batch) -> Column:
        """Say of each row whether its fields belong together (`amodal search --rerank`).

        Args:
            batch: One view of each field.

        Returns:
            (N,) logits, the mean over the other fields, of the rows that have the table and
            another field.

        Raises:
            AmodalError: For a run without the matching head.
        """
        if self.match_head is None:
            raise AmodalError(
                "this run of tip was trained without matching (--method.match 0) and cannot judge "
                "what belongs together; leave --rerank out"
            )
        context = alone(self.encoder, batch)
        tokens = m.token_features(self.encoder, context, list(context))
        total, number = (torch.zeros_like(batch.seeds, dtype=torch.float32) for _ in range(2))
        for other in self.others:
            if not {f"tokens/{self.table}", f"tokens/{other}"} <= tokens.keys():
                continue
            cells, seen = tokens[f"tokens/{self.table}"], tokens[f"tokens/{other}"]
            at = shared_rows(cells, seen)
            logits = self.pair_logits(ragged(cells)[at[0]], ragged(seen)[at[1]])
            total = total.index_add(0, cells.rows[at[0]], logits.float())
            number = number.index_add(0, cells.rows[at[0]], torch.ones_like(logits.float()))
        rows = number.nonzero().squeeze(1)
        return Column(total[rows] / number[rows], rows)

    def fused(self, batch: Batch) -> Column:
        """The CLS token of the interaction module, the mean over the other fields of a row.

        Args:
            batch: One view of each field.

        Returns:
            (N, D) of every row that has any field. Also `encoder.features(batch)["fused"]`.
        """
        return self.encoder.features(batch)[FUSED]
