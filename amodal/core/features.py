"""The features of a method, as a frozen record of columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from amodal.core.column import Column
from amodal.core.embeddings import Embeddings
from amodal.errors import AmodalError, unknown

Columns = Mapping[str, Column]
"""Source -> column."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureRecord:
    """The features of a batch, through which gradients pass from the losses to the encoder.

    A method subclasses it as a frozen dataclass. Its fields are a `Column`, `Columns`, or
    `Column | None` for one that some batches lack. The loop uses only `columns` and `with_columns`
    to split, gather and stack them.

    Args:
        size: Rows of the batch, B.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Views(FeatureRecord):
        ...     student: Columns  # source -> (N, D)
        ...     teacher: Columns  # source -> (N, D), without a gradient
    """

    size: int

    @property
    def columns(self) -> dict[str, Column]:
        """All columns by name: the field's, or `field/source` for those of a mapping."""
        flat: dict[str, Column] = {}
        for name in self._names():
            value = getattr(self, name)
            if isinstance(value, Column):
                flat[name] = value
            elif value is not None:
                flat |= {f"{name}/{source}": column for source, column in value.items()}
        return flat

    def with_columns(self, columns: Columns, size: int) -> Self:
        """A record with other values of the same columns.

        Args:
            columns: With the names of `columns`.
            size: Rows of the other batch.
        """
        values: dict[str, Any] = {}
        for name in self._names():
            before = getattr(self, name)
            if isinstance(before, Column):
                values[name] = columns[name]
            elif before is not None:
                values[name] = {source: columns[f"{name}/{source}"] for source in before}
            else:
                values[name] = None
        return dataclasses.replace(self, size=size, **values)

    def __getitem__(self, name: str) -> Column:
        columns = self.columns
        if name not in columns:
            raise unknown(f"column of {type(self).__name__}", name, columns)
        return columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __post_init__(self) -> None:
        for name in self._names():
            value = getattr(self, name)
            if not (value is None or isinstance(value, Column | Mapping)):
                raise AmodalError(
                    f"{type(self).__name__}.{name} is a {type(value).__name__}; features are "
                    "columns, one entry a row: a Column, or a dict of source -> Column"
                )

    def _names(self) -> list[str]:
        return [f.name for f in dataclasses.fields(self) if f.name != "size"]


Features = Embeddings | FeatureRecord
"""What `Method.features` returns."""


def stack_features(parts: Sequence[Features]) -> Features:
    """Concatenate the features of consecutive batches."""
    sizes, columns = [part.size for part in parts], [part.columns for part in parts]
    whole = {name: Column.stack([c[name] for c in columns], sizes) for name in columns[0]}
    return parts[0].with_columns(whole, sum(sizes))
