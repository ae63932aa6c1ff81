"""A segmentation network with a stream for each field.

Valada, Mohan and Burgard 2020, arXiv:1808.03833, figure 5, for any number of streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from amodal.core import Column, Embeddings
from amodal.core.column import shared_rows
from amodal.nn.heads.maps import AtrousPyramid, GatedFusion, MapDecoder, Unfold, as_large

DEEP, EARLY = "deep", "early"
"""Prefixes of the columns of maps after and before the trunk."""


class Segmenter(nn.Module):
    """Maps of several fields -> scores of classes, of each field alone and of all together.

    Args:
        fields: The fields.
        width_in: Channels of the maps.
        side: Of the grid that all maps are resized to; the scores have four times that.
        classes: Outputs.
        width, skip: Channels inside, and of skips.
        squeeze, skip_squeeze: See `GatedFusion`.
        gated: See `GatedFusion`.
    """

    def __init__(
        self,
        fields: Sequence[str],
        width_in: int,
        side: int,
        classes: int,
        *,
        width: int = 256,
        skip: int = 24,
        squeeze: int = 16,
        skip_squeeze: int = 6,
        gated: bool = True,
    ):
        super().__init__()
        self.fields, self.side = tuple(fields), side
        self.pyramids = nn.ModuleDict({s: AtrousPyramid(width_in, width) for s in fields})
        self.unfolds = nn.ModuleDict(
            {s: nn.ModuleList(Unfold(width_in, skip, k) for k in (2, 4)) for s in fields}
        )
        self.heads = nn.ModuleDict({s: nn.Conv2d(width, classes, 1) for s in fields})
        count = len(self.fields)
        self.fuse = GatedFusion(width, count, squeeze=squeeze, gated=gated)
        self.fuse_skips = nn.ModuleList(
            GatedFusion(skip, count, squeeze=skip_squeeze, side=3, norm=False, gated=gated)
            for _ in range(2)
        )
        self.decoder = MapDecoder(width, skip, classes)

    def expert(self, z: Embeddings, field: str) -> Column:
        """(N, classes, side, side): scores of a field alone, of the rows that have it."""
        deep = self._of(z, DEEP, field)
        return Column(self.heads[field](self.pyramids[field](deep.values)), deep.rows)

    def late(self, z: Embeddings, rows: Tensor) -> Tensor:
        """Late fusion: the log of the mean probabilities of the fields of each row.

        Returns:
            (N, classes, side, side), of `rows` (N,).
        """
        total: Tensor | float = 0.0
        count: Tensor | float = 0.0
        for field in self.fields:
            logits = self.expert(z, field)
            column = Column(logits.flat.softmax(1), logits.rows)
            total = total + whole(column, rows, nn.Identity())
            count = count + logits.present(z.size)[rows].to(total.dtype)
        assert isinstance(total, Tensor) and isinstance(count, Tensor)  # there is a field
        return (total / count[:, None, None, None]).log()

    def forward(self, z: Embeddings, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores of `rows` (N,), and those of deep supervision, coarse to fine.

        Returns:
            (N, classes, 4 side, 4 side) each, the latter at their sizes.
        """
        early = {s: self._of(z, EARLY, s) for s in self.fields}
        skips = [
            fuse(
                [
                    whole(early[s], rows, cast(nn.ModuleList, self.unfolds[s])[k])
                    for s in self.fields
                ]
            )
            for k, fuse in enumerate(self.fuse_skips)
        ]
        out: tuple[Tensor, list[Tensor]] = self.decoder(self.fuse(self._deep(z, rows)), skips)
        return out

    def gates(self, z: Embeddings, rows: Tensor) -> Tensor:
        """(N, fields, side, side): the mean gate of each field at each place, of `rows` (N,)."""
        return self.fuse.gates(self._deep(z, rows))

    def streams(self) -> list[nn.Module]:
        """The modules that each field has for itself."""
        return [self.pyramids, self.unfolds, self.heads]

    def _deep(self, z: Embeddings, rows: Tensor) -> list[Tensor]:
        return [whole(self._of(z, DEEP, s), rows, self.pyramids[s]) for s in self.fields]

    def _of(self, z: Embeddings, level: str, field: str) -> Column:
        column = z[f"{level}/{field}"]
        return Column(as_large(column.flat, self.side), column.rows)


def whole(column: Column, rows: Tensor, module: nn.Module) -> Tensor:
    """Maps of rows, zeros for those that the column lacks.

    Args:
        column: Inputs of the module.
        rows: (N,) int64.
        module: Makes maps of them.
    """
    # only the rows that have the field go through the module, whose BatchNorm is over them
    out = module(column.values)
    at_column, at = shared_rows(column, Column(rows, rows))
    result: Tensor = out.new_zeros(len(rows), *out.shape[1:]).index_copy(0, at, out[at_column])
    return result
