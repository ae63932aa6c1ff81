"""MVPt: music for video and video for music, by long sequences of segments instead of clips on
their own. Suris, Vondrick, Russell and Salamon, CVPR 2022, arXiv:2206.07148. Each field has a
transformer over the segments of a whole track. Loss: InfoNCE between tracks, by their CLS vectors,
and between segments that sound and show at the same time, by their vectors in context, for which
the other segments of the track are negatives too. Row 127 of the catalogue.

Differs:

- inputs: tokens of the library's modalities, averaged over a segment behind the transformer. The
  paper's transformers read frozen vectors of CLIP (mean over the frames of ten seconds) and of
  DeepSim. Give those as two series, a segment a step, with `--method.length 1`; nothing here makes
  them of a video file.
- fields: every two are compared, those that do not run in time by the track alone.
- segments: of both fields the same clock, from the start of each value; a moment that one of them
  lacks has no pair. `length` is in patches or steps, not in seconds.
- losses: both levels, added; each is the mean over its pairs of fields. One learned temperature,
  that of CLIP.
- steering by attributes that words name, with the paper's directions in CLIP's space, is left to
  the query (`amodal.search`).
- YouTube8M-MusicVideo and MovieClips are not bundled, and nobody was asked which music fits.
- recipe: none; no program of the authors is public.
- open: what makes vectors of CLIP and DeepSim of a video file, and steering by words. Waits for
  video.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, field_of, unknown
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import field_pairs, ragged, share, token_column, two_fields
from amodal.methods.shared.typed_parts import aligned_heads, field_pool
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
) -> Mvpt:
    """Build MVPt.

    Args:
        encoder: Of at least two fields.
        timed: The fields that run in time, with commas between (by default those of series, sound
            and events).
        length: Of a segment, in patches of a series or of sound and in steps of events. The schema
            has to make them equally long.
        track: Weight of the loss between tracks.
        segment: Weight of the loss between segments.
        width: Of the common space.
        temperature: Where the learned softmax temperature starts.
        max_scale: Bound of its inverse.
    """
    named = [f.strip() for f in timed.split(",")] if timed else []
    if wrong := [f for f in named if f not in encoder.fields]:
        raise unknown("field", wrong[0], encoder.fields, "It should be one that runs in time.")
    if length <= 0 or track < 0 or segment < 0 or not track + segment:
        raise AmodalError(
            "segments have a length above 0, and weights are at least 0 and not all 0; got "
            f"{length}, {track} and {segment}"
        )
    timed_fields = named or [f for f, m in encoder.fields.items() if m.has_time]
    method = Mvpt(
        two_fields(encoder).align(width),
        Scale(1 / temperature, most=max_scale),
        timed=timed_fields,
        length=length,
        track=track,
        segment=segment,
    )
    if not track and len(timed_fields) < 2:
        raise AmodalError(
            "segments alone need two fields that run in time; leave `track` as it is, or name them "
            "in `timed`"
        )
    return method


@dataclass(frozen=True, kw_only=True)
class TrackFeatures(FeatureRecord):
    """Vectors of tracks and of their segments.

    Args:
        tracks: source -> (N, D).
        segments: source -> the vectors of each track's segments, of fields that run in time.
        moments: source -> the numbers of those segments in time.
    """

    tracks: Columns
    segments: Columns
    moments: Columns


def same_moments(features: TrackFeatures, a: str, b: str) -> tuple[Tensor, Tensor]:
    """The vectors of the segments of two sources at the same moment of the same track.

    Args:
        features: Of a batch.
        a: A source that runs in time.
        b: Another one.

    Returns:
        Two (P, D).
    """
    moments = [features.moments[s] for s in (a, b)]
    keys = [
        torch.stack([torch.repeat_interleave(m.rows, ragged(m).lengths), m.flat], 1)
        for m in moments
    ]
    # each pair of row and moment gets a number, so that a segment is a row of a column
    number = torch.unique(torch.cat(keys), dim=0, return_inverse=True)[1].split(
        [len(k) for k in keys]
    )
    # numbers ascend as a column's rows must: keys go by row and then moment, and `unique` sorts so
    columns = {s: Column(features.segments[s].flat, n) for s, n in zip((a, b), number)}
    # `pair` does not read the size
    return Embeddings(columns, 0).pair(a, b)


class Mvpt(Method):
    """Contrast between tracks and between their segments.

    Args:
        encoder: Aligned.
        scale: The learned inverse temperature.
        timed: The fields that run in time.
        length: Of a segment.
        track: Weight of the loss between tracks.
        segment: Weight of the loss between segments.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        scale: Scale,
        *,
        timed: list[str],
        length: float,
        track: float,
        segment: float,
    ):
        super().__init__()
        self.encoder, self.scale, self.timed, self.length = encoder, scale, timed, length
        self.track, self.segment = track, segment

    def features(self, batch: Batch) -> TrackFeatures:
        context, segments, moments = alone(self.encoder, batch), {}, {}
        for source in (s for s in batch.sources if field_of(s) in self.timed):
            tokens = field_pool(self.encoder, source).strip(context[source])
            cut = segments_of(tokens, self.length)
            column = token_column(cut)
            head = aligned_heads(self.encoder)[field_of(source)]
            segments[source] = column.with_flat(head(column.flat))
            moments[source] = token_column(cut.with_x(cut.position[:, 0].long()))
        tracks = vectors(self.encoder, context, batch.size).columns
        return TrackFeatures(size=batch.size, tracks=tracks, segments=segments, moments=moments)

    def losses(self, features: TrackFeatures) -> dict[str, Tensor]:
        z = Embeddings(dict(features.tracks), features.size)
        temperature, pairs = 1 / self.scale(), field_pairs(z)
        tracks, segments = {}, {}
        for a, b in pairs:
            if self.track:
                loss = info_nce(*z.pair(a, b), temperature=temperature)
                tracks[f"track/{a}~{b}"] = self.track * loss
            if self.segment and field_of(a) in self.timed and field_of(b) in self.timed:
                loss = info_nce(*same_moments(features, a, b), temperature=temperature)
                segments[f"segment/{a}~{b}"] = self.segment * loss
        return share(tracks) | share(segments)
