"""Packed tokens: the input and output of a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from amodal.core.column import Column, joined
from amodal.core.host import host_copy, known, on_host, paired, take, to_device, where_true
from amodal.errors import unknown

POSITION_DIMS = 3
"""Coordinates of a token: (time, height, width) or (x, y, z). Unused ones are zero."""
GROUP = "group"
"""The attribute of the group that a token is of, a number among `Modality.token_groups`."""
DATE = "date"
"""The attribute of months since January 2000, with fractions."""
METRES = "metres"
"""The attribute of the side of a token on the ground: one step of its last two coordinates."""
WAVELENGTH = "wavelength"
"""The attribute of the wavelength of the band that a token is of, in nanometres."""


@dataclass(frozen=True)
class Tokens:
    """Tokens of a batch, packed without padding.

    They are ordered by row, within a row by `names`, and within a source by position.

    Args:
        x: (T, D).
        row: (T,) int64, ascending.
        source: (T,) int64, indices into `names`.
        position: (T, 3), real coordinates.
        names: The sources.
        size: Number of rows, B. Some may have no token.
        attributes: Name -> (T,), what else is known of tokens, such as `GROUP` (int64) and `DATE`.
            NaN, or -1 where whole numbers are, for tokens that have none.
    """

    x: Tensor
    row: Tensor
    source: Tensor
    position: Tensor
    names: tuple[str, ...]
    size: int
    attributes: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.row) == len(self.source) == len(self.position):
            raise ValueError(
                f"{len(self.x)} tokens, {len(self.row)} rows, {len(self.source)} sources, "
                f"{len(self.position)} positions"
            )
        for name, value in self.attributes.items():
            if len(value) != len(self.x):
                raise ValueError(f"{len(self.x)} tokens, {len(value)} of the attribute {name}")

    @staticmethod
    def of(
        x_TD: Tensor,
        rows_N: Tensor,
        lengths_N: Tensor,
        position_TP: Tensor,
        name: str,
        size: int,
        attributes: Mapping[str, Tensor] | None = None,
    ) -> Tokens:
        """Tokens of one source, with `lengths_N` tokens for each of the rows `rows_N`."""
        # with its output_size torch need not fetch the sum of the lengths from the device
        row = torch.repeat_interleave(rows_N, lengths_N, output_size=len(x_TD))
        rows, lengths = known(rows_N), known(lengths_N)
        if rows is not None and lengths is not None:
            paired(row, torch.repeat_interleave(rows, lengths))
        return Tokens(x_TD, row, zeros_like(row), position_TP, (name,), size, attributes or {})

    def __len__(self) -> int:
        return len(self.x)

    def with_x(self, x: Tensor) -> Tokens:
        """The same tokens with other values (T, D)."""
        return replace(self, x=x)

    def at(self, index: Tensor) -> Tokens:
        """The tokens at `index` (t,) int64, which must preserve the order of rows."""
        index = to_device(index, self.row.device)
        row, source = take(self.row, index), take(self.source, index)
        return replace(
            self,
            x=self.x[index],
            row=row,
            source=source,
            position=self.position[index],
            attributes={name: value[index] for name, value in self.attributes.items()},
        )

    def keep(self, mask_T: Tensor) -> Tokens:
        """The tokens where `mask_T` (T,) bool is true. A CPU mask avoids waiting for a GPU."""
        if len(mask_T) != len(self):
            raise ValueError(f"a mask of {len(mask_T)} entries for {len(self)} tokens")
        return self.at(where_true(mask_T))

    def only(self, *names: str) -> Tokens:
        """The tokens of these sources. `names` does not change, so `source` still indexes it."""
        wanted = torch.tensor([self.index(n) for n in names], dtype=torch.int64)
        return self.keep(torch.isin(host_copy(self.source), wanted))

    def index(self, name: str) -> int:
        """The number of a source among `names`."""
        if name not in self.names:
            raise unknown("source among these tokens", name, self.names)
        return self.names.index(name)

    @staticmethod
    def join(parts: Sequence[Tokens]) -> Tokens:
        """Join tokens of one batch: in each row those of the first part, then of the second, …

        A source may occur in more than one part.
        """
        names = tuple(dict.fromkeys(name for part in parts for name in part.names))
        if len({part.size for part in parts}) != 1:
            raise ValueError(f"tokens of different batches: {[part.size for part in parts]} rows")
        row = joined([part.row for part in parts])
        # stable: within a row the order of parts, and of tokens in a part, stays
        order = on_host(lambda row: torch.argsort(row, stable=True), row)
        return Tokens(
            torch.cat([part.x for part in parts])[order],
            take(row, order),
            take(joined([part.source_among(names) for part in parts]), order),
            torch.cat([part.position for part in parts])[order],
            names,
            parts[0].size,
            {name: value[order] for name, value in joined_attributes(parts).items()},
        )

    def source_among(self, names: Sequence[str], rename: Callable[[str], str] = str) -> Tensor:
        """The source of each token as an index into other names.

        Args:
            rename: Source -> its name among `names`.

        Returns:
            (T,) int64.
        """
        number = torch.tensor([names.index(rename(n)) for n in self.names], dtype=torch.int64)
        return on_host(lambda source: number[source], self.source)

    def renamed(self, name: str) -> Tokens:
        """The same tokens, all of one source `name`."""
        return replace(self, source=zeros_like(self.source), names=(name,))

    def skeleton(self) -> Tokens:
        """Rows and sources on the CPU, without values (x is (T, 0)), for masking.

        `position` stays where it is: most masks do not read it, and fetching it could wait for
        the device. Those that do take `host_copy` of it.
        """
        row, source = host_copy(self.row), host_copy(self.source)
        return replace(self, x=torch.zeros(len(row), 0), row=row, source=source)

    def lengths(self) -> Tensor:
        """(B,) int64, the number of tokens of each row."""
        return on_host(lambda row: torch.bincount(row, minlength=self.size), self.row)

    def rows(self) -> Tensor:
        """(N,) int64, the rows that have a token."""
        return where_true(self.lengths())

    def within(self) -> Tensor:
        """(T,) int64, the number of each token within its row: 0, 1, …"""
        lengths = self.lengths()
        start = on_host(lambda lengths: lengths.cumsum(0) - lengths, lengths)
        return torch.arange(len(self), device=self.row.device) - start[self.row]

    def pool(self) -> Column:
        """The mean of the tokens of each row that has one: values (N, D)."""
        lengths = self.lengths()
        total = self.x.new_zeros(self.size, self.x.shape[1]).index_add(0, self.row, self.x)
        rows = self.rows()
        return Column(total[rows] / lengths[rows].unsqueeze(1), rows)

    def first(self) -> Column:
        """The first token of each row that has one, such as a CLS token: values (N, D)."""
        lengths = self.lengths()
        rows = self.rows()
        return Column(self.x[(lengths.cumsum(0) - lengths)[rows]], rows)


def joined_attributes(parts: Sequence[Tokens]) -> dict[str, Tensor]:
    """The attributes of tokens end to end. Tokens of a part without one have NaN, or -1."""
    whole = {}
    for name in dict.fromkeys(name for part in parts for name in part.attributes):
        like = next(part.attributes[name] for part in parts if name in part.attributes)
        none = math.nan if like.is_floating_point() else -1
        # a part without the attribute has one by its length alone, so nothing waits for a device
        values = [
            part.attributes[name] if name in part.attributes else like.new_full((len(part),), none)
            for part in parts
        ]
        whole[name] = torch.cat(values)
    return whole


def zeros_like(t: Tensor) -> Tensor:
    """Zeros like `t`, with a CPU copy."""
    copy = None if t.device.type == "cpu" else torch.zeros(t.shape, dtype=t.dtype)
    return paired(torch.zeros_like(t), copy)
