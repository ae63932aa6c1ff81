"""MV-DHEL and MV-InfoNCE: all views of a sample in one term, and not one term for each pair.

Koromilas, Georgiou, Bouritsas, Giannakopoulos, Nicolaou and Panagakis, 2025, arXiv:2507.06979.
Views are augmentations or fields. Losses: their section IV, with the baselines of their section V
under the same interface. Row 89 of the catalogue.

Rows with a subset of the views have their own term over the views that they have. A row with one
view has no positive and is a negative of the others. In MV-DHEL a row's product has a factor for
each of its own views.

The authors' system for CIFAR, but for what stands below:

    amodal pretrain mv_dhel --data DATA --recipe paper --method.last_norm True --resolution 32
        --backbone image=convnet:width=64,stages=4,blocks=2
        --views image=unblurred,unblurred,unblurred,unblurred

For ImageNet: `timm:resnet50@scratch`, `simclr` for `unblurred`, `--method.temperature 0.1 --lr 0.3
--warmup 0.1 --steps 1000912 --resolution 224`. For two modalities or more give as many fields: each
is a view. `--method.loss` has MV-InfoNCE and the baselines.

Product: the encoder, for probes by `amodal evaluate`; its rank, which the paper finds to stay full
with many views, by `amodal diagnose`.

Differs:

- encoder: a transformer over tokens unless `--backbone` names the ResNets. A linear map to the
  encoder's width is between their features and the projector.
- heads: with one field a projector of two layers, as wide as the encoder and then 128. The authors
  have a BatchNorm with a scale at its end; `last_norm` has one without. With several fields, a
  linear map of each into a common space. The program for sentiment, with three modalities and
  labels, is not among the authors'; here it is `amodal adapt` of such a run.
- views: four of a lone field, `strong`: crops of 20-100 % with blur. Two to five are tried
  (`views`). Theirs for CIFAR have half of SimCLR's strength of colours.
- rows without a view, see above: the paper's records are complete.
- optimizer: the cosine ends at 1 % of the rate.
- losses: the two of the paper and the baselines; the authors' code has more of other papers.
- alignment and uniformity are measured of pairs of fields, not of views.
"""

import torch
from torch import Tensor

from amodal.core import Embeddings, Recipe, unknown
from amodal.methods.shared.shapes import Towers
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives import multi_view

# of the authors' configuration for CIFAR-10, 200 epochs of 256 rows
PAPER_RECIPE = Recipe(
    optimizer="sgd",
    lr=1.0,
    weight_decay=1e-6,
    momentum=0.9,
    schedule="cosine",
    warmup=0.01,
    clip=0.0,
    batch_size=256,
    steps=39_062,
)
LOSSES = {
    "mv_dhel": multi_view.mv_dhel,
    "mv_info_nce": multi_view.mv_info_nce,
    "pairwise": multi_view.pairwise,
    "average": multi_view.average,
    "multi_positive": multi_view.multi_positive,
}


def mv_dhel(
    encoder: Encoder,
    *,
    loss: str = "mv_dhel",
    views: int = 0,
    temperature: float = 0.5,
    width: int = 128,
    last_norm: bool = False,
) -> Towers:
    """One contrastive term over all views of each row.

    Args:
        encoder: Gets heads into a common space if it has two fields or more.
        loss: "mv_dhel", "mv_info_nce", or a baseline: "pairwise" (PWE, mean NT-Xent of pairs),
            "average" (AVG, each view with the mean of the others), "multi_positive" (NT-Xent, the
            other views all positive).
        views: Augmentations of each value; 0 for four with one field, and for one each with more.
        temperature: Temperature of the softmax.
        width: Output width of the projector with one field, width of the common space with more.
        last_norm: A BatchNorm at the end of the projector.

    Raises:
        AmodalError: If `loss` is unknown.
    """
    if loss not in LOSSES:
        raise unknown("mv_dhel.loss", loss, LOSSES)
    one_field = len(encoder.fields) == 1
    views = views or (4 if one_field else 1)
    heads = (
        {
            f: Projector(encoder.width, width, hidden=encoder.width, last_norm=last_norm)
            for f in encoder.fields
        }
        if one_field
        else {}
    )

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return {loss: LOSSES[loss](*stacked(z), temperature=temperature)}

    return Towers(
        encoder if one_field else encoder.align(width),
        objective,
        heads=heads,
        views=("strong",) * views if views > 1 else ("weak",),
    )


def stacked(z: Embeddings) -> tuple[Tensor, Tensor]:
    """Stack the S sources of each row.

    Returns:
        (B, S, D) vectors, zero where a row lacks the source, and (B, S) bool where it has it.
    """
    columns = [z[s] for s in z.sources]
    whole = [
        c.flat.new_zeros(z.size, c.flat.shape[1]).index_put((c.rows,), c.flat) for c in columns
    ]
    return torch.stack(whole, 1), torch.stack([c.present(z.size) for c in columns], 1)
