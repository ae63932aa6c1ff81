"""MoCo v3: queries of one view find the momentum encoder's keys of the other within the batch.

Chen, Xie and He, ICCV 2021, arXiv:2104.02057. Loss: their eq. 1 in both directions, times 2 tau,
algorithm 1. With more than one field, each learns from its own two views, and the loss is the mean
over fields.

Views: a picture's are the authors' two (BYOL's, `blurred` and `solarized`), other fields' are
`strong`.

Differs:

- encoder: pool "mean" unless told otherwise (`pool="cls"` for the paper's class token); rows and
  columns share sine and cosine waves as elsewhere in amodal; weights start as elsewhere, the
  authors have Xavier's uniform ones.
- frozen patches: the random projection of fields on a grid stays as it starts, with its bias, as in
  the paper (section 4.2). Other fields (texts, tables, series) learn theirs, and so do pretrained
  backbones, which are not random.
- projector and predictor: those of the authors' ViT (3 and 2 layers, a norm at the end of both);
  their ResNet's have 2 layers and no norm after the predictor: `layers=2`, the norm stays.
- optimizer: weight decay is of matrices alone; the authors' is of norms and biases too. The cosine
  ends at 1 % of the rate, theirs at 0.
- momentum: that of a step is taken at its end, counted in steps from 1.
- views: one linear map has the changes of colour in a fixed order, and blur comes before them.
- batch: 4,096 rows, or as many as there are; keys and statistics are those of all of them.
"""

from __future__ import annotations

from torch import Tensor

from amodal.core import Recipe
from amodal.methods.shared.momentum_target import MomentumTarget
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.info_nce import info_nce

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1.5e-4,
    lr_scaling="linear/256",
    weight_decay=0.1,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_epochs=40.0,
    clip=0.0,
    batch_size=4096,
    epochs=300.0,
)


def moco_v3(
    encoder: Encoder,
    *,
    width: int = 256,
    hidden: int = 4096,
    layers: int = 3,
    temperature: float = 0.2,
    momentum: float = 0.99,
    freeze_patches: bool = True,
) -> MomentumTarget:
    """Build MoCo v3.

    Args:
        encoder: Of the queries.
        width: Of queries and keys.
        hidden: Of the hidden layers of projectors and predictors.
        layers: Of the projectors.
        temperature: Of the softmax; 1 in the paper for ResNets.
        momentum: Of the encoder of the keys at the start, rising to 1.
        freeze_patches: Keep the random projection of patches of fields on a grid as it starts.
    """
    if freeze_patches:
        freeze_patch_projections(encoder)

    def contrast(query_ND: Tensor, key_ND: Tensor) -> Tensor:
        nce: Tensor = info_nce(query_ND, key_ND, temperature=temperature, symmetric=False)
        return 2 * temperature * nce

    projectors = {
        f: Projector(encoder.feature_width(f), width, hidden=hidden, layers=layers, last_norm=True)
        for f in encoder.fields
    }
    predictors = {f: Projector(width, width, hidden=hidden, last_norm=True) for f in encoder.fields}
    return MomentumTarget(
        encoder,
        projectors=projectors,
        predictors=predictors,
        loss=contrast,
        name="moco_v3",
        momentum=momentum,
        views=("blurred", "solarized"),
    )


def freeze_patch_projections(encoder: Encoder) -> None:
    """Let tokenizers of fields on a grid get no gradient; pretrained backbones still do."""
    for field, modality in encoder.fields.items():
        if modality.layout == "grid" and not encoder.contextual(field):
            encoder.tokenizers[field].requires_grad_(False)
