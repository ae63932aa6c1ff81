"""CleanCLIP: a short fine-tuning that breaks the tie between a backdoor's trigger and the captions
that it was planted with. Bansal, Singhi, Yang, Yin, Grover and Chang, ICCV 2023, arXiv:2303.03323.
Loss: their eq. 2-3, CLIP between fields plus, within each field, InfoNCE from a value to a damaged
view of it, all at one learned temperature. Row 50 of the catalogue.

It goes on from a trained run, on pairs that are known to be clean: `pretrain(..., init_from=RUN)`.
Attacks to measure it against are in `amodal.curate.poison`; how often one succeeds is said by
`amodal evaluate RUN --protocols backdoor --protocol.target CLASS --protocol.trigger patch`.

Differs:
- Start: the encoder of a run of `clip`, with its width. The authors' program takes over the learned
  temperature and the state of the optimizer too; here give the temperature that the run ended with
  as `temperature`, or at the paper's rate it stays near .07, and the optimizer begins anew.
- Encoder: theirs is CLIP's ResNet-50 (attention pooling, 1,024 dimensions, 224 pixels) with its
  text transformer. `--backbone image=timm:resnet50_clip@scratch text=transformers:DIR@scratch`,
  `--method.width 1024` and `--resolution 224` are near to it, with a mean of the map and a linear
  map in place of the attention.
- Pictures: the recipe's `autoaugment`, as in the paper; without it SimCLR's strong view. The
  original is what the field of `dataset.toml` makes of a picture, theirs its centre.
- Texts: `--views text=plain,eda` has the four edits of the paper, with a thesaurus that the user
  names (`thesaurus` of the field: WordNet, or a file). Without one words are left out and
  swapped (`strong = "words"`), else characters. Their program damages every text once, before
  training; here it is damaged anew at each step.
- The inverse temperature is bounded in its value, and its gradient let through; theirs by clipping
  the parameter after a step.
- The cosine ends at a hundredth of the rate, theirs at 0.
- Product: the encoder, and the success of an attack on it. Data are poisoned from Python alone.
- The second defence, fine-tuning of the pictures' tower on clean labels, is `amodal adapt`;
  unlearning of known poison and removal by similarity, which they compare with, are not here.
- More than two fields, and records of which a field is missing, are ours.
"""

from torch import Tensor

from amodal.core import Embeddings, Recipe
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-5,
    weight_decay=0.1,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_steps=50,
    clip=0.0,
    views={"image": ("plain", "autoaugment")},
    batch_size=64,
    epochs=10.0,
)
"""Of the fine-tuning on 100,000 clean pairs: the command that the authors give."""


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
        temperature: Where the learned softmax temperature starts; best where the run before ended,
            which is not taken over.
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
