"""A row of a table: numeric, categorical and missing cells."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Tokens, unknown
from amodal.core.host import constant, host_copy, on_host, to_device
from amodal.errors import nearest
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared.base import (
    Attribute,
    BadValue,
    Modality,
    Raw,
    Schema,
    at_most,
    build,
    check_view,
    decodable,
    first_of,
    from_json,
    listed,
)
from amodal.modalities.shared.cells import category, is_missing, is_numeric, moments, number
from amodal.modalities.shared.corruption import without
from amodal.modalities.shared.files import read_bytes
from amodal.modalities.shared.requests import cells_of

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

MOST_CATEGORIES = 256
WIDE = 64
"""Columns from which `infer` puts several into one token, so that about half as many tokens remain.
"""
DROPPED = {"weak": 0.1, "strong": 0.3, "local": 0.65}  # share of the cells


@dataclass(frozen=True)
class Table(Modality):
    """A value is (C,) float32: the number, or the code of the category, NaN where a cell is
    missing. A category that is not listed has the code after the last ("other"). One token for each
    cell that is there or, in a wide table, for each `patch` neighbouring columns of which any is
    there.

    columns: their names, in order; categories: name -> the values of a categorical column, all
    others are numeric; mean, std: of each column, measured by `infer` (0 and 1 for categorical
    ones); frequencies: of a periodic embedding of numbers, learnt for each column (Gorishniy et
    al., 2022); 0: linear alone; patch: columns in one token (the attention's cost falls with its
    square).
    """

    columns: tuple[str, ...] = ("value",)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    frequencies: int = 0
    patch: int = 1

    suffixes: ClassVar[frozenset[str]] = frozenset({".json"})
    magic: ClassVar[tuple[bytes, ...]] = (b"{",)
    raw_text: ClassVar[str] = "value"
    placeholder: ClassVar[str] = '{"column": value, …}'
    uploads: ClassVar[bool] = False
    is_row: ClassVar[bool] = True

    def __post_init__(self):
        if not self.columns or len(set(self.columns)) < len(self.columns):
            raise AmodalError(
                f"table.columns must be one or more different names, got {list(self.columns)}"
            )
        for name in self.categories:
            if name not in self.columns:
                raise unknown(
                    "column of this table",
                    name,
                    self.columns,
                    "It has categories but is not among the columns.",
                )
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
    def infer(cls, samples: Sequence[Raw], **overrides) -> Table:
        """Columns in the order in which they turn up; a column is numeric if all its cells are, or
        if most are numbers or dates and no text; else its categories are the cells seen, the
        commonest 256 of them; mean and std. Tables wider than 64 columns get about 32 tokens."""
        rows, first = [], None
        for raw in samples:
            try:
                rows.append(_read(raw, tuple(overrides.get("columns", ()))))
            except BadValue as error:
                first = first or error
        if not rows:
            raise first or BadValue("no samples to look at")
        columns = tuple(
            overrides.get("columns") or dict.fromkeys(name for row in rows for name in row)
        )
        cells = {c: [row[c] for row in rows if not is_missing(row.get(c))] for c in columns}
        categories = {c: _categories(seen) for c, seen in cells.items() if not is_numeric(seen)}
        patch = 1 if len(columns) <= WIDE else -(-len(columns) // (WIDE // 2))
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
        """Which columns hold numbers."""
        return tuple(c not in self.categories for c in self.columns)

    def sizes(self) -> tuple[int, ...]:
        """How many codes each column has, "other" included; 0 for numeric ones."""
        return tuple(
            len(self.categories[c]) + 1 if c in self.categories else 0 for c in self.columns
        )

    def decode(self, raw: Raw) -> np.ndarray:
        """(C,) float32 from a dict name -> cell (also as JSON: Path or bytes), a list or array in
        the order of `columns`, or, of a single column, its cell. Columns that the field does not
        have are passed over, absent ones are missing."""
        row = _read(raw, self.columns)
        if not any(c in row for c in self.columns):
            close = next((near[0] for name in row if (near := nearest(name, self.columns))), "")
            hint = f"; did you mean {close}?" if close else ""
            raise BadValue(
                f"none of the columns {listed(self.columns)}; it has "
                f"{listed(row) or 'nothing'}{hint}"
            )
        value = np.array([self._cell(c, row.get(c)) for c in self.columns], dtype=np.float32)
        if np.isnan(value).all():
            raise BadValue("every cell is missing")
        return value

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
        """weak: a tenth of the cells dropped, noise of .02 deviations on numbers; strong: three
        tenths and .1; local: two thirds and .1 (subsets of columns as views: Ucar et al., SubTab,
        2021). One cell stays at least."""
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
        luck = np.where(np.isnan(value), 1, rng.random(len(value)))
        kept = luck < max(1 - DROPPED[view], np.nextafter(luck.min(), 2))
        return np.where(kept, value + np.where(numeric, noise, 0), np.nan).astype(np.float32)

    def collate(self, values: Sequence[np.ndarray]) -> Tensor:
        """(N, C) float32."""
        return torch.from_numpy(np.stack(values)) if values else torch.zeros(0, len(self.columns))

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
        return TableGraph(tokenizer)

    def targets(self, values_NC: Tensor) -> Tensor:
        """(T, 2 patch): the columns of each token, then their standardised numbers or codes, NaN
        where one is missing."""
        # few numbers, and the CPU goes on knowing which are missing
        return on_host(self._targets, values_NC)

    def _targets(self, values_NC: Tensor) -> Tensor:
        present = self.tokens_of(values_NC)
        numbers = grouped(self.standardised(values_NC), self.patch, torch.nan)[present]
        columns = grouped(torch.arange(values_NC.shape[1])[None], self.patch, 0)
        columns = columns.expand(len(values_NC), -1, -1)[present]
        return torch.cat([columns.to(numbers.dtype), numbers], 1)

    def tokens_of(self, values_NC: Tensor) -> Tensor:
        """(N, tokens) bool: which groups of columns have a value, and so a token."""
        return grouped(~values_NC.isnan(), self.patch, False).any(2)

    def predictor(self, width: int) -> nn.Linear:
        """A number for each column, then the logits of each categorical column's codes."""
        return nn.Linear(width, len(self.columns) + sum(self.sizes()))

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) squared error of a number in deviations, cross-entropy of a code among those of its
        column; the mean of them over the cells of a token."""
        from amodal.objectives.reconstruction import masked_cross_entropy, masked_mse

        device, (columns, values) = target.device, host_copy(target).chunk(2, 1)
        tokens, place = (~values.isnan()).nonzero(as_tuple=True)
        codes, numbers = columns[tokens, place].long(), values[tokens, place]
        token, column, value = (to_device(t, device) for t in (tokens, codes, numbers))
        prediction = prediction[token]
        predicted, logits = prediction.split([len(self.columns), sum(self.sizes())], 1)
        loss = masked_mse(predicted.gather(1, column[:, None]), value[:, None], normalise=False)
        sizes = torch.tensor(self.sizes(), dtype=torch.int64)
        chosen = sizes[codes].nonzero().squeeze(1)
        coded = to_device(chosen, device)
        owner = to_device(torch.repeat_interleave(torch.arange(len(sizes)), sizes), device)
        foreign = owner != column[coded, None]
        code = to_device(numbers[chosen].long() + (sizes.cumsum(0) - sizes)[codes[chosen]], device)
        entropy = masked_cross_entropy(logits[coded].masked_fill(foreign, -torch.inf), code)
        loss = loss.index_put((coded,), entropy.to(loss.dtype))
        count = to_device(torch.bincount(tokens, minlength=len(target)).clamp(min=1), device)
        return loss.new_zeros(len(target)).index_add(0, token, loss) / count

    def cells(self, value: np.ndarray) -> dict[str, str]:
        """name -> cell as a person would write it, without the missing ones."""
        present = {c: v for c, v in zip(self.columns, value.tolist()) if not np.isnan(v)}
        return {
            c: self._category_of(c, v) if c in self.categories else f"{v:.6g}"
            for c, v in present.items()
        }

    def _category_of(self, column: str, code: float) -> str:
        names = self.categories[column]
        return names[int(code)] if code < len(names) else "(other)"

    def show(self, value: np.ndarray) -> np.ndarray:
        return _draw.page("\n".join(f"{c}: {v}" for c, v in self.cells(value).items()))

    def describe(self, value: np.ndarray) -> str:
        return listed(f"{c}={v}" for c, v in self.cells(value).items())

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        return f"{len(self.columns)} cells: {first_of(self.columns)}"

    def card(self, value: np.ndarray) -> dict[str, Any]:
        return {"cells": self.cells(value)}

    def attributes(self) -> dict[str, Attribute]:
        return {
            c: Attribute("classes", lambda value, c=c: self.cells(value).get(c))
            if c in self.categories
            else Attribute("number", lambda value, i=i: float(value[i]))
            for i, c in enumerate(self.columns)
        }

    def simple_features(self, raws: Sequence[Raw]) -> np.ndarray:
        """Standardised numbers, 0 where one is missing, and a 1 for each code that there is."""
        values = self.standardised(self.collate([self.decode(raw) for raw in raws])).numpy()
        parts = []
        for column, size in zip(values.T, self.sizes()):
            parts.append(
                (column[:, None] == np.arange(size)) if size else np.nan_to_num(column)[:, None]
            )
        return np.concatenate(parts, 1).astype(np.float32)

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
        return np.array(self.scale()[1]) * np.array(self.numeric())

    def dropped(self, value: np.ndarray, hit: np.ndarray) -> np.ndarray:
        return without(value, hit)


class TableTokenizer(nn.Module):
    """One token for each cell: a number times its column's vector plus its column's bias, or its
    category's vector plus the bias (Gorishniy et al., FT-Transformer, 2021, section 3.3)."""

    def __init__(self, table: Table, width: int):
        super().__init__()
        self.table = table
        columns, features = len(table.columns), 1 + 2 * table.frequencies
        self.weight = nn.Parameter(
            torch.empty(columns, features, width).uniform_(-1, 1) / (width * features) ** 0.5
        )
        self.bias = nn.Parameter(torch.empty(columns, width).uniform_(-1, 1) / width**0.5)
        self.frequency = nn.Parameter(torch.randn(columns, table.frequencies))
        self.embed = nn.Embedding(max(1, sum(table.sizes())), width)
        nn.init.uniform_(self.embed.weight, -(width**-0.5), width**-0.5)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Positions (number of the column, or of the group of columns, 0, 0)."""
        values_NC = column.values
        sizes = constant(self.table.sizes(), values_NC, torch.int64)
        present = ~values_NC.isnan()
        number_NC1 = self.table.standardised(values_NC).nan_to_num().unsqueeze(2)
        angle = 2 * torch.pi * self.frequency * number_NC1
        x_NCD = torch.einsum(
            "ncf,cfd->ncd", torch.cat([number_NC1, angle.sin(), angle.cos()], 2), self.weight
        )
        if self.table.categories:
            code_NC = values_NC.nan_to_num().long().clamp(min=0).minimum(
                (sizes - 1).clamp(min=0)
            ) + (sizes.cumsum(0) - sizes)
            # of numeric columns, whose codes mean nothing
            code_NC = code_NC.clamp(max=self.embed.num_embeddings - 1)
            x_NCD = torch.where((sizes > 0)[:, None], self.embed(code_NC), x_NCD)
        x_NCD, _ = gather_groups(x_NCD + self.bias, present, self.table.patch)
        there = self.table.tokens_of(host_copy(values_NC))
        row, cell = (to_device(i, values_NC.device) for i in there.nonzero(as_tuple=True))
        position = nn.functional.pad(cell.float()[:, None], (0, 2))
        lengths = to_device(there.sum(1), values_NC.device)
        return Tokens.of(x_NCD[row, cell], column.rows, lengths, position, name, size)


class TableGraph(nn.Module):
    """Dense form of `TableTokenizer`."""

    inputs = {
        "cells": "(N, columns) float32: the number, or the place of the category in its list (the list's length for one that "
        "is not in it); NaN where a cell is missing; a row has at least one cell"
    }
    axes = ({0: "batch"},)

    def __init__(self, tokenizer: nn.Module):
        super().__init__()
        self.cells = tokenizer
        sizes = torch.tensor(tokenizer.table.sizes())
        self.register_buffer("sizes", sizes)
        self.register_buffer("first", sizes.cumsum(0) - sizes)

    def forward(self, cells: Tensor) -> _dense.Tokenised:
        part, there = self.cells, ~cells.isnan()
        number_NC1 = part.table.standardised(cells).nan_to_num().unsqueeze(2)
        angle = 2 * torch.pi * part.frequency * number_NC1
        features = (
            torch.cat([number_NC1, angle.sin(), angle.cos()], 2)
            if part.table.frequencies
            else number_NC1
        )
        x_NCD = (features.unsqueeze(2) @ part.weight).squeeze(2)
        if part.table.categories:
            code = (
                torch.minimum(cells.nan_to_num().long().clamp(min=0), (self.sizes - 1).clamp(min=0))
                + self.first
            )
            # of numeric columns, whose codes mean nothing
            code = code.clamp(max=part.embed.num_embeddings - 1)
            x_NCD = torch.where((self.sizes > 0)[:, None], part.embed(code), x_NCD)
        x_NGD, there = gather_groups(x_NCD + part.bias, there, part.table.patch)
        return x_NGD, _dense.line(x_NGD), there

    def examples(self, n: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
        table = self.cells.table
        codes = rng.integers(0, np.maximum(table.sizes(), 1), (n, len(table.columns)))
        values = np.where(table.numeric(), _dense.around(table.scale(), (n,), rng), codes).astype(
            np.float32
        )
        missing = rng.random(values.shape) < 0.3
        missing[:, rng.integers(len(table.columns))] = False
        return list(np.where(missing, np.float32(np.nan), values))


def grouped(values_NC: Tensor, patch: int, fill: float) -> Tensor:
    """(N, C, ...) -> (N, groups, patch, ...), the last group filled up."""
    short = -values_NC.shape[1] % patch
    rest = values_NC.new_full((values_NC.shape[0], short, *values_NC.shape[2:]), fill)
    return torch.cat([values_NC, rest], 1).unflatten(1, (-1, patch))


def gather_groups(x_NCD: Tensor, present_NC: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """The cells of each `patch` neighbouring columns as one: the sum of those that are there,
    scaled to the size of one cell."""
    if patch == 1:
        return x_NCD, present_NC
    x_NGD = grouped(x_NCD * present_NC.unsqueeze(2), patch, 0).sum(2) / patch**0.5
    return x_NGD, grouped(present_NC, patch, False).any(2)


def _read(raw: Raw, columns: Sequence[str]) -> Mapping[str, Any]:
    """A row as name -> cell. columns: names for cells that have none; () makes some up."""
    if isinstance(raw, (Path, bytes)):
        try:
            raw = json.loads(read_bytes(raw))
        except (ValueError, RecursionError) as error:
            if isinstance(error, BadValue):
                raise
            raise BadValue(f"not JSON: {error}") from None
    if isinstance(raw, Mapping):
        return {str(name): _plain(cell, name) for name, cell in raw.items()}
    if not isinstance(raw, (list, tuple, np.ndarray)):
        raw = [raw]
    cells = raw.ravel().tolist() if isinstance(raw, np.ndarray) else list(raw)
    columns = columns or ([f"c{i}" for i in range(len(cells))] if len(cells) != 1 else ["value"])
    if len(cells) != len(columns):
        raise BadValue(f"{len(cells)} cells for {len(columns)} columns")
    return {name: _plain(cell, name) for name, cell in zip(columns, cells)}


def _plain(cell: Any, name: str) -> Any:
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, (list, tuple, dict, set, np.ndarray)):
        raise BadValue(
            f"{name}: a cell must be a number, a text or missing, got a {type(cell).__name__}"
        )
    return cell


def _categories(cells: Sequence[Any]) -> tuple[str, ...]:
    """The commonest, in alphabetical order."""
    return tuple(
        sorted(name for name, _ in Counter(map(category, cells)).most_common(MOST_CATEGORIES))
    )
