"""UDA-COPE: where on its object each seen point lies, learnt from rendered objects and carried over
to real ones by geometry. Lee, Lee, Shin, Choe, Shin, Kweon and Yoon, CVPR 2022, arXiv:2111.12580.
Losses: cross-entropy of the bins of normalised object coordinates (NOCS) where they are known;
else, of a slow teacher, where its pose puts the points that pass the bidirectional filter (without
the filter what it tells of all of them), and the distance of what is told from where the pose puts
the point. Row 73 of the catalogue. We know of no public code of the authors: weights, thresholds
and momentum are ours.

`points` is a picture whose three channels are x, y, z of what each pixel sees, 0, 0, 0 where that
is nothing; `coordinates` likewise in [0, 1]. Records with coordinates are the labelled source.
Fields are fused place by place: any pictures, and others say the same at every place. Differences:
patches of pictures and of points go through the library's encoders, not PSPNet and 3D-GCN; one head
for all categories; the filter measures to the nearest; objects with symmetries have no treatment of
their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column
from amodal.core.column import shared_rows
from amodal.methods.contract import Clock, Features, StagedMethod
from amodal.methods.shared.coordinates import Coordinates, check_fields, listed, summed
from amodal.methods.shared.shapes import follow, frozen_copy, refuse_pool, token_mean
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
    near: float = 0.1,
    far: float = 0.1,
    tries: int = 100,
) -> UdaCope:
    """points, coordinates: the fields of what is seen and of what is told; labelled: a label that
    only records have whose coordinates may be learnt (all that have coordinates unless given);
    bins: of each axis; hidden: of the head; source: share of the steps on labelled records alone,
    before the teacher sets in; momentum: of the teacher; pseudo, geometry: weights of both losses
    on other records; filtered: False takes the teacher's word for every point; near, far:
    thresholds of the filter, in the units of `coordinates`; tries: of RANSAC."""
    check_fields(encoder, points, coordinates)
    if not 0 <= source <= 1 or bins < 2 or tries < 1:
        raise AmodalError(
            f"source = {source} is a share, bins = {bins} at least 2, tries = {tries} at least 1"
        )
    if coordinates != points:
        encoder.drop(coordinates)
    refuse_pool(encoder)
    method = UdaCope(
        encoder, Coordinates(encoder, points, bins, hidden), coordinates, labelled, source
    )
    method.momentum, method.weights, method.filtered = (
        momentum,
        {"pseudo": pseudo, "geometry": geometry},
        filtered,
    )
    method.near, method.far, method.tries = near, far, tries
    return method


class UdaCope(StagedMethod):
    """Features are, for each row, the sum of the losses of its points, and their number."""

    def __init__(
        self, encoder: Encoder, told: Coordinates, coordinates: str, labelled: str, source: float
    ):
        super().__init__()
        self.encoder, self.told, self.coordinates = encoder, told, coordinates
        self.teacher = frozen_copy(nn.ModuleList([encoder, told]))
        self.labels = (labelled,) if labelled else ()
        self.plan = [False] * (source > 0) + [True] * (source < 1)  # whether the teacher teaches
        self.stages, self.taught = ((source, 1.0) if len(self.plan) == 2 else (1.0,)), self.plan[0]

    def on_stage_start(self, stage: int) -> None:
        self.taught = self.plan[stage]

    def on_step_end(self, clock: Clock) -> None:
        for slow, fast in zip(self.teacher, (self.encoder, self.told)):
            follow(slow, fast, self.momentum if self.taught else 0.0)

    def features(self, batch: Batch) -> Features:
        points, logits = batch[self.told.points], self.told(self.encoder, batch).values
        seen, there = listed(points.values)
        truth = batch[self.coordinates].at(self.known(batch)[batch[self.coordinates].rows])
        at, at_truth = shared_rows(points, truth)
        value, valid = listed(truth.values[at_truth])
        told = summed(bin_cross_entropy(logits[at], value), valid & there[at])
        columns = {"coordinates": Column(told, points.rows[at])}
        if self.taught:
            others = (~self.known(batch))[points.rows].nonzero().squeeze(1)
            columns |= self.teach(
                batch.at(points.rows[others]), logits[others], points.rows[others]
            )
        return Features(columns, batch.size)

    def known(self, batch: Batch) -> Tensor:
        """(B,) bool: the rows whose coordinates are learnt."""
        return (batch.labels[self.labels[0]] if self.labels else batch[self.coordinates]).present(
            batch.size
        )

    def teach(self, others: Batch, logits: Tensor, rows: Tensor) -> dict[str, Column]:
        guess, seen, there = self.teacher[1].guessed(self.teacher[0], others)
        how = {"near": self.near, "tries": self.tries}
        if self.filtered:
            fit, kept = bidirectional_filter(guess, seen, there, others.seeds, far=self.far, **how)
        else:
            fit, kept = ransac(guess, seen, there, others.seeds, **how)[0], there
        place = fit.inverse(seen.double()).clamp(0, 1)
        pseudo = bin_cross_entropy(logits, place if self.filtered else guess)
        each = {"pseudo": pseudo, "geometry": expected_distance(logits, place)}
        return {name: Column(summed(loss, kept), rows) for name, loss in each.items()}

    def losses(self, features: Features) -> dict[str, Tensor]:
        weights = {"coordinates": 1.0, **self.weights}
        return {name: weights[name] * token_mean(features[name]) for name in features}

    @torch.no_grad()
    def poses(self, batch: Batch) -> Similarity:
        """Of the rows that have points, what takes the object's space to where it is seen."""
        guess, seen, there = self.told.guessed(self.encoder, batch)
        seeds = batch.seeds[batch[self.told.points].rows]
        return ransac(guess, seen, there, seeds, near=self.near, tries=self.tries)[0]
