"""SSMA: what each field says of each place passes a gate that all fields set, and pixels (or
records) are told from what has passed. Valada, Mohan and Burgard, IJCV 2020, arXiv:1808.03833.
Widths and weights also from the authors' code. Parts: the SSMA block (section 4.1), eASPP, skips
that the decoder weighs, cross-entropy with deep supervision. Row 6 of the catalogue. It learns from
labels: "self-supervised" means that features set their own gates.

Three stages, as in the paper: each field learns alone, then all together, then fusion and decoder
with encoders fixed; the shares of steps follow their iterations, and encoders do not learn more
slowly in between. Differences: encoders are the library's, not ResNets of multiscale units, so
skips are unfolded from a field's tokens before its trunk; experts have a linear head instead of a
decoder; scores are brought to the picture's size bilinearly; pictures are not augmented. Any number
of fields: one without a grid says the same at every place, grids are brought to the finest, and a
field that a row lacks is a map of zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column
from amodal.core.column import shared_rows
from amodal.methods.contract import Features, StagedMethod
from amodal.methods.shared.dense import dense_labels, grid_side, is_dense, maps_of
from amodal.methods.shared.shapes import refuse_pool, share
from amodal.nn.encoder import Encoder
from amodal.nn.heads.maps import as_large
from amodal.nn.heads.segmenter import DEEP, Segmenter
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
    """label: what is to be told, a label of records or a field of 8-bit pictures of class numbers,
    which is then no field (255, and numbers beyond the classes, are unknown pixels); classes: how
    many there are; width, skip: channels of maps and of skips; squeeze, skip_squeeze: eta, how much
    narrower the bottleneck of their gates is; gated: False concatenates instead; alone, fixed:
    shares of the steps in which fields learn alone, and in which encoders are fixed; coarse, fine:
    weights of deep supervision."""
    if classes < 2 or not label:
        raise AmodalError(
            "ssma tells classes: give label, a field of class maps or a label, and classes, at least 2"
        )
    if min(alone, fixed) < 0 or alone + fixed > 1:
        raise AmodalError(
            f"alone = {alone} and fixed = {fixed} are shares of the steps, together at most 1"
        )
    dense = is_dense(encoder, label)
    refuse_pool(encoder)
    sides = {s: grid_side(encoder, s) for s in encoder.fields}
    how = {
        "squeeze": squeeze,
        "skip_squeeze": skip_squeeze,
        "gated": gated,
        "width": width,
        "skip": skip,
    }
    network = Segmenter(list(sides), encoder.width, max(sides.values()), classes, **how)
    method = Ssma(encoder, network, sides, label, classes, (coarse, fine))
    method.labels = () if dense else (label,)
    return method.staged(alone, 1 - alone - fixed, fixed)


class Ssma(StagedMethod):
    """Features are the maps of each field, before and after its trunk, and the truth."""

    def __init__(self, encoder: Encoder, network: Segmenter, sides, label, classes, weights):
        super().__init__()
        self.encoder, self.network, self.sides, self.label, self.classes = (
            encoder,
            network,
            sides,
            label,
            classes,
        )
        self.weights = weights

    def staged(self, *shares: float) -> Ssma:
        self.plan = [
            i for i, part in enumerate(shares) if part > 1e-9
        ]  # 0: alone, 1: together, 2: encoders fixed
        self.stages = (*(sum(shares[: i + 1]) for i in self.plan[:-1]), 1.0)
        self.now = self.plan[0]
        return self

    def on_stage_start(self, stage: int) -> None:
        self.now = self.plan[stage]
        for part in (self.encoder, *self.network.streams()):
            part.requires_grad_(self.now != 2)

    def features(self, batch: Batch) -> Features:
        known = {"truth": dense_labels(batch, self.label, self.classes)}
        return Features(maps_of(self.encoder, batch, self.sides) | known, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        zero = connected_zero(
            *(c.values for name, c in features.columns.items() if name != "truth")
        )
        return {name: loss + zero for name, loss in self.told(features, features["truth"]).items()}

    def told(self, z: Features, known: Column) -> dict[str, Tensor]:
        if self.now == 0:
            each = {s: self.network.expert(z, s) for s in self.sides}
            at = {s: shared_rows(told, known) for s, told in each.items()}
            terms = {
                s: pixel_cross_entropy(each[s].values[i], known.values[j])
                for s, (i, j) in at.items()
            }
            return share({f"alone/{s}": term for s, term in terms.items()})
        at = self.seen(z)[known.rows]
        told = self.network(z, known.rows[at])
        return {"together": deep_supervision(*told, known.values[at], weights=self.weights)}

    def seen(self, z: Features) -> Tensor:
        """(B,) bool: the rows that have any field."""
        return torch.stack([z[f"{DEEP}/{s}"].present(z.size) for s in self.sides]).any(0)

    def predict(self, batch: Batch) -> Column:
        told = self.probabilities(batch)
        return Column(told.values.clamp(min=1e-12).log(), told.rows)

    @torch.no_grad()
    def probabilities(self, batch: Batch, size: int = 0) -> Column:
        """Probabilities of the rows that have any field: (N, classes, size, size), as large as they
        were told where size is 0; (N, classes) where records are told. Experts that never met say
        the mean of what each says."""
        z = Features(maps_of(self.encoder, batch, self.sides), batch.size)
        rows = self.seen(z).nonzero().squeeze(1)
        scores = self.network.late(z, rows) if self.plan == [0] else self.network(z, rows)[0]
        scores = scores.mean((2, 3)) if self.labels else as_large(scores, size or scores.shape[2])
        return Column(scores.softmax(1), rows)
