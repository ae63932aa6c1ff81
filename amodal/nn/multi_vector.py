"""Encoders that give several vectors of one value, for search by late interaction: its tokens, or
the whole and its regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Batch, Column, Embeddings, Ragged, Tokens, field_of, unknown
from amodal.core.column import spans
from amodal.core.host import on_host, take
from amodal.core.part import Part
from amodal.nn.grid_pool import numbers, places

if TYPE_CHECKING:
    from amodal.nn.encoder import Encoder
from amodal.nn.trunks import Bags

KINDS = ("tokens", "places")


class MultiVector(Part):
    """How an encoder makes several vectors of a value (`Encoder.multi_vector`).

    Args:
        kind: "tokens": records are the tokens of all fields but `query_field`, read in company, and
        queries are tokens too (CLaMR);
            "places": records are the whole and the cells of a grid of every field but
            `query_field`, queries are one vector (SORCE).
        query_field: The field that queries are of in training.
        grid: Cells along each axis.
    """

    def __init__(self, kind: str, query_field: str, grid: int = 0):
        super().__init__()
        if kind not in KINDS:
            raise unknown("kind of several vectors", kind, KINDS)
        self.kind, self.query_field, self.grid = kind, query_field, grid

    @property
    def queries_are_lists(self) -> bool:
        """Whether a query is a list of vectors too."""
        return self.kind == "tokens"

    def of_records(self, encoder: Encoder, batch: Batch) -> tuple[Embeddings, dict[str, Tensor]]:
        """field -> Column of Ragged unit vectors (n, D), or of one unit vector each, and of the
        former the number of every vector (sum of n,) int64, which `part` names. With tokens the
        field that asks has none: it is no part of a record."""
        if self.kind == "tokens":
            z = token_vectors(
                encoder,
                batch.only(*(s for s in batch.sources if s != self.query_field)),
                self.query_field,
            )
            return z, {s: _within(c.values.lengths) for s, c in z.columns.items()}
        context, columns, told = alone(encoder, batch), {}, {}
        for source, bag in context.items():
            if field_of(source) not in encoder.fields:
                continue
            if source == self.query_field:
                whole = encoder.pools[source](bag)
                columns[source] = Column(
                    normalize(encoder.heads[source](whole.values), dim=1), whole.rows
                )
                continue
            several = regional(encoder, context, source, self.grid)
            unit = Ragged(normalize(several.values.flat, dim=1), several.values.lengths)
            columns[source] = Column(unit, several.rows)
            told[source] = numbers(encoder.pools[source].strip(bag), several.rows, self.grid)
        return Embeddings(columns, batch.size), told

    def of_query(self, encoder: Encoder, batch: Batch, field: str) -> Ragged:
        """Unit vectors of the values of one field as queries, a list (n, D) of each: n = 1 unless
        queries are lists, then its tokens."""
        if self.kind == "tokens":
            bag = encoder.encode({field: encoder.tokenize(batch.only(field))[field]})[field]
            found, rows = regions(encoder, bag), batch[field].rows
            lengths = torch.zeros_like(rows)  # a value may have no token
            lengths[torch.searchsorted(rows, found.rows)] = found.values.lengths
            return Ragged(found.values.flat, lengths)
        vectors = normalize(encoder(batch.only(field))[field].values, dim=1)
        return Ragged(vectors, torch.ones(len(vectors), dtype=torch.int64, device=vectors.device))

    def part(self, encoder: Encoder, field: str, number: int) -> str:
        """Which part of a value the vector of this number is of, for people: "whole", "row 1 of 2,
        column 2 of 2", "part 3"."""
        if self.kind == "tokens" or field == self.query_field or field not in encoder.fields:
            return ""
        if number == 0:
            return "whole"
        number, names = number - 1, encoder.fields[field].axis_names
        return ", ".join(
            f"{name} {number // self.grid**i % self.grid + 1} of {self.grid}"
            for i, name in names.items()
        )


def token_column(bag: Tokens) -> Column:
    """The tokens of one source as a column, for losses that look at parts: Ragged of (N,) values
    (tokens, D)."""
    rows = bag.rows()
    return Column(Ragged(bag.x, take(bag.lengths(), rows)), rows)


def alone(encoder: Encoder, batch: Batch, bags: Bags | None = None) -> Bags:
    """source -> its tokens at the end of the trunk, each source seen alone, whatever the trunk.
    bags: what `Encoder.tokenize` makes of the batch, if the method has it already."""
    bags = encoder.tokenize(batch) if bags is None else bags
    if encoder.routing.reads_alone:
        return encoder.encode(bags)
    return {s: encoder.encode({s: bag})[s] for s, bag in bags.items()}


def regions(encoder: Encoder, bag: Tokens) -> Column:
    """Ragged of unit vectors: the tokens of one source through the head of its field. With mean
    pooling the field's vector is the mean of the tokens behind that head, so tokens and vectors
    share a space."""
    field = field_of(bag.names[0])
    column = token_column(encoder.pools[field].strip(bag))
    unit = normalize(encoder.heads[field](column.values.flat), dim=1)
    return column.with_flat(unit)


def token_vectors(encoder: Encoder, batch: Batch, query_field: str) -> Embeddings:
    """field -> Ragged of unit vectors: the tokens of the field that asks by themselves, those of
    all others of a row in company."""
    bags = encoder.tokenize(batch)
    apart = [
        {s: bag for s, bag in bags.items() if (s == query_field) == mine} for mine in (True, False)
    ]
    context = {s: bag for some in apart if some for s, bag in encoder.encode(some).items()}
    return Embeddings({s: regions(encoder, context[s]) for s in bags}, batch.size)


def regional(encoder: Encoder, context: Bags, source: str, grid: int = 2) -> Column:
    """Ragged of vectors in the aligned space: of one source as a whole, and of its regions.
    context: of `alone`."""
    field, bag = field_of(source), context[source]
    several = places(encoder.pools[field].strip(bag), encoder.pools[field](bag), grid)
    return several.with_flat(encoder.heads[field](several.flat))


def _within(lengths: Tensor) -> Tensor:
    """(sum of lengths,) int64: the place of each in its list."""
    return spans(on_host(torch.zeros_like, lengths), lengths)
