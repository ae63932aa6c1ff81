"""Records as a user's own loop reads them: items, batches of them, a data frame."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from amodal.core import AmodalError, Batch, Column
from amodal.data import splits
from amodal.data.class_numbers import class_numbers, known_numbers
from amodal.errors import described, warn
from amodal.modalities import BadValue

if TYPE_CHECKING:
    import pandas as pd

    from amodal.data.readers import Reader
    from amodal.data.schema import Label
    from amodal.modalities import Modality, Raw

ITEM_KEY = "__key__"
"""Of an item, as in WebDataset: no field can have a name that begins so."""
KEY, PART = "key", "part"


class Item(dict[str, Any]):
    """A record as a dict, which torch's own way to make batches meets by its type."""


def stacked(items: Sequence[Item], *, collate_fn_map: Any = None) -> Any:
    """Items as torch stacks them, where a loader has no `collate_fn`: a dict of tensors.

    Raises:
        AmodalError: An item lacks a value, or values differ in shape.
    """
    advice = "; pass collate_fn=dataset.collate to the DataLoader, which makes batches for encoders"
    for item in items:
        if missing := [field for field, value in item.items() if value is None]:
            raise AmodalError(
                f"the record {item.get(ITEM_KEY)!r} has no {missing[0]!r}, and torch cannot stack "
                f"what is missing{advice}"
            )
    try:
        return collate([dict(item) for item in items], collate_fn_map=collate_fn_map)
    except (RuntimeError, TypeError) as error:
        raise AmodalError(f"torch cannot stack these records: {error}{advice}") from error


default_collate_fn_map[Item] = stacked  # torch's way to say how a type is collated


class ItemsMixin:
    """Makes a dataset one of torch: it has a length, and items by number."""

    reader: Reader
    fields: dict[str, Modality]
    labels: dict[str, Label]
    keys: list[str]
    name: str
    _passed_over: set[tuple[str, str]] | None = None
    """The key and field of values that could not be read and are None; None to raise for them."""

    if TYPE_CHECKING:

        @cached_property
        def parts(self) -> np.ndarray: ...
        def value(self, i: int, field: str) -> np.ndarray | None: ...
        def raw(self, i: int, field: str) -> Raw | None: ...
        def label(self, name: str, *, required: bool = False) -> np.ndarray: ...

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Record i, decoded: `torch.utils.data.DataLoader(dataset, 8, collate_fn=dataset.collate)`.

        Returns:
            `__key__`, and each field as an array, None where the record has none, in the shape that
            its modality's `collate` takes.

        Raises:
            IndexError: there is no such record.
            AmodalError: the number is none, or a value cannot be read. A `Loader` goes on there,
                and so do items of `readable()`.
        """
        try:
            number = operator.index(i)
        except TypeError:
            raise AmodalError(
                f"a record is asked for by its number, not by {i!r}; take "
                "dataset.subset([0, 1]) for a choice, and dataset.value(0, name) for one field"
            ) from None
        n = len(self.keys)
        if not -n <= number < n:
            raise IndexError(f"record {number} of {n}")
        number %= n
        item = Item({ITEM_KEY: self.keys[number]})
        for field in self.fields:
            try:
                item[field] = self.value(number, field)
            except BadValue as error:
                self._unreadable(self.keys[number], field, error)
                item[field] = None
        return item

    def readable(self) -> Self:
        """The same records, whose items have None for values that cannot be read, with a warning.

        For a loop of one's own, which goes on as `pretrain` does. Call it last: what is made of
        it, such as a `subset`, raises.
        """
        same = copy.copy(self)
        same._pass_over()
        return same

    def _pass_over(self) -> None:
        self._passed_over = set()

    def _unreadable(self, key: str, field: str, error: BadValue) -> None:
        """Pass over a value that cannot be read.

        Raises:
            AmodalError: if this is not of `readable`.
        """
        message = f"{field} of the record {key!r} cannot be read: {error}"
        if self._passed_over is None:
            raise AmodalError(
                f"{message}. To go on without it, as pretrain does, take dataset.readable() in "
                "place of the dataset"
            ) from error
        if (key, field) not in self._passed_over:
            self._passed_over.add((key, field))
            warn(f"{message}; it is missing from now on")

    def collate(self, items: Sequence[Mapping[str, Any]]) -> Batch:
        """Items as a batch that an encoder takes.

        Args:
            items: of `__getitem__`. Arrays may have been changed, for an augmentation of one's own.

        Returns:
            A batch of the values that exist. Its labels are class numbers, in the order of
            `classes`, and amounts.
        """
        if not items:
            raise AmodalError("a batch has one record at least")
        if strange := [item for item in items if not isinstance(item, Mapping)]:
            raise AmodalError(
                f"collate takes items of this dataset, as in [dataset[0], dataset[1]], not "
                f"{described(strange[0])}"
            )
        keys = [str(item.get(ITEM_KEY)) for item in items]
        if others := [key for key in keys if key not in self._number_of]:
            raise AmodalError(
                f"collate takes items of this dataset, {self.name!r}, and none of its records is "
                f"called {others[0]!r}"
            )
        columns = {}
        for field, modality in self.fields.items():
            rows = [row for row, item in enumerate(items) if item.get(field) is not None]
            rng = np.random.default_rng(0)  # the plain view draws nothing
            seen = [modality.augment(items[row][field], "plain", rng) for row in rows]
            columns[field] = Column(modality.collate(seen), torch.tensor(rows, dtype=torch.int64))
        numbers = [self._number_of[key] for key in keys]
        batch = Batch.of(len(items), columns, keys)
        labels = {
            name: known_numbers(values[numbers]) for name, (values, _) in self._numbered.items()
        }
        return Batch(batch.size, batch.columns, batch.keys, batch.seeds, labels)

    def classes(self, label: str) -> list[str]:
        """The names of the classes of a label, in the order of their numbers in batches."""
        return class_numbers(self.label(label))[1]

    def to_pandas(self) -> pd.DataFrame:
        """The records as they are in the data: a column for the key, each field, each label and the
        part of the split (train, valid, test).

        Raises:
            AmodalError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise AmodalError("a data frame needs pandas: pip install pandas") from error
        columns: dict[str, Any] = {ITEM_KEY if KEY in self.fields else KEY: list(self.keys)}
        for field in self.fields:
            columns[field] = [self._raw_or_none(i, field) for i in range(len(self.keys))]
        for name in self.labels:
            columns[name if name not in columns else f"label {name}"] = self.label(name)
        columns[PART if PART not in columns else f"{PART} of the split"] = np.array(splits.PARTS)[
            self.parts
        ]
        return pd.DataFrame(columns)

    def _raw_or_none(self, i: int, field: str) -> Raw | None:
        """A value as the data holds it, None of a damaged line."""
        try:
            return self.raw(i, field)
        except AmodalError:
            return None

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {key: i for i, key in enumerate(self.keys)}

    @cached_property
    def _numbered(self) -> dict[str, tuple[np.ndarray, list[str]]]:
        """Label -> its class numbers or amounts, and the names of the classes."""
        return {name: class_numbers(self.label(name)) for name in self.labels}
