"""SCARF: a row of a table and its copy, in which some cells are drawn from what their columns hold
elsewhere, are contrasted within the batch. Bahri, Jiang, Tay and Metzler, ICLR 2022,
arXiv:2106.15147. Loss: their algorithm 1, InfoNCE of a row among the corrupted rows.

Each table learns from its own rows. Fields of other modalities stay as they are.

Differs:
- A missing cell stays missing in both views, and a row of m present cells has floor(c m) of them
  corrupted. The paper fills missing cells in beforehand.
- The marginal of a column is every value that training records have in it, each as often as it
  occurs; of more than `quantiles` present ones, that many order statistics at even distances.
- The sum in the denominator is not divided by the number of rows, which adds log N to the loss and
  changes no gradient.
- The encoder is the transformer over cells; the paper's has four layers of 256 over the
  concatenated cells. `backbones={FIELD: MODULE}` takes such a network.
- Training ends with the epochs of the recipe. The paper stops early when the loss of held-out rows
  has not fallen for three epochs, and has 1,000 epochs as the most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, Recipe
from amodal.methods.contract import Features
from amodal.methods.shared.marginals import Marginals
from amodal.methods.shared.one_modality import only_fields
from amodal.methods.shared.shapes import Towers, share, view_pairs
from amodal.methods.shared.typed_parts import table_modality
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    schedule="constant",
    warmup_steps=0,
    clip=0.0,
    batch_size=128,
    epochs=1000,
)


def scarf(
    encoder: Encoder,
    *,
    corruption: float = 0.6,
    temperature: float = 1.0,
    width: int = 256,
    hidden: int = 256,
    quantiles: int = 4096,
) -> Scarf:
    """Contrast rows of tables with copies that are corrupted by the marginals of their columns.

    Args:
        encoder: Of at least one table.
        corruption: c, share of a row's cells that are drawn anew.
        temperature: Of the softmax.
        width: Of the projector's output.
        hidden: Of its hidden layer.
        quantiles: Values that are kept of each column, at most.

    Raises:
        AmodalError: Without a table, and for a corruption outside 0 … 1.
    """
    if not 0 < corruption <= 1:
        raise AmodalError(
            "scarf.corruption is the share of cells to draw anew, above 0 and at most 1, not "
            f"{corruption:g}"
        )
    if quantiles < 1:
        raise AmodalError(f"scarf.quantiles is at least 1, not {quantiles}")
    return Scarf(
        encoder,
        corruption=corruption,
        temperature=temperature,
        width=width,
        hidden=hidden,
        quantiles=quantiles,
    )


class Scarf(Towers):
    """See `scarf`."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        corruption: float,
        temperature: float,
        width: int,
        hidden: int,
        quantiles: int,
    ):
        tables = only_fields(
            encoder,
            lambda modality: modality.is_row,
            method="scarf",
            kind="tables",
            instead="simclr or mae",
        )
        heads = {f: projector(encoder.feature_width(f), hidden, width) for f in tables}

        def objective(z: Embeddings) -> dict[str, Tensor]:
            return share(
                {
                    f"info_nce/{a}~{b}": info_nce(
                        *z.pair(a, b), temperature=temperature, symmetric=False
                    )
                    for a, b in view_pairs(z)
                }
            )

        super().__init__(encoder, objective, heads=heads, views=("plain",))
        self.tables, self.corruption = tables, corruption
        self.marginals = nn.ModuleDict(
            {f: Marginals(len(table_modality(encoder, f).columns), quantiles) for f in self.tables}
        )

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        """Keep what each column of the training records holds."""
        values: dict[str, list[Tensor]] = {f: [] for f in self.tables}
        for batch in records:
            for field in values:
                values[field].append(batch[field].flat.cpu())
        for field, parts in values.items():
            self._marginals(field).fit(torch.cat(parts))

    def features(self, batch: Batch) -> Features:
        """source -> (N, D): `FIELD:1` of the rows as they are, `FIELD:2` of corrupted ones."""
        columns = {}
        for field in self.tables:
            column = batch[field]
            columns[f"{field}:1"] = column
            columns[f"{field}:2"] = Column(self.corrupt(field, column, batch.seeds), column.rows)
        z = self.encoder.features(replace(batch, columns=columns))
        return Embeddings({s: z[s] for s in columns}, batch.size)

    def corrupt(self, field: str, column: Column, seeds: Tensor) -> Tensor:
        """(N, C) the rows of a table with some cells drawn anew; see `Marginals.corrupt`."""
        return self._marginals(field).corrupt(
            column.flat, seeds[column.rows], share=self.corruption, name=field
        )

    def _marginals(self, field: str) -> Marginals:
        return cast(Marginals, self.marginals[field])


def projector(width_in: int, hidden: int, width: int) -> nn.Sequential:
    """Two linear layers with a ReLU between, without batch statistics."""
    return nn.Sequential(nn.Linear(width_in, hidden), nn.ReLU(), nn.Linear(hidden, width))
