"""Zorro: one transformer whose attention keeps each field pure while fusion tokens read them all.
Recasens et al., 2023, arXiv:2301.09595. Attention mask: their 3.2; loss: 3.4, each pair of fields
and each field with the fusion. Row 31 of the catalogue."""

from amodal.core import Batch, Embeddings
from amodal.core.embeddings import FUSED
from amodal.methods.contract import Features
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce

ENCODER = {"trunk": "joint", "pool": "attention"}


def zorro(
    encoder: Encoder,
    *,
    fusion: int = 8,
    width: int = 128,
    temperature: float = 0.08,
    mask_rule: str = "pure",
) -> Towers:
    """fusion: number of fusion tokens; width: of the common space; temperature: of the softmax;
    mask_rule: the attention rule ("full" takes the mask away, which is the paper's own ablation)."""

    def objective(z):
        pairs = field_pairs(z) + [(FUSED, s) for s in z.sources]
        return share(
            {
                f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=temperature)
                for a, b in pairs
            }
        )

    return Together(
        two_fields(encoder)
        .fuse(fusion, mask_rule)
        .align(width, hidden=2 * encoder.width, fused=True),
        objective,
    )


class Together(Towers):
    """Each field is read out in company of the others. Under the mask that is what it gives alone;
    without it, it is not."""

    def features(self, batch: Batch) -> Features:
        context = self.encoder.encode(self.encoder.tokenize(batch))
        return self.encoder.project(Embeddings(self.encoder.pool(context), batch.size))
