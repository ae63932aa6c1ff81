"""MAE over any mix of fields: see a quarter of a record's tokens, predict the rest. He et al., CVPR
2022, arXiv:2111.06377, section 3; one encoder and one decoder for all fields as in MultiMAE
(arXiv:2204.01678)."""

from amodal.core import Recipe
from amodal.methods.shared.shapes import MaskedAutoencoder
from amodal.nn.encoder import Encoder

ENCODER = {"trunk": "joint"}
# random resized crops of 20-100 % of the area and no colours, section 4 and table 1e
RECIPE = Recipe(views={"image": ("crop",)})
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1.5e-4,
    lr_scaling="linear/256",
    weight_decay=0.05,
    betas=(0.9, 0.95),
    schedule="cosine",
    warmup_epochs=40.0,
    clip=0.0,
    views={"image": ("crop",)},
    batch_size=4096,
    epochs=800.0,
)
"""Table 8 of the paper: of ViT on ImageNet."""


def mae(
    encoder: Encoder,
    *,
    ratio: float = 0.75,
    together: bool = True,
    decoder_depth: int = 2,
    whole_words: bool = False,
) -> MaskedAutoencoder:
    """Build MAE.

    Args:
        encoder: With a joint trunk.
        ratio: Share of tokens hidden.
        together: Draw the mask over all fields of a record at once.
        decoder_depth: Blocks of the decoder, which is half as wide as the encoder (8 blocks in the
            paper, for ViT-L).
        whole_words: Hide words of a text whole, not its tokens one by one; `ratio` is then the
            share of words.
    """
    width = encoder.width // 2
    return MaskedAutoencoder(
        encoder,
        ratio=ratio,
        together=together,
        width=width,
        depth=decoder_depth,
        heads=width // 32,
        whole_words=whole_words,
    )
