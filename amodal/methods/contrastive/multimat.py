"""MultiMat: a material and all its modalities in one space, by losses for more than two fields.

Moro, Loh, Dangovski et al., Newton 2025, arXiv:2312.00111. AnchoredCLIP and AllPairsCLIP are the
paper's. TensorCLIP and Barlow Twins of more than two sources are in its reference code. Row 46 of
the catalogue.

Rows with a subset of the fields: a pair needs both, and a term of `ways` fields the rows that have
all of its fields. A row is left out of terms for which it lacks a field, as in the paper.

Differs:

- crystals: there is no such kind of data, and no graph network (PotNet in the paper, over periodic
  crystals). This is why the row is planned.
- other encoders: the paper has a transformer over densities of states, a 3-D ResNeXt-50 over charge
  densities, and a frozen MatBERT with a perceptron of three layers for texts. Here all fields have
  the library's transformers, or a `--backbone`; each ends in one linear map. There is no 3-D grid.
- losses: AnchoredCLIP is averaged over pairs; the authors divide by one more, the number of fields.
  TensorCLIP is averaged over fields, theirs is a sum. Tuples compete in blocks of
  128 rows, their batch. Half positives of Barlow Twins, and TensorCLIP in which tuples with two
  equal indices are no negatives without being positives, are not offered.
- optimizer: norms and biases do not decay. The cosine ends at 1 % of the rate, theirs at a tenth of
  that.
- views: `weak`; the authors have none.
- finding a material by a wanted spectrum is `amodal search`; neurons that follow a property, and
  UMAP, are no command.
"""

import itertools

from torch import Tensor

from amodal.core import AmodalError, Embeddings, Recipe, unknown
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce
from amodal.objectives.tensor_clip import multi_barlow_twins, tensor_clip

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-4,
    lr_scaling="linear/256",
    weight_decay=0.05,
    betas=(0.9, 0.95),
    schedule="cosine",
    warmup_epochs=10.0,
    clip=0.0,
    batch_size=128,
    epochs=500.0,
)

LOSSES = ("anchored", "all_pairs", "tensor", "barlow")


def multimat(
    encoder: Encoder,
    *,
    loss: str = "anchored",
    anchor: str = "",
    width: int = 128,
    temperature: float = 0.2,
    ways: int = 3,
    half: bool = False,
    tuples: int = 128,
    off_diagonal: float = 5.1e-3,
) -> Towers:
    """InfoNCE of pairs, or a loss of more than two fields at once.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        loss: "anchored", each source with the anchor; "all_pairs"; "tensor", products of `ways`
            sources; "barlow", correlations of `ways` sources.
        anchor: A field. Default: the first.
        width: Width of the common space.
        temperature: Temperature of the softmax, fixed.
        ways: Number of sources in one term. There is a term for every set of so many.
        half: (tensor of three) Tuples of which two belong together are half positives.
        tuples: (tensor) Number of rows that compete; the cost is its power of `ways`.
        off_diagonal: (barlow) Weight of redundancy.

    Raises:
        AmodalError: If `loss` or `anchor` is unknown, or `half` does not fit the others.
    """
    if loss not in LOSSES:
        raise unknown("multimat.loss", loss, LOSSES)
    fields = list(two_fields(encoder).fields)
    anchor = anchor or fields[0]
    if anchor not in fields:
        raise unknown("field to anchor to", anchor, fields)
    ways = min(ways, len(fields))
    if half and (loss != "tensor" or ways != 3):
        raise AmodalError(
            'multimat.half is for products of three sources, loss="tensor" with ways=3 of three '
            f"fields or more, not for {loss!r} of {ways}"
        )

    def pairs(z: Embeddings) -> dict[str, Tensor]:
        chosen = field_pairs(z, anchor if loss == "anchored" else None)
        return {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=temperature) for a, b in chosen
        }

    def sets(z: Embeddings) -> dict[str, Tensor]:
        terms = {}
        for names in itertools.combinations(z.sources, ways):
            _, sources = z.complete(names)
            if loss == "barlow":
                value = multi_barlow_twins(sources, off_diagonal=off_diagonal)
            else:
                value = tensor_clip(sources, temperature=temperature, half=half, tuples=tuples)
            terms[f"{loss}/{'~'.join(names)}"] = value
        return terms

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(sets(z) if loss in ("tensor", "barlow") else pairs(z))

    return Towers(encoder.align(width), objective)
