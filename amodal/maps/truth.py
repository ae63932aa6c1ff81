"""Rasters of labels, against which maps are measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from amodal.core import AmodalError, unknown
from amodal.data import Dataset
from amodal.maps.items import Items
from amodal.modalities import BadValue
from amodal.modalities.shared.rasters import UNKNOWN, class_raster, nearest_pixels


@dataclass(frozen=True)
class Truth:
    """The class number of every pixel of some records.

    Args:
        dataset: That has the rasters.
        name: Of the field or column.
        rows: (N,) records of the items.
        numbers: The class numbers that occur.
        is_mask: Whether they are 0 and 255 alone, which then stand for 0 and 1.
        one: The class that is 1, while all others are 0; None for class numbers as they are.
    """

    dataset: Dataset
    name: str
    rows: np.ndarray
    numbers: tuple[int, ...]
    is_mask: bool
    one: int | None = None

    @classmethod
    def open(cls, dataset: Dataset, name: str, items: Items) -> Truth:
        """Read all rasters once, for the numbers that occur.

        Args:
            dataset: That has them.
            name: The field.
            items: What is mapped.

        Raises:
            AmodalError: For a field that is none, that is no raster, and without any raster.
        """
        if name not in dataset.fields:
            raise unknown(f"field of {dataset.name!r} with rasters of labels", name, dataset.fields)
        numbers, any_raster, reason = set[int](), False, ""
        for row in items.labelled.tolist():
            raw = dataset.raw(row, name)
            if raw is None:
                continue
            try:
                numbers |= set(np.unique(class_raster(raw)).tolist())
                any_raster = True
            except BadValue as error:
                reason = reason or f": {dataset.keys[row]}: {error}"
        if not any_raster:
            raise AmodalError(f"none of the records has a raster of labels in {name!r}{reason}")
        is_mask = numbers == {0, UNKNOWN}
        known = {0, 1} if is_mask else numbers - {UNKNOWN}
        if not known or max(known) > UNKNOWN:
            raise AmodalError(
                f"class numbers are below {UNKNOWN}, which stands for unknown, and {name!r} has "
                f"{', '.join(map(str, sorted(numbers)[-3:]))}"
            )
        return cls(dataset, name, items.labelled, tuple(sorted(known)), is_mask)

    def raster(self, item: int, height: int, width: int) -> np.ndarray | None:
        """Class numbers (height, width) int64 of an item, -1 where unknown; None without any."""
        raw = self.dataset.raw(int(self.rows[item]), self.name)
        if raw is None:
            return None
        try:
            numbers = nearest_pixels(class_raster(raw), height, width)
        except BadValue:
            return None
        if self.is_mask:
            numbers = np.asarray((numbers > 0).astype(np.int64))
        known = np.ones(numbers.shape, dtype=bool) if self.is_mask else numbers != UNKNOWN
        if self.one is not None:
            numbers = (numbers == self.one).astype(np.int64)
        return np.where(known, numbers, -1)

    def only(self, number: int) -> Truth:
        """One class against all others.

        Raises:
            AmodalError: If it does not occur, so that nothing can be measured.
        """
        if number not in self.numbers:
            raise AmodalError(
                f"no pixel of {self.name!r} has the class {number} of the query; its numbers are "
                f"{', '.join(map(str, self.numbers))}. Write the number before a query: 1=a cat"
            )
        return replace(self, one=number, numbers=(0, 1))
