"""dino.txt: a frozen self-supervised tower learns language through a few blocks behind it, by its
class token and the mean of its patches. Jose, Moutakanni, Kang, Baldassarre, Darcet, Xu et al.,
CVPR 2025, arXiv:2412.16334, section 3. Loss: CLIP's (see `clip`) on the vector [class token; mean
patch], into which texts are mapped, so that what a text says falls on the patches it is about.
`patch_maps` is their open-vocabulary segmentation: a patch with the patches' half of a class's unit
vector. Row 200 of the catalogue.

For any fields: the locked ones get a projection tower (`amodal.nn.heads.projection_tower`), the
others a linear map into its space.

The paper's towers are DINOv2's ViT-L/14 with registers, whose class token and registers go through
the blocks with its patches, and a causal transformer from scratch with the configuration of DIR
(24 layers, 1,280 wide, CLIP's subwords), of which the state at the end of a text is taken:

    amodal pretrain dinotxt --data DATA --recipe paper --size large --out RUN
        --backbone image=timm:vit_large_patch14_reg4_dinov2:224/class@pretrained
        text=transformers:DIR@last@scratch
    amodal map RUN --data PICTURES --queries "a cat,a tree" --template "a photo of {}"
        --resolution 448 --out MAPS

That is its segmentation by texts. `--resolution` lets windows of the run's own size slide over
pictures with more pixels, which overlap by half or more; a patch is the mean of all that show it.

Differs:

- Encoder: `timm:NAME` without `/class`, and other backbones, give patches alone, and the class
  token is a new one that the blocks fill. Where a backbone is not as wide as the encoder, a linear
  map that learns stands between them. Behind the text's tower is one linear map more than theirs.
- Blocks: theirs are dropped at random in training, at a rate of .3; these are not, because a
  pooling does not know the seeds of rows. Attention has a bias here, theirs has none. Matrices and
  biases start as torch has them, theirs normal with .02 and zero.
- Pooling of patches: their mean. The authors' model also has the maximum and a generalised mean,
  which the released one does not use, and can take patches from an earlier layer.
- The inverse temperature is bounded by 100, CLIP's; their public code has no bound.
- Recipe: the training program is not public. `PAPER_RECIPE` has the batches, the number of steps
  and the pixels that the paper names; optimizer and rate are the library's.
- Data: the curation of both sides (captions balanced over concepts, clusters of images) is not
  here.
- Views are `weak` of both fields: crops of 60 to 100 %, and slices of texts of 80 to 100 %.
- Maps enlarge cosines bilinearly, the authors' notebook enlarges patches, bicubically. Size and
  overlap of windows are ours.
- Further fields, and several locked ones, are ours.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from amodal.core import AmodalError, Batch, Embeddings, Recipe, Tokens
from amodal.methods.adaptation.lit import to_lock
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.backbones.pretrained import Backbone
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projection_tower import (
    ProjectionTower,
    align_to_towers,
    projection_towers,
    with_projection_tower,
)
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce

ENCODER = {"pool": "cls"}
PAPER_RECIPE = Recipe(batch_size=65_536, steps=50_000, resolution=224)
"""What the paper says of it."""


def dinotxt(
    encoder: Encoder,
    *,
    lock: str = "",
    blocks: int = 2,
    pooling: str = "both",
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> DinoTxt:
    """Build dino.txt.

    Args:
        encoder: Some of its towers are pretrained.
        lock: The fields that are frozen, with commas between (by default those with a pretrained
            backbone, or the first that is no text).
        blocks: Trained ones behind a locked tower, 0 for none.
        pooling: The vector of a locked tower: "both" (class token and mean patch), "cls" or "mean".
        temperature: Where the learned softmax temperature starts.
        max_scale: Bound of its inverse.
    """
    fields = two_fields(encoder).fields.items()
    candidates = [f for f, m in fields if not m.takes_prompts or encoder.pretrained(f)]
    default = [f for f in candidates if encoder.pretrained(f)] or candidates[:1]
    for field in to_lock(encoder, lock or ",".join(default)):
        encoder.lock(field)
        _keep_features(encoder, field)
        with_projection_tower(encoder, field, blocks=blocks, output=pooling)
    scale = Scale(1 / temperature, most=max_scale)

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(
            {
                f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale())
                for a, b in field_pairs(z)
            }
        )

    return DinoTxt(align_to_towers(encoder), objective, learned=scale)


@torch.no_grad()
def _keep_features(encoder: Encoder, field: str) -> None:
    """Blocks read the tokens of a pretrained backbone as they are, where they are as wide."""
    backbone = encoder.tokenizers[field]
    if not isinstance(backbone, Backbone) or not encoder.pretrained(field):
        return
    if backbone.body.width == encoder.width:
        backbone.keep_features()
        encoder.field_token[field].zero_()


class DinoTxt(Towers):
    """`Towers` whose patches are compared with the patches' part of a text's vector."""

    def patch_vectors(self, batch: Batch, field: str) -> Tokens:
        """See `amodal.core.protocols.LocatesText`."""
        tower = _tower(self.encoder, field)
        patches = tower.patches(alone(self.encoder, batch.only(field))[field])
        return patches.with_x(normalize(patches.x, dim=1))

    def patch_queries(self, z_KD: Tensor, field: str) -> Tensor:
        """See `amodal.core.protocols.LocatesText`."""
        return z_KD[:, _tower(self.encoder, field).patch_slice]


def _tower(encoder: Encoder, field: str) -> ProjectionTower:
    towers = projection_towers(encoder)
    if field not in towers:
        raise AmodalError(
            f"maps are of fields that dinotxt locked, {', '.join(towers) or 'none'}, not {field!r}"
        )
    return towers[field]


@torch.no_grad()
def patch_maps(
    encoder: Encoder, batches: Iterable[Batch], field: str, classes_KD: Tensor, *, size: int = 0
) -> Tensor:
    """Open-vocabulary segmentation: the cosine of each patch with each class.

    Args:
        encoder: Of `dinotxt`.
        batches: N pictures in all.
        field: Of the pictures.
        classes_KD: Vectors of the classes in the aligned space, such as means of the unit vectors
            of a class's prompts.
        size: Side in pixels to which maps are enlarged, 0 for patches.

    Returns:
        (N, K, rows, columns); `argmax(1)` is the segmentation.

    Raises:
        AmodalError: For a field without a projection tower, records without it, and patches that
            form no square.
    """
    tower, maps = _tower(encoder, field), []
    class_KD = normalize(classes_KD[:, tower.patch_slice], dim=1)
    for batch in batches:
        values = len(batch[field])
        if not values:
            continue
        patches = tower.patches(alone(encoder, batch.only(field))[field])
        side = round((len(patches) / values) ** 0.5)
        if side**2 * values != len(patches):
            raise AmodalError(
                f"{field} has {len(patches)} patches for {values} values, which form no squares"
            )
        cosine = normalize(patches.x, dim=1) @ class_KD.T
        maps.append(cosine.view(values, side, side, -1).permute(0, 3, 1, 2))
    if not maps:
        raise AmodalError(f"no record has {field!r}, so that there is nothing to make a map of")
    patch_map = torch.cat(maps)
    if not size:
        return patch_map
    return interpolate(patch_map, size=(size, size), mode="bilinear")
