"""Capsules routed by self-attention: each field is described by many small capsules, of which few
stay active, before fields are compared. Duarte, Chen, Shvetsova, Rouditchenko et al., 2021,
arXiv:2112.00775: primary capsules and routing by self-attention, of their section 3; masked margin
softmax between every two fields (arXiv:1909.08782, eq. 2-4). Row 115 of the catalogue.

The head is saved with the encoder. "dynamic" and "em" put the iterative routings of the comparison
in its place.

Differs:

- inputs: any fields, whose trunks learn with the rest. The paper's are pooled features of
  pretrained networks (a 2-D and a 3-D one of video, one of sound, word vectors); they can be had as
  columns of numbers, or as frozen backbones. There is no modality of video yet.
- reconstructed, as there is no public code: widths, how activations enter the routing, the softmax
  over capsules, and the layer norm before the gated linear map.
- loss: of cosines over a learned temperature, as search ranks by cosine, with the margin in logits;
  the paper's is of plain products. The mean over pairs of fields.
- recipe: that of the encoder's size. The paper's could not be had, so there is no `PAPER_RECIPE`.
- product: retrieval by `amodal evaluate` and `amodal search`. Localisation of steps in time has no
  command.
- open: for `loss`, public code or a text to hold the reconstruction against; for `system`, features
  of video clips and steps found in time. Waits for video.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from amodal.core import Batch, Column, Embeddings
from amodal.core.column import shared_rows
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.methods.shared.supervised import label_columns
from amodal.nn.encoder import Encoder
from amodal.nn.heads.capsules import CapsuleHead
from amodal.nn.scale import Scale
from amodal.objectives.masked_margin import masked_margin_softmax


def capsule_attn(
    encoder: Encoder,
    *,
    capsules: int = 128,
    pose: int = 32,
    routing: str = "attention",
    width: int = 512,
    margin: float = 1e-3,
    temperature: float = 0.07,
    label: str = "",
) -> Capsules:
    """Build the capsule network.

    Args:
        encoder: Of at least two fields.
        capsules: Of each field, as many after routing as before.
        pose: Width of each capsule.
        routing: "attention", "dynamic" or "em".
        width: Of the common space.
        margin: Subtracted from the logit of rows that belong together.
        temperature: Where the learned one starts.
        label: Of the data, equal for records that are no negatives of each other (clips of one
            film).
    """
    head = partial(CapsuleHead, capsules=capsules, pose=pose, routing=routing)
    return Capsules(
        two_fields(encoder).align(width, head=head),
        Scale(1 / temperature, most=100.0),
        margin=margin,
        label=label,
    )


@dataclass(frozen=True, kw_only=True)
class CapsuleFeatures(FeatureRecord):
    """Aligned vectors, and the items that rows belong to.

    Args:
        vectors: source -> (N, D).
        item: (N,) equal for rows that are no negatives of each other.
    """

    vectors: Columns
    item: Column | None = None


class Capsules(Method):
    """Masked margin softmax between the capsule vectors of every two fields.

    Args:
        encoder: Aligned by capsule heads.
        scale: The learned inverse temperature.
        margin: Subtracted from the logit of rows that belong together.
        label: Equal for records that are no negatives of each other; "" for none.
    """

    min_batch_size = 2
    views = ("weak",)

    def __init__(self, encoder: Encoder, scale: Scale, *, margin: float, label: str):
        super().__init__()
        self.encoder, self.learned, self.margin = encoder, scale, margin
        self.labels = (label,) if label else ()

    def features(self, batch: Batch) -> CapsuleFeatures:
        label = label_columns(batch, self.labels)
        return CapsuleFeatures(
            size=batch.size,
            vectors=self.encoder(batch).columns,
            item=next(iter(label.values()), None),
        )

    def losses(self, features: CapsuleFeatures) -> dict[str, Tensor]:
        z, terms = Embeddings(dict(features.vectors), features.size), {}
        for a, b in field_pairs(z):
            groups = None
            if features.item is not None:
                rows = z[a].rows[shared_rows(z[a], z[b])[0]]
                groups = row_items(features.item, features.size)[rows]
            terms[f"margin/{a}~{b}"] = masked_margin_softmax(
                *z.pair(a, b),
                margin=self.margin,
                temperature=1 / self.learned(),
                group_N=groups,
            )
        return share(terms)


def row_items(item: Column, size: int) -> Tensor:
    """(B,) int64: the item of every row, -1 where it is not known."""
    items = item.rows.new_full((size,), -1)
    return items.index_put((item.rows,), item.flat.long())
