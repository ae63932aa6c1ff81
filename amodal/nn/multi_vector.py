"""Lists of vectors of each value, for search by late interaction: its tokens, or its regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Batch, Column, Embeddings, Ragged, Tokens, field_of, unknown
from amodal.core.column import spans
from amodal.core.host import on_host, take
from amodal.core.part import Part
from amodal.nn.grid_pool import grid_pool, part_numbers
from amodal.nn.pooling import Pool
from amodal.nn.trunks import SourceTokens

if TYPE_CHECKING:
    from amodal.nn.encoder import Encoder

KINDS = ("tokens", "regions")


class MultiVector(Part):
    """Makes a list of vectors of each value (`Encoder.multi_vector`).

    Args:
        kind: "tokens": records are the tokens of all fields but `query_field`, which see each other
            in the trunk, and queries are tokens too (CLaMR). "regions": records are the whole and
            the cells of a grid, of every field but `query_field`, and queries are one vector
            (SORCE).
        query_field: The field that queries are of in training.
        grid: Cells along each axis, for regions.

    Raises:
        AmodalError: For another kind.
    """

    def __init__(self, kind: str, query_field: str, grid: int = 0):
        super().__init__()
        if kind not in KINDS:
            raise unknown("kind of multi-vector encoder", kind, KINDS)
        self.kind, self.query_field, self.grid = kind, query_field, grid

    @property
    def queries_are_lists(self) -> bool:
        """Whether a query is a list of vectors too."""
        return self.kind == "tokens"

    def of_records(self, encoder: Encoder, batch: Batch) -> tuple[Embeddings, dict[str, Tensor]]:
        """The vectors of records.

        Returns:
            Field -> N lists of unit vectors (n, D), or (N, D) of a field with one each; and for
            each field with lists the number of every vector (sum of n,) int64, which `part` names.
            With tokens `query_field` is left out: it is no part of a record.
        """
        if self.kind == "tokens":
            fields = [s for s in batch.sources if s != self.query_field]
            z = token_vectors(encoder, batch.only(*fields), self.query_field)
            return z, {s: _within(_lists(c).lengths) for s, c in z.columns.items()}
        context = per_source(encoder, batch)
        columns: dict[str, Column] = {}
        numbers: dict[str, Tensor] = {}
        for source, tokens in context.items():
            if field_of(source) not in encoder.fields:
                continue
            if source == self.query_field:
                assert encoder.heads is not None
                whole: Column = encoder.pools[source](tokens)
                unit = normalize(encoder.heads[source](whole.flat), dim=1)
                columns[source] = Column(unit, whole.rows)
                continue
            regions = region_vectors(encoder, context, source, self.grid)
            columns[source] = regions.with_flat(normalize(regions.flat, dim=1))
            numbers[source] = part_numbers(
                _pool(encoder, source).strip(tokens), regions.rows, self.grid
            )
        return Embeddings(columns, batch.size), numbers

    def of_query(self, encoder: Encoder, batch: Batch, field: str) -> Ragged:
        """The vectors of the values of one field as queries.

        Returns:
            A list of unit vectors (n, D) for each value; n = 1 unless `queries_are_lists`.
        """
        if self.kind == "tokens":
            tokens = encoder.encode({field: encoder.tokenize(batch.only(field))[field]})[field]
            column, rows = unit_tokens(encoder, tokens), batch[field].rows
            vectors = _lists(column)
            lengths = torch.zeros_like(rows)  # a value may have no token
            lengths[torch.searchsorted(rows, column.rows)] = vectors.lengths
            return Ragged(vectors.flat, lengths)
        unit = normalize(encoder(batch.only(field))[field].flat, dim=1)
        return Ragged(unit, torch.ones(len(unit), dtype=torch.int64, device=unit.device))

    def part(self, encoder: Encoder, field: str, number: int) -> str:
        """The name of a part of a value: "whole", "row 1 of 2, column 2 of 2", "part 3".

        Args:
            encoder: Knows the modality, which names its axes.
            field: The field.
            number: Of a vector, as `of_records` gives it.
        """
        if self.kind == "tokens" or field == self.query_field or field not in encoder.fields:
            return ""
        if number == 0:
            return "whole"
        cell, names = number - 1, encoder.fields[field].axis_names
        return ", ".join(
            f"{name} {cell // self.grid**axis % self.grid + 1} of {self.grid}"
            for axis, name in names.items()
        )


def token_column(tokens: Tokens) -> Column:
    """The tokens of one source as a column of N lists (length, D), for losses between parts."""
    rows = tokens.rows()
    return Column(Ragged(tokens.x, take(tokens.lengths(), rows)), rows)


def per_source(encoder: Encoder, batch: Batch, tokens: SourceTokens | None = None) -> SourceTokens:
    """Tokens after the trunk, each source seen alone, whatever the trunk.

    Args:
        encoder: The encoder.
        batch: The values.
        tokens: What `Encoder.tokenize` makes of the batch, where a method has it already.
    """
    tokens = encoder.tokenize(batch) if tokens is None else tokens
    if encoder.routing.is_per_source:
        return encoder.encode(tokens)
    return {s: encoder.encode({s: part})[s] for s, part in tokens.items()}


def unit_tokens(encoder: Encoder, tokens: Tokens) -> Column:
    """The tokens of one source through the head of its field, as N lists of unit vectors.

    With mean pooling the vector of the value is the mean of these tokens before they are
    normalised, so tokens and vectors share a space.
    """
    assert encoder.heads is not None
    field = field_of(tokens.names[0])
    column = token_column(_pool(encoder, field).strip(tokens))
    return column.with_flat(normalize(encoder.heads[field](column.flat), dim=1))


def token_vectors(encoder: Encoder, batch: Batch, query_field: str) -> Embeddings:
    """Field -> N lists of unit vectors, one a token.

    Tokens of `query_field` are encoded by themselves, those of all other fields of a row together.
    """
    tokens = encoder.tokenize(batch)
    groups = [
        {s: part for s, part in tokens.items() if (s == query_field) == is_query}
        for is_query in (True, False)
    ]
    context = {s: part for group in groups if group for s, part in encoder.encode(group).items()}
    return Embeddings({s: unit_tokens(encoder, context[s]) for s in tokens}, batch.size)


def region_vectors(encoder: Encoder, context: SourceTokens, source: str, grid: int = 2) -> Column:
    """One source as a whole and its regions, through the head of its field.

    Args:
        encoder: With heads.
        context: Of `per_source`.
        source: The source.
        grid: See `grid_pool`.

    Returns:
        N lists of vectors (D), not normalised.
    """
    assert encoder.heads is not None
    field, tokens = field_of(source), context[source]
    regions = grid_pool(_pool(encoder, field).strip(tokens), encoder.pools[field](tokens), grid)
    return regions.with_flat(encoder.heads[field](regions.flat))


def _pool(encoder: Encoder, field: str) -> Pool:
    return cast(Pool, encoder.pools[field])


def _lists(column: Column) -> Ragged:
    assert isinstance(column.values, Ragged)
    return column.values


def _within(lengths: Tensor) -> Tensor:
    """(sum of lengths,) int64: the number of each entry in its list."""
    return spans(on_host(torch.zeros_like, lengths), lengths)
