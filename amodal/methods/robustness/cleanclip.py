"""CleanCLIP: a short fine-tuning that breaks the tie between a backdoor's trigger and the captions
that it was planted with. Bansal, Singhi, Yang, Yin, Grover and Chang, ICCV 2023, arXiv:2303.03323.
Loss: their eq. 2-3, CLIP between fields plus, within each field, InfoNCE from a value to a damaged
view of it, all at one learned temperature. Row 50 of the catalogue.

It goes on from a trained run, on pairs that are known to be clean: `pretrain(..., init_from=RUN)`.
Attacks to measure it against are in `amodal.curate.poison`. Texts are best damaged by words
(`strong = "words"` in their field): left out and swapped, without the paper's synonyms, which need
a thesaurus. Pictures have SimCLR's strong view where the paper has AutoAugment."""

from torch import Tensor

from amodal.core import Embeddings
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce


def cleanclip(
    encoder: Encoder,
    *,
    cross: float = 1.0,
    within: float = 1.0,
    width: int = 128,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Towers:
    """Build CleanCLIP.

    Args:
        encoder: Of a trained run.
        cross: Lambda_1, weight of the loss between fields.
        within: Lambda_2, weight of the loss within each field: more removes more (0 is CLIP at the
            same cost).
        width: Of the common space, as in the run it goes on from.
        temperature: Where the learned softmax temperature starts.
        max_scale: Bound of its inverse.
    """
    scale = Scale(1 / temperature, most=max_scale)

    def objective(z: Embeddings) -> dict[str, Tensor]:
        def loss(a: str, b: str, symmetric: bool = True) -> Tensor:
            return info_nce(*z.pair(a, b), temperature=1 / scale(), symmetric=symmetric)

        between = share({f"info_nce/{a}~{b}": cross * loss(a, b) for a, b in field_pairs(z)})
        # one way, as in the paper: from the value to its damaged view
        return between | share(
            {f"info_nce/{a}>{b}": within * loss(a, b, symmetric=False) for a, b in view_pairs(z)}
        )

    return Towers(
        two_fields(encoder).align(width), objective, views=("plain", "strong"), learned=scale
    )
