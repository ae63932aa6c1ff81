"""UDA-COPE: where on its object each seen point lies, learnt from rendered objects and carried over
to real ones by geometry. Lee, Lee, Shin, Choe, Shin, Kweon and Yoon, CVPR 2022, arXiv:2111.12580.
Losses: cross-entropy of the bins of normalised object coordinates (NOCS) where they are known; else
the pseudo-labels of a teacher: where its pose puts the points that pass the bidirectional filter
(without the filter its prediction for all of them), and the distance of the prediction from where
the pose puts the point. Row 73 of the catalogue.

`points` is a picture whose three channels are x, y, z of what each pixel sees, 0, 0, 0 where that
is nothing; `coordinates` likewise in [0, 1]. Records with coordinates are the labelled source.
Fields are fused place by place: any pictures, and others say the same at every place.

Differs:

- reconstructed, as there is no public code of the authors: weights of the terms, both distances of
  the filter, the share of steps before the teacher sets in, and its momentum. The filter measures
  to the nearest point, in units of the object's space.
- encoder: patches of pictures and of points go through the library's transformers; the paper has a
  PSPNet over colours and a graph network (3D-GCN) over points of no order.
- head: one for all categories. There is no detector, by which the paper crops objects; objects with
  symmetries have no treatment of their own.
- recipe: the library's own, as that of the paper is not known here.
- product: a run's `poses` of a batch are Python; no command prints poses, and accuracies within 5
  degrees and 5 cm, or boxes in three dimensions, are no protocol of `amodal evaluate`.
- views: `plain`.
- open: for `loss`, public code or a text to hold the reconstruction against; for `system`, points
  of no order with a graph network, a PSPNet over colours, and a verb that gives poses and their
  accuracy. Waits for point clouds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column
from amodal.core.column import shared_rows
from amodal.methods.contract import Clock, FeatureRecord, StagedMethod
from amodal.methods.shared.coordinates import Coordinates, check_fields, masked_sum, point_list
from amodal.methods.shared.shapes import ema_update, momentum_copy, refuse_pool, token_mean
from amodal.nn.encoder import Encoder
from amodal.objectives.coordinate_bins import bin_cross_entropy, expected_distance
from amodal.stats.similarity_transform import Similarity, bidirectional_filter, ransac


def uda_cope(
    encoder: Encoder,
    *,
    points: str = "points",
    coordinates: str = "coordinates",
    labelled: str = "",
    bins: int = 32,
    hidden: int = 256,
    source: float = 0.5,
    momentum: float = 0.99,
    pseudo: float = 1.0,
    geometry: float = 1.0,
    filtered: bool = True,
    inlier_distance: float = 0.1,
    filter_distance: float = 0.1,
    iterations: int = 100,
) -> UdaCope:
    """Build UDA-COPE.

    Args:
        encoder: Of pictures of points, and other fields.
        points: The field of observed points.
        coordinates: The field of object coordinates, which are predicted.
        labelled: A label that only records have whose coordinates may be learnt (by default all
            that have coordinates).
        bins: Of each axis.
        hidden: Width of the head.
        source: Share of the steps on labelled records alone, before the teacher sets in.
        momentum: Of the teacher.
        pseudo: Weight of the cross-entropy on other records.
        geometry: Weight of the distances on other records.
        filtered: False takes the teacher's prediction for every point.
        inlier_distance: Of the RANSAC pose, and of a point from the nearest coordinate in the
            bidirectional filter, in the units of `coordinates`.
        filter_distance: Of a coordinate from the nearest point in that filter.
        iterations: Of RANSAC.
    """
    check_fields(encoder, points, coordinates)
    if not 0 <= source <= 1 or bins < 2 or iterations < 1:
        raise AmodalError(
            f"source = {source} is a share, bins = {bins} at least 2, "
            f"iterations = {iterations} at least 1"
        )
    if coordinates != points:
        encoder.drop(coordinates)
    refuse_pool(encoder)
    return UdaCope(
        encoder,
        Coordinates(encoder, points, bins, hidden),
        coordinates=coordinates,
        labelled=labelled,
        source=source,
        momentum=momentum,
        pseudo=pseudo,
        geometry=geometry,
        filtered=filtered,
        inlier_distance=inlier_distance,
        filter_distance=filter_distance,
        iterations=iterations,
    )


@dataclass(frozen=True, kw_only=True)
class CoordinateFeatures(FeatureRecord):
    """For each row the sum of the losses of its points, and their number.

    Args:
        coordinates: (N, 2) cross-entropy with known coordinates.
        pseudo: (N, 2) cross-entropy with pseudo-labels; None before the teacher sets in.
        geometry: (N, 2) distances from the pose of the teacher; None before it sets in.
    """

    coordinates: Column
    pseudo: Column | None = None
    geometry: Column | None = None


class UdaCope(StagedMethod):
    """A predictor of object coordinates, and a teacher for records without them.

    Args:
        encoder: Of the fields.
        head: Predicts coordinates.
        coordinates: The field of known coordinates.
        labelled: A label of the records whose coordinates may be learnt; "" for all.
        source: Share of the steps before the teacher sets in.
        momentum: Of the teacher.
        pseudo: Weight of the cross-entropy with pseudo-labels.
        geometry: Weight of the distances from the pose.
        filtered: Whether pseudo-labels pass the bidirectional filter.
        inlier_distance: Of RANSAC.
        filter_distance: Of the filter.
        iterations: Of RANSAC.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: Coordinates,
        *,
        coordinates: str,
        labelled: str,
        source: float,
        momentum: float,
        pseudo: float,
        geometry: float,
        filtered: bool,
        inlier_distance: float,
        filter_distance: float,
        iterations: int,
    ):
        super().__init__()
        self.encoder, self.coordinate_head, self.coordinates = encoder, head, coordinates
        self.teacher = momentum_copy(nn.ModuleList([encoder, head]))
        self.labels = (labelled,) if labelled else ()
        # of each stage, whether the teacher labels the other records
        self.adapts = [False] * (source > 0) + [True] * (source < 1)
        self.stages = (source, 1.0) if len(self.adapts) == 2 else (1.0,)
        self.adapting = self.adapts[0]
        self.momentum, self.filtered = momentum, filtered
        self.weights = {"coordinates": 1.0, "pseudo": pseudo, "geometry": geometry}
        self.inlier_distance, self.filter_distance = inlier_distance, filter_distance
        self.iterations = iterations

    def on_stage_start(self, stage: int) -> None:
        self.adapting = self.adapts[stage]

    def on_step_end(self, clock: Clock) -> None:
        # before it sets in the teacher is a copy: it starts from what the labelled records have
        # taught
        momentum = self.momentum if self.adapting else 0.0
        for teacher, student in zip(self.teacher, (self.encoder, self.coordinate_head)):
            ema_update(teacher, student, momentum)

    def features(self, batch: Batch) -> CoordinateFeatures:
        points = batch[self.coordinate_head.points]
        logits = self.coordinate_head(self.encoder, batch).values
        _, observed = point_list(points.flat)
        labelled = self.labelled_rows(batch)
        truth = batch[self.coordinates].at(labelled[batch[self.coordinates].rows])
        index, truth_index = shared_rows(points, truth)
        value, valid = point_list(truth.flat[truth_index])
        loss = bin_cross_entropy(logits[index], value)
        supervised = Column(masked_sum(loss, valid & observed[index]), points.rows[index])
        if not self.adapting:
            return CoordinateFeatures(size=batch.size, coordinates=supervised)
        others = (~labelled)[points.rows].nonzero().squeeze(1)
        rows = points.rows[others]
        pseudo, geometry = self.pseudo_losses(batch.at(rows), logits[others], rows)
        return CoordinateFeatures(
            size=batch.size, coordinates=supervised, pseudo=pseudo, geometry=geometry
        )

    def labelled_rows(self, batch: Batch) -> Tensor:
        """(B,) bool: the rows whose coordinates are learnt."""
        column = batch.labels[self.labels[0]] if self.labels else batch[self.coordinates]
        return column.present(batch.size)

    def pseudo_losses(self, batch: Batch, logits: Tensor, rows: Tensor) -> tuple[Column, Column]:
        """The losses of rows without known coordinates.

        Args:
            batch: Those rows alone.
            logits: (N, 3, bins, P) of the student.
            rows: (N,) their numbers in the whole batch.

        Returns:
            (N, 2) cross-entropies with pseudo-labels, and (N, 2) distances from the pose.
        """
        encoder, head = cast(tuple[Encoder, Coordinates], tuple(self.teacher))
        guess, points, observed = head.correspondences(encoder, batch)
        near, tries = self.inlier_distance, self.iterations
        correspondences = guess, points, observed, batch.seeds
        if self.filtered:
            pose, valid = bidirectional_filter(
                *correspondences, far=self.filter_distance, near=near, tries=tries
            )
        else:
            pose, valid = ransac(*correspondences, near=near, tries=tries)[0], observed
        place = pose.inverse(points.double()).clamp(0, 1)
        pseudo = bin_cross_entropy(logits, place if self.filtered else guess)
        distance = expected_distance(logits, place)
        return Column(masked_sum(pseudo, valid), rows), Column(masked_sum(distance, valid), rows)

    def losses(self, features: CoordinateFeatures) -> dict[str, Tensor]:
        return {
            name: self.weights[name] * token_mean(column)
            for name, column in features.columns.items()
        }

    @torch.no_grad()
    def poses(self, batch: Batch) -> Similarity:
        """The poses that take object space to camera space, of the rows that have points."""
        guess, points, observed = self.coordinate_head.correspondences(self.encoder, batch)
        seeds = batch.seeds[batch[self.coordinate_head.points].rows]
        return ransac(
            guess, points, observed, seeds, near=self.inlier_distance, tries=self.iterations
        )[0]
