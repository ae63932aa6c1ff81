"""SSMA: the features of each field at each place pass a gate that all fields set, and pixels (or
records) are classified from them. Valada, Mohan and Burgard, IJCV 2020, arXiv:1808.03833.
Widths and weights also from the authors' code. Parts: the SSMA block (section 4.1), eASPP, skips
that the decoder weighs, cross-entropy with deep supervision. Row 6 of the catalogue. It learns from
labels: "self-supervised" means that features set their own gates.

Three stages, as in the paper: each field learns alone, then all together, then fusion and decoder
with encoders fixed. Any number of fields: one without a grid is the same at every place, grids are
brought to the finest, and a field that a row lacks is a map of zeros. `amodal map RUN` draws the
classes of pixels (`class_maps`), with `--label` beside clusters of pixels and chance.

Differs:

- encoder: transformers over tokens. The paper has a ResNet-50 of multiscale residual units, with
  two skips from early layers. Here skips are unfolded from a field's tokens before its trunk; of a
  backbone these are the tokens at its end, so that nothing of an early layer comes in.
- experts have a linear head in place of a decoder.
- stages: the shares of steps follow the paper's iterations (150,000, 100,000 and 50,000), but all
  have one rate and one size of batches; theirs are of 8, 7 and 12, and in the second stage encoders
  learn ten times more slowly.
- recipe: none on this page. Theirs is Adam from 1e-3, falling with a power of .9; `--schedule
  linear` is the nearest.
- BatchNorm: running statistics move by a tenth of the way in each step; theirs by a hundredth. No
  dropout; theirs drops seven of ten units of the last block. All rows that have a field count for
  the statistics of its expert; fusion sees those with a label.
- decoder: its last layer is a convolution at four times the side of the grid; theirs passes ReLU
  and a transposed convolution to the size of the picture. Unlabelled pixels count for nothing;
  theirs count in what the loss is divided by.
- pictures are not augmented, as a raster of labels would have to be changed in the same way; theirs
  are turned, scaled, cropped, flipped, and changed in light and contrast.
- resolution: squares; theirs are 768 x 384. Scores are brought to the picture's size bilinearly.
- open: a ResNet-50 of multiscale residual units with skips of two early layers, decoders for
  experts, pictures augmented together with their rasters, rates and batches of each stage. Waits
  for work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings
from amodal.core.column import shared_rows
from amodal.methods.contract import Columns, FeatureRecord, StagedMethod
from amodal.methods.shared.dense import dense_labels, grid_side, is_dense, maps_of
from amodal.methods.shared.shapes import refuse_pool, share
from amodal.nn.encoder import Encoder
from amodal.nn.heads.maps import as_large
from amodal.nn.heads.segmenter import DEEP, EARLY, Segmenter
from amodal.objectives.common import connected_zero
from amodal.objectives.deep_supervision import deep_supervision, pixel_cross_entropy


def ssma(
    encoder: Encoder,
    *,
    label: str = "",
    classes: int = 0,
    width: int = 256,
    skip: int = 24,
    squeeze: int = 16,
    skip_squeeze: int = 6,
    gated: bool = True,
    alone: float = 0.5,
    fixed: float = 0.17,
    coarse: float = 0.5,
    fine: float = 0.6,
) -> Ssma:
    """Build SSMA.

    Args:
        encoder: Loses the field of the label, if that is one.
        label: What to predict: a label of records, or a field of 8-bit pictures of class numbers
            (255, and numbers beyond the classes, are unknown pixels).
        classes: How many there are.
        width: Channels of maps.
        skip: Channels of skips.
        squeeze: Eta, how much narrower the bottleneck of the maps' gates is.
        skip_squeeze: The same of the skips' gates.
        gated: False concatenates instead.
        alone: Share of the steps in which fields learn alone.
        fixed: Share of the steps in which encoders are fixed.
        coarse: Weight of deep supervision of the coarse map.
        fine: Weight of deep supervision of the fine map.
    """
    if classes < 2 or not label:
        raise AmodalError(
            "ssma learns classes: give label, a field of class maps or a label, and classes, at "
            "least 2"
        )
    if min(alone, fixed) < 0 or alone + fixed > 1:
        raise AmodalError(
            f"alone = {alone} and fixed = {fixed} are shares of the steps, together at most 1"
        )
    dense = is_dense(encoder, label)
    refuse_pool(encoder)
    sides = {s: grid_side(encoder, s) for s in encoder.fields}
    network = Segmenter(
        list(sides),
        encoder.width,
        max(sides.values()),
        classes,
        squeeze=squeeze,
        skip_squeeze=skip_squeeze,
        gated=gated,
        width=width,
        skip=skip,
    )
    return Ssma(
        encoder,
        network,
        sides=sides,
        label=label,
        dense=dense,
        classes=classes,
        weights=(coarse, fine),
        shares=(alone, 1 - alone - fixed, fixed),
    )


@dataclass(frozen=True, kw_only=True)
class MapFeatures(FeatureRecord):
    """Maps of each field.

    Args:
        early: field -> (N, D, side, side) before its trunk.
        deep: field -> (N, D, side, side) after it.
    """

    early: Columns
    deep: Columns


@dataclass(frozen=True, kw_only=True)
class SsmaFeatures(MapFeatures):
    """Maps and labels.

    Args:
        label: (N,) of records, or (N, H, W) of pixels.
    """

    label: Column


def columns_of(maps: MapFeatures) -> Embeddings:
    """The maps by the names that the network reads, such as `deep/FIELD`."""
    return Embeddings(maps.columns, maps.size)


class Ssma(StagedMethod):
    """Experts of single fields, then their gated fusion, then fusion with fixed encoders.

    Args:
        encoder: Reads each field alone.
        network: Experts, fusion and decoder.
        sides: field -> side of its map.
        label: What to predict.
        dense: Whether it is a field of class maps.
        classes: How many there are.
        weights: Of deep supervision, coarse and fine.
        shares: Of the steps, of the three stages; those of 0 are left out.
    """

    def __init__(
        self,
        encoder: Encoder,
        network: Segmenter,
        *,
        sides: Mapping[str, int],
        label: str,
        dense: bool,
        classes: int,
        weights: tuple[float, float],
        shares: tuple[float, float, float],
    ):
        super().__init__()
        self.encoder, self.network, self.sides = encoder, network, dict(sides)
        self.label, self.classes, self.weights = label, classes, weights
        self.labels = () if dense else (label,)
        # 0: fields alone, 1: together, 2: encoders fixed
        self.phases = [i for i, part in enumerate(shares) if part > 1e-9]
        self.stages = (*(sum(shares[: i + 1]) for i in self.phases[:-1]), 1.0)
        self.phase = self.phases[0]

    def on_stage_start(self, stage: int) -> None:
        self.phase = self.phases[stage]
        for part in self.experts():
            part.requires_grad_(self.phase != 2)
        self.train(self.training)

    def experts(self) -> list[nn.Module]:
        """What is fixed at last."""
        return [self.encoder, *self.network.streams()]

    def train(self, mode: bool = True) -> Ssma:
        """Training mode, in which fixed experts keep the statistics of their BatchNorm."""
        super().train(mode)
        if self.phase == 2:
            for part in self.experts():
                part.eval()
        return self

    def features(self, batch: Batch) -> SsmaFeatures:
        label = dense_labels(batch, self.label, self.classes)
        maps = self.maps(batch)
        return SsmaFeatures(size=batch.size, early=maps.early, deep=maps.deep, label=label)

    def maps(self, batch: Batch) -> MapFeatures:
        """The maps of each field before and after its trunk."""
        maps = maps_of(self.encoder, batch, self.sides)
        early, deep = ({s: maps[f"{kind}/{s}"] for s in self.sides} for kind in (EARLY, DEEP))
        return MapFeatures(size=batch.size, early=early, deep=deep)

    def losses(self, features: SsmaFeatures) -> dict[str, Tensor]:
        # so that processes without a labelled row still have every parameter in the graph
        zero = connected_zero(
            *(c.flat for maps in (features.early, features.deep) for c in maps.values())
        )
        return {name: loss + zero for name, loss in self.phase_losses(features).items()}

    def phase_losses(self, features: SsmaFeatures) -> dict[str, Tensor]:
        """The losses of the current stage."""
        label = features.label
        if self.phase == 0:
            terms, maps = {}, columns_of(features)
            for s in self.sides:
                logits = self.network.expert(maps, s)
                i, j = shared_rows(logits, label)
                terms[f"alone/{s}"] = pixel_cross_entropy(logits.flat[i], label.flat[j])
            return share(terms)
        index = self.present(features)[label.rows]
        scores, stages = self.network(columns_of(features), label.rows[index])
        loss = deep_supervision(scores, stages, label.flat[index], weights=self.weights)
        return {"together": loss}

    def present(self, maps: MapFeatures) -> Tensor:
        """(B,) bool: the rows that have any field."""
        return torch.stack([maps.deep[s].present(maps.size) for s in self.sides]).any(0)

    def predict(self, batch: Batch) -> Column:
        """Logarithms of the `probabilities`."""
        column = self.probabilities(batch)
        return Column(column.flat.clamp(min=1e-12).log(), column.rows)

    def class_maps(self, batch: Batch) -> Column:
        """See `amodal.core.protocols.Segments`."""
        if self.labels:
            raise AmodalError(
                f"this run of ssma learnt the label {self.label} of whole records, which has no "
                "place in a picture; train it with label = a field of class maps"
            )
        return self.probabilities(batch)

    @torch.no_grad()
    def probabilities(self, batch: Batch, size: int = 0) -> Column:
        """Class probabilities of the rows that have any field.

        Experts that were never trained together are averaged.

        Args:
            batch: B rows.
            size: Side of the maps; 0 for that of the network.

        Returns:
            (N, classes, size, size), or (N, classes) for a label of records.
        """
        maps = self.maps(batch)
        rows = self.present(maps).nonzero().squeeze(1)
        late = self.phases == [0]
        z = columns_of(maps)
        scores = self.network.late(z, rows) if late else self.network(z, rows)[0]
        scores = scores.mean((2, 3)) if self.labels else as_large(scores, size or scores.shape[2])
        return Column(scores.softmax(1), rows)
