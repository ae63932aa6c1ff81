"""MVPt: music for video and video for music, by long sequences of segments instead of clips on
their own. Suris, Vondrick, Russell and Salamon, CVPR 2022, arXiv:2206.07148. Each field has a
transformer over the segments of a whole track. Loss: InfoNCE between tracks, by their CLS vectors,
and between segments that sound and show at the same time, by their vectors in context, for which
the other segments of the track are negatives too. Row 127 of the catalogue.

Differences: any fields, every two of them, those that do not run in time by the track alone; tokens
of the library's modalities, averaged over a segment, in place of frozen CLIP and DeepSim vectors
(give those as a series, a segment a step); the temperature is learned, as in CLIP, one for both
levels; both levels are summed. Steering by attributes that words name is left to the query
(`amodal.search`)."""

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged, field_of, unknown
from amodal.methods.contract import Features, Method
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import field_pairs, share, token_column, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.temporal import segments_of
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce

ENCODER = {"pool": "cls"}


def mvpt(
    encoder: Encoder,
    *,
    timed: str = "",
    length: float = 1.0,
    track: float = 1.0,
    segment: float = 1.0,
    width: int = 256,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Method:
    """timed: the fields that run in time, with commas between; those of series, sound and events
    unless given; length: of a segment, in patches of a series or of sound and in steps of events,
    which the schema has to bring into step; track: weight of the loss between tracks; segment: of
    the loss between segments; width: of the common space; temperature: where the learned softmax
    temperature starts; max_scale: bound of its inverse."""
    given = [f.strip() for f in timed.split(",")] if timed else []
    if wrong := [f for f in given if f not in encoder.fields]:
        raise unknown("field", wrong[0], encoder.fields, "It was to be one that runs in time.")
    if length <= 0 or track < 0 or segment < 0 or not track + segment:
        raise AmodalError(
            f"segments have a length above 0, and weights are at least 0 and not all 0; got {length}, {track} and {segment}"
        )
    method = Mvpt(two_fields(encoder).align(width), Scale(1 / temperature, most=max_scale))
    method.timed = given or [f for f, m in encoder.fields.items() if m.has_time]
    method.length, method.weights = length, (track, segment)
    if not track and len(method.timed) < 2:
        raise AmodalError(
            "segments alone need two fields that run in time; leave `track` as it is, or name them in `timed`"
        )
    return method


def same_moments(features: Features, a: str, b: str) -> tuple[Tensor, Tensor]:
    """Two (P, D): the vectors of the segments of both sources that belong to one row and one
    moment."""
    moments = [features[f"moments/{s}"] for s in (a, b)]
    where = [
        torch.stack([torch.repeat_interleave(m.rows, m.values.lengths), m.values.flat], 1)
        for m in moments
    ]
    number = torch.unique(torch.cat(where), dim=0, return_inverse=True)[1].split(
        [len(w) for w in where]
    )
    return Embeddings(
        {s: Column(features[f"segments/{s}"].values.flat, n) for s, n in zip((a, b), number)}, 0
    ).pair(a, b)


class Mvpt(Method):
    min_batch_size = 2

    def __init__(self, encoder: Encoder, scale: Scale):
        super().__init__()
        self.encoder, self.scale = encoder, scale

    def features(self, batch: Batch) -> Features:
        """Beside the vectors of tracks, `segments/SOURCE` and `moments/SOURCE`: the vectors of each
        track's segments, and their numbers."""
        context = alone(self.encoder, batch)
        columns = dict(vectors(self.encoder, context, batch.size).columns)
        for source in (s for s in batch.sources if field_of(s) in self.timed):
            cut = segments_of(
                self.encoder.pools[field_of(source)].strip(context[source]), self.length
            )
            column = token_column(cut)
            columns[f"segments/{source}"] = Column(
                Ragged(
                    self.encoder.heads[field_of(source)](column.values.flat), column.values.lengths
                ),
                column.rows,
            )
            columns[f"moments/{source}"] = token_column(cut.with_x(cut.position[:, 0].long()))
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        z, heat = (
            Embeddings({s: features[s] for s in features if "/" not in s}, features.size),
            1 / self.scale(),
        )
        pairs = field_pairs(z)
        in_time = [p for p in pairs if all(field_of(s) in self.timed for s in p)]
        tracks = {
            f"track/{a}~{b}": self.weights[0] * info_nce(*z.pair(a, b), temperature=heat)
            for a, b in pairs
        }
        segments = {
            p: info_nce(*same_moments(features, *p), temperature=heat)
            for p in in_time
            if self.weights[1]
        }
        return share(tracks if self.weights[0] else {}) | share(
            {f"segment/{a}~{b}": self.weights[1] * term for (a, b), term in segments.items()}
        )
