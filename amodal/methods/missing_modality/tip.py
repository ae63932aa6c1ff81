"""TIP: a table and a picture find each other, are told from mismatched pairs, and tell hidden
cells, so that cells may be missing later. Du, Zheng, Wang, Bai, O'Regan and Qin, ECCV 2024,
arXiv:2407.07582. Losses: their image-tabular contrastive learning, image-tabular matching and
masked tabular reconstruction, a third each. Row 22 of the catalogue.

A missing cell is no token here, which is what their attention mask comes to. Differences: the
interaction module has a CLS token of its own (theirs comes from the table's encoder), so that a row
without a table has a fused vector too; the other cells may look at hidden cells, which say no more
than their column; categories and numbers weigh as many cells as they are, not a half each; a code
is told among those of its column. Any field may take the part of the table; it is matched with each
other field, and all fields are contrasted with each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings, Ragged
from amodal.methods.contract import Features, Method
from amodal.methods.shared import matching as m
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import field_pairs, share, token_column, token_mean, two_fields
from amodal.nn.attention.cross import side_by_side
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce


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
    """table: the field whose cells are hidden and read the other fields, the first table unless
    given (without any, the first text, or the last field). match, fill: weights of matching and of
    reconstruction beside that of the contrast, 0 for none; ratio: share of cells hidden; width: of
    the common space; temperature: of the contrast, fixed; depth: blocks of the interaction module;
    view: of all other fields."""
    tables = [f for f, modality in two_fields(encoder).fields.items() if modality.is_row]
    name, others = m.pick_text_field(encoder, table or next(iter(tables), ""))
    module = Interaction(encoder.width, depth=depth, heads=encoder.heads_each)
    masked = m.MaskedWords(encoder, name, ratio) if fill else None
    method = Tip(
        encoder.align(width, hidden=encoder.width),
        module,
        masked,
        name,
        others,
        (match, fill),
        temperature,
    )
    method.views = {f: ("plain" if f == name else view,) for f in encoder.fields}
    return method


class Interaction(m.Matcher):
    """Cells and, before them, a token that stands for all of them read another field."""

    def __init__(self, width: int, *, depth: int, heads: int):
        super().__init__(width, depth=depth, heads=heads)
        self.cls = nn.Parameter(torch.randn(width) * 0.02)

    def vector(self, cells: Ragged, seen: Ragged) -> Tensor:
        """(N, D): the end of that token. Either list may be empty."""
        first = Ragged(
            self.cls.to(cells.flat.dtype).expand(len(cells), -1), torch.ones_like(cells.lengths)
        )
        read = self.cross(side_by_side([first, cells]), seen)
        return read.flat[read.starts()]

    def forward(self, words: Ragged, seen: Ragged, strength: Tensor | None = None) -> Tensor:
        return self.head(self.vector(words, seen)).squeeze(1)


class Tip(Method):
    """Features: vectors of all sources, their `tokens/`, and `reconstruct/` the sums of hidden
    cells."""

    min_batch_size = 2

    def __init__(self, encoder, module, masked, table, others, weights, temperature):
        super().__init__()
        self.encoder, self.module, self.masked, self.table, self.others = (
            encoder,
            module,
            masked,
            table,
            others,
        )
        self.match, self.fill, self.temperature = *weights, temperature

    def features(self, batch: Batch) -> Features:
        encoder, t, content = self.encoder, self.table, self.encoder.patchify(batch)
        context = alone(
            encoder, batch, {s: encoder.add_positions(bag) for s, bag in content.items()}
        )
        columns = vectors(encoder, context, batch.size).columns | {m.SEED: m.seed_column(batch)}
        columns |= m.token_features(encoder, context, list(encoder.fields))
        if self.masked is not None:
            hidden_T = self.masked.draw(content[t], batch.seeds)
            cells = token_column(self.masked.encode(encoder, content[t], hidden_T))
            read = cells, hidden_T, encoder.fields[t].targets(batch[t].values)
            for s in self.others:
                guess = self.masked.predict_hidden(
                    encoder, *read, columns[f"tokens/{s}"], self.module.cross
                )
                columns[f"reconstruct/{s}"] = guess
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        z = Embeddings({f: features[f] for f in self.encoder.fields}, features.size)
        how = {"temperature": self.temperature}
        found = share(
            {f"contrast/{a}~{b}": info_nce(*z.pair(a, b), **how) / 3 for a, b in field_pairs(z)}
        )
        if self.match:
            item = {
                s: m.item_matching(self.module, features, self.table, s, floor=1e-4, **how)
                for s in self.others
            }
            found |= share({f"match/{s}": self.match * loss / 3 for s, loss in item.items()})
        if self.masked is not None:
            told = {
                f"reconstruct/{s}": token_mean(features[f"reconstruct/{s}"]) for s in self.others
            }
            found |= share({name: self.fill * loss / 3 for name, loss in told.items()})
        return found

    def fused(self, batch: Batch) -> Column:
        """(N, D) for every row that has anything: what the interaction module makes of its cells,
        if there are any, and another field, the mean over the others that the row has. One view of
        each field."""
        context = alone(self.encoder, batch)
        columns = m.token_features(self.encoder, context, list(context))
        zero = torch.zeros_like(batch.seeds)  # lists are empty for rows without
        lists = {
            s: Ragged(c.values.flat, zero.index_copy(0, c.rows, c.values.lengths))
            for s, c in columns.items()
        }
        cells, seen = lists[f"tokens/{self.table}"], [lists[f"tokens/{s}"] for s in self.others]
        there = torch.stack([one.lengths > 0 for one in seen])
        each = torch.stack([self.module.vector(cells, one) for one in seen])
        weight = (
            (there | ~there.any(0)).to(each.dtype).unsqueeze(2)
        )  # without any other all read nothing, and are the same
        rows = (there.any(0) | (cells.lengths > 0)).nonzero().squeeze(1)
        return Column(((each * weight).sum(0) / weight.sum(0))[rows], rows)
