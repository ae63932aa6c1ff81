"""A row of a table: numeric, categorical and missing cells."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged, unknown
from amodal.core.host import constant, host_copy, on_host, to_device
from amodal.errors import nearest
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared import simple as _simple
from amodal.modalities.shared.base import (
    Attribute,
    BadValue,
    FittedFeatures,
    Modality,
    NoSimpleFeatures,
    Raw,
    Schema,
    SimpleFeatures,
    at_most,
    build,
    check_view,
    decodable,
    first_names,
    from_json,
    listed,
    read_each,
)
from amodal.modalities.shared.cells import category, is_missing, is_numeric, moments, number, plain
from amodal.modalities.shared.corruption import with_missing
from amodal.modalities.shared.files import read_bytes
from amodal.modalities.shared.formatting import not_a_row, not_json
from amodal.modalities.shared.requests import cells_of
from amodal.modalities.shared.tokenizers.table import TableGraph, TableTokenizer, group_columns

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

MAX_CATEGORIES = 256
WIDE_TABLE = 64
"""From this number of columns on `infer` groups them, into about half as many tokens."""
DROP_RATE = {"weak": 0.1, "strong": 0.3, "local": 0.65}  # share of the cells


@dataclass(frozen=True)
class Table(Modality):
    """A row of a table. A value is (C,) float32: numbers or codes of categories, NaN where missing.

    A category that is not listed has the code after the last ("other"). There is one token for each
    cell that exists or, in a wide table, for each `patch` neighbouring columns with any cell.

    Attributes:
        columns: their names, in order.
        categories: name -> values of a categorical column; all others are numeric.
        mean, std: of each column, measured by `infer` (0 and 1 for categorical ones).
        frequencies: of a periodic embedding of numbers, learned for each column (Gorishniy et al.,
            2022); 0: linear only.
        patch: columns of a token (the cost of attention falls with its square).
    """

    columns: tuple[str, ...] = ("value",)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    frequencies: int = 0
    patch: int = 1

    simple_name: ClassVar[str] = "raw cells"
    suffixes: ClassVar[frozenset[str]] = frozenset({".json"})
    magic: ClassVar[tuple[bytes, ...]] = (b"{",)
    raw_text: ClassVar[str] = "value"
    placeholder: ClassVar[str] = '{"column": value, …}'
    uploads: ClassVar[bool] = False
    is_row: ClassVar[bool] = True
    backbones: ClassVar[tuple[str, ...]] = ("mlp", "vector_transformer")

    def __post_init__(self) -> None:
        if not self.columns or len(set(self.columns)) < len(self.columns):
            raise AmodalError(
                f"table.columns must be one or more different names, got {list(self.columns)}"
            )
        for name in self.categories:
            if name not in self.columns:
                hint = "It has categories but is not among the columns."
                raise unknown("column of this table", name, self.columns, hint)
        if self.patch < 1:
            raise AmodalError(f"table.patch is a number of columns, at least 1, not {self.patch}")
        at_most("table", {"patch": (self.patch, 2**16), "frequencies": (self.frequencies, 4096)})
        if self.frequencies < 0:
            raise AmodalError(f"table.frequencies is 0 or more, not {self.frequencies}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, len(self.columns)):
                raise AmodalError(
                    f"table.{name} has {len(getattr(self, name))} numbers for {len(self.columns)} "
                    "columns"
                )

    @classmethod
    def infer(cls, samples: Sequence[Raw], **overrides: Any) -> Table:
        """See `Modality.infer`.

        columns: in the order of appearance. A column is numeric if all its cells are, or if most
        are numbers or dates and no text; else its categories are the 256 most frequent cells. mean
        and std: measured. patch: such that tables wider than 64 columns have about 32 tokens.
        """
        wanted = tuple(overrides.get("columns", ()))
        rows = read_each(samples, lambda raw: _read(raw, wanted))
        columns = tuple(
            overrides.get("columns") or dict.fromkeys(name for row in rows for name in row)
        )
        cells = {c: [row[c] for row in rows if not is_missing(row.get(c))] for c in columns}
        categories = {
            c: _categories(present) for c, present in cells.items() if not is_numeric(present)
        }
        patch = 1 if len(columns) <= WIDE_TABLE else -(-len(columns) // (WIDE_TABLE // 2))
        table = build(
            cls, {"columns": columns, "categories": categories, "patch": patch} | overrides
        )
        mean, std = moments(np.stack(decodable(table, samples)))
        numeric = table.numeric()
        mean, std = (
            tuple(m if n else d for m, n in zip(ms, numeric)) for ms, d in ((mean, 0.0), (std, 1.0))
        )
        return replace(table, mean=table.mean or mean, std=table.std or std)

    def numeric(self) -> tuple[bool, ...]:
        """Which columns are numeric."""
        return tuple(c not in self.categories for c in self.columns)

    def num_codes(self) -> tuple[int, ...]:
        """Number of codes of each column, "other" included; 0 for numeric ones."""
        return tuple(
            len(self.categories[c]) + 1 if c in self.categories else 0 for c in self.columns
        )

    def decode(self, raw: Raw) -> np.ndarray:
        """(C,) float32 from a dict name -> cell, a list or array, or the cell of a single column.

        A dict (also JSON: Path or bytes) may have other columns, and lack some; a list is in order.
        """
        row = _read(raw, self.columns)
        if not any(c in row for c in self.columns):
            close = next((near[0] for name in row if (near := nearest(name, self.columns))), "")
            hint = f"; did you mean {close}?" if close else ""
            raise BadValue(
                f"none of the columns {listed(self.columns)}; it has "
                f"{listed(row) or 'nothing'}{hint}"
            )
        cells = np.array([self._cell(c, row.get(c)) for c in self.columns], dtype=np.float64)
        value = self.bounded(cells).astype(np.float32)
        if np.isnan(value).all():
            raise BadValue("every cell is missing")
        return value

    def place(self, index: tuple[int, ...]) -> str:
        return f"the cell {self.columns[index[0]]!r}"

    def _cell(self, column: str, cell: Any) -> float:
        if column in self.categories:
            if is_missing(cell):
                return float("nan")
            codes = self.categories[column]
            return codes.index(category(cell)) if category(cell) in codes else len(codes)
        try:
            return number(cell)
        except ValueError:
            raise BadValue(f"{column}: {cell!r} is not a number") from None

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """See `Modality.augment`. At least one cell stays.

        weak: a tenth of the cells dropped, noise of .02 deviations on numbers. strong: three tenths
        and .1. local: two thirds and .1 (subsets of columns as views: Ucar et al., SubTab, 2021).
        """
        check_view(view)
        if view == "plain":
            return value
        std, numeric = np.asarray(self.scale()[1], dtype=np.float32), np.array(self.numeric())
        noise = (
            rng.standard_normal(len(value), dtype=np.float32)
            * std
            * np.float32(0.02 if view == "weak" else 0.1)
        )
        # a cell that is missing has no luck
        draws = np.where(np.isnan(value), 1, rng.random(len(value)))
        # the least draw always passes, so that one cell stays
        keep = draws < max(1 - DROP_RATE[view], np.nextafter(draws.min(), 2))
        return np.where(keep, value + np.where(numeric, noise, 0), np.nan).astype(np.float32)

    def collate(self, values: Sequence[np.ndarray]) -> Tensor:
        """(N, C) float32."""
        return torch.from_numpy(np.stack(values)) if values else torch.zeros(0, len(self.columns))

    def for_module(self, values: Tensor | Ragged) -> Tensor:
        """(N, C) without NaN: a missing number is its column's mean, a missing code is -1."""
        assert isinstance(values, Tensor), "`collate` makes one"
        numeric = constant(self.numeric(), values, torch.bool)
        usual = torch.where(numeric, constant(self.scale()[0], values), -1.0)
        return torch.where(values.isnan(), usual, values)

    def scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each column; 0 and 1 where they were not measured."""
        return self.mean or (0.0,) * len(self.columns), self.std or (1.0,) * len(self.columns)

    def standardised(self, values_NC: Tensor) -> Tensor:
        """(N, C): numbers in deviations from their mean, codes as they are."""
        mean, std = (constant(s, values_NC) for s in self.scale())
        numeric = constant(self.numeric(), values_NC, torch.bool)
        return torch.where(numeric, (values_NC - mean) / std, values_NC)

    def tokenizer(self, width: int) -> TableTokenizer:
        return TableTokenizer(self, width)

    def graph(self, tokenizer: nn.Module) -> TableGraph:
        return TableGraph(cast(TableTokenizer, tokenizer))

    def targets(self, values_NC: Tensor) -> Tensor:
        """(T, 2 patch): the columns of each token, then their standardised numbers or codes.

        NaN where one is missing.
        """
        # few numbers, and the CPU goes on knowing which are missing
        return on_host(self._targets, values_NC)

    def _targets(self, values_NC: Tensor) -> Tensor:
        present = self.tokens_of(values_NC)
        numbers = group_columns(self.standardised(values_NC), self.patch, torch.nan)[present]
        columns = group_columns(torch.arange(values_NC.shape[1])[None], self.patch, 0)
        columns = columns.expand(len(values_NC), -1, -1)[present]
        return torch.cat([columns.to(numbers.dtype), numbers], 1)

    def tokens_of(self, values_NC: Tensor) -> Tensor:
        """(N, tokens) bool: which groups of columns have a value, and so a token."""
        return group_columns(~values_NC.isnan(), self.patch, False).any(2)

    def predictor(self, width: int) -> nn.Linear:
        """A number for each column, then the logits of each categorical column."""
        return nn.Linear(width, len(self.columns) + sum(self.num_codes()))

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) mean loss over the cells of a token.

        Squared error of a number in deviations, cross-entropy of a code among those of its column.
        """
        from amodal.objectives.reconstruction import masked_cross_entropy, masked_mse

        # which cells exist is computed on the CPU, so that no step waits for the device
        device, (columns, values) = target.device, host_copy(target).chunk(2, 1)
        tokens, index = (~values.isnan()).nonzero(as_tuple=True)
        codes, numbers = columns[tokens, index].long(), values[tokens, index]
        token, column, value = (to_device(t, device) for t in (tokens, codes, numbers))
        prediction = prediction[token]
        predicted, logits = prediction.split([len(self.columns), sum(self.num_codes())], 1)
        loss = masked_mse(predicted.gather(1, column[:, None]), value[:, None], normalise=False)
        sizes = torch.tensor(self.num_codes(), dtype=torch.int64)
        chosen = sizes[codes].nonzero().squeeze(1)
        coded = to_device(chosen, device)
        # logits are of the codes of all columns: those of other columns get no probability
        code_column = to_device(torch.repeat_interleave(torch.arange(len(sizes)), sizes), device)
        of_other_column = code_column != column[coded, None]
        code = to_device(numbers[chosen].long() + (sizes.cumsum(0) - sizes)[codes[chosen]], device)
        entropy = masked_cross_entropy(logits[coded].masked_fill(of_other_column, -torch.inf), code)
        loss = loss.index_put((coded,), entropy.to(loss.dtype))
        count = to_device(torch.bincount(tokens, minlength=len(target)).clamp(min=1), device)
        return loss.new_zeros(len(target)).index_add(0, token, loss) / count

    def target_kinds(self, target: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Numbers and categories."""
        columns, values = target.chunk(2, 1)
        numeric = constant(self.numeric(), values, torch.bool)[columns.long()]
        kinds = [values.where(own, torch.nan) for own in (numeric, ~numeric)]
        return [(~own.isnan().all(1), torch.cat([columns, own], 1)) for own in kinds]

    def cells(self, value: np.ndarray) -> dict[str, str]:
        """Name -> cell as text, without the missing ones."""
        present = {c: v for c, v in zip(self.columns, value.tolist()) if not np.isnan(v)}
        return {
            c: self._category_of(c, v) if c in self.categories else f"{v:.6g}"
            for c, v in present.items()
        }

    def _category_of(self, column: str, code: float) -> str:
        names = self.categories[column]
        return names[int(code)] if code < len(names) else "(other)"

    def show(self, value: np.ndarray) -> np.ndarray:
        return _draw.text_image("\n".join(f"{c}: {v}" for c, v in self.cells(value).items()))

    def describe(self, value: np.ndarray) -> str:
        return listed(f"{c}={v}" for c, v in self.cells(value).items())

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        return f"{len(self.columns)} cells: {first_names(self.columns)}"

    def card(self, value: np.ndarray) -> dict[str, Any]:
        return {"cells": self.cells(value)}

    def attributes(self) -> dict[str, Attribute]:
        return {
            c: Attribute("classes", partial(self._class_of, column=c))
            if c in self.categories
            else Attribute("number", partial(_number_at, index=i))
            for i, c in enumerate(self.columns)
        }

    def _class_of(self, value: np.ndarray, column: str) -> str | None:
        return self.cells(value).get(column)

    def simple_features(self, train: Sequence[Raw]) -> SimpleFeatures:
        """Standardised numbers, flags of missing ones, one-hot codes; see `simple.table`."""
        if not len(train):
            raise NoSimpleFeatures("there is no row to fit simple features on")
        return _simple.table(self.decode_all, train, self.num_codes())

    def restored_simple_features(self, state: Mapping[str, Any]) -> FittedFeatures:
        return _simple.Cells(self.decode_all, **state)

    def queries(self, value: Any) -> list[Raw]:
        """A list of texts is one row."""
        value = from_json(value)
        whole = isinstance(value, (list, tuple))
        return (
            list(value)
            if whole and all(hasattr(v, "shape") or isinstance(v, dict) for v in value)
            else [value]
        )

    def json_schema(self, limits: Limits) -> Schema:
        cell = {"type": ["number", "string", "boolean", "null"]}
        cells = {name: cell for name in self.columns}
        return {"type": "object", "properties": cells, "minProperties": 1}

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        return cells_of(raw, limits)

    def deviation(self, value: np.ndarray) -> np.ndarray:
        deviation: np.ndarray = np.array(self.scale()[1]) * np.array(self.numeric())
        return deviation

    def dropped(self, value: np.ndarray, hit: np.ndarray) -> np.ndarray:
        return with_missing(value, hit)


def _number_at(value: np.ndarray, index: int) -> float:
    return float(value[index])


def _read(raw: Raw, columns: Sequence[str]) -> Mapping[str, Any]:
    """A row as name -> cell.

    columns: names for cells that have none; () makes some up.
    """
    if isinstance(raw, (Path, bytes)):
        try:
            raw = json.loads(read_bytes(raw))
        except (ValueError, RecursionError) as error:
            if isinstance(error, BadValue):
                raise
            raise BadValue(not_json(error)) from None
    if isinstance(raw, Mapping):
        return {str(n): c if type(c) is float else _plain(c, n) for n, c in raw.items()}
    if not isinstance(raw, (list, tuple, np.ndarray)):
        raw = [raw]
    cells = list(raw.ravel() if isinstance(raw, np.ndarray) else raw)
    columns = columns or ([f"c{i}" for i in range(len(cells))] if len(cells) != 1 else ["value"])
    if len(cells) != len(columns):
        raise BadValue(not_a_row(len(cells), columns))
    return {name: _plain(cell, name) for name, cell in zip(columns, cells)}


def _plain(cell: Any, name: str) -> Any:
    cell = plain(cell)
    if isinstance(cell, (list, tuple, dict, set, np.ndarray)):
        raise BadValue(
            f"{name}: a cell must be a number, a text or missing, got a {type(cell).__name__}"
        )
    return cell


def _categories(cells: Sequence[Any]) -> tuple[str, ...]:
    """The most frequent categories, in alphabetical order."""
    return tuple(
        sorted(name for name, _ in Counter(map(category, cells)).most_common(MAX_CATEGORIES))
    )
