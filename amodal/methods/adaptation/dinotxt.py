"""dino.txt: a frozen self-supervised tower learns language through a few blocks behind it, by its
class token and the mean of its patches. Jose, Moutakanni, Kang, Baldassarre, Darcet, Xu et al.,
CVPR 2025, arXiv:2412.16334, section 3. Loss: CLIP's (see `clip`) on the vector [class token; mean
patch], into which texts are mapped, so that what a text says falls on the patches it is about.
`patch_maps` is their open-vocabulary segmentation: a patch with the patches' half of a class's unit
vector. Row 200 of the catalogue.

For any fields: the locked ones get a tail (`amodal.nn.heads.projection_tower`), the others a linear
map into its space. Differences: no dropping of blocks, no registers; texts are read by this
library's towers, both ways and by a class token instead of causally; of poolings of patches, their
mean alone; the curation of their data (concepts of captions, clusters of images) is not here."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from amodal.core import AmodalError, Batch
from amodal.methods.adaptation.lit import to_lock
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projection_tower import (
    align_to_towers,
    projection_towers,
    with_projection_tower,
)
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce

ENCODER = {"pool": "cls"}


def dinotxt(
    encoder: Encoder,
    *,
    lock: str = "",
    blocks: int = 2,
    reads: str = "both",
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Towers:
    """lock: the fields that stay as they were trained before, with commas between (unless given,
    those with a pretrained backbone, or the first that is no text); blocks: trained ones behind a
    locked tower, 0 for none; reads: what its vector is, "both" (class token and mean patch), "cls"
    or "mean"; temperature: where the learned softmax temperature starts; max_scale: bound of its
    inverse."""
    seen = [
        f
        for f, m in two_fields(encoder).fields.items()
        if not m.takes_prompts or encoder.contextual(f)
    ]
    given = [f for f in seen if encoder.contextual(f)] or seen[:1]
    for field in to_lock(encoder, lock or ",".join(given)):
        encoder.lock(field)
        with_projection_tower(encoder, field, blocks=blocks, output=reads)
    scale = Scale(1 / temperature, most=max_scale)

    def objective(z):
        return share(
            {
                f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale())
                for a, b in field_pairs(z)
            }
        )

    return Towers(align_to_towers(encoder), objective, learned=scale)


@torch.no_grad()
def patch_maps(
    encoder: Encoder, batches: Iterable[Batch], field: str, classes_KD: Tensor, *, size: int = 0
) -> Tensor:
    """(N, K, rows, columns): how much each patch of N pictures is of each class; `argmax(1)` is the
    segmentation.

    classes_KD: vectors of the classes in the aligned space, such as means of the unit vectors of a
    class's prompts. size: side in pixels to which maps are blown up, 0 for patches. Raises
    AmodalError for a field without a tail, and for patches that are no square.
    """
    if field not in projection_towers(encoder):
        raise AmodalError(
            f"maps are of fields that dinotxt locked, {', '.join(projection_towers(encoder)) or 'none'}, not {field!r}"
        )
    tail = projection_towers(encoder)[field]
    spoken, maps = normalize(normalize(classes_KD, dim=1)[:, tail.patch_slice], dim=1), []
    for batch in batches:
        patches = tail.patches(alone(encoder, batch.only(field))[field])
        side = round((len(patches) / max(len(batch[field]), 1)) ** 0.5)
        if side**2 * len(batch[field]) != len(patches):
            raise AmodalError(
                f"{field} has {len(patches)} patches for {len(batch[field])} values, which are no squares"
            )
        like = normalize(patches.x, dim=1) @ spoken.T
        maps.append(like.view(len(batch[field]), side, side, -1).permute(0, 3, 1, 2))
    whole = torch.cat(maps)
    return (
        interpolate(whole, size=(size, size), mode="bilinear", align_corners=False)
        if size
        else whole
    )
