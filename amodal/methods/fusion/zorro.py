"""Zorro: one transformer whose attention keeps each field pure while fusion tokens read them all.

Recasens et al., 2023, arXiv:2301.09595. Attention mask: their 3.2; loss: 3.4, each pair of fields
and each field with the fusion. Row 31 of the catalogue.

Differs:

- architecture: of their three, the one on ViT: one trunk of full attention. Swin and HiP are left
  out. Trunks begin at random; sizes are those of `amodal.nn.transformer`.
- data: any two fields and more, for video and sound. There is no reader of video; a clip can be a
  picture of one frame. Sound is read as a spectrogram (`audio`).
- tokens: positions are fixed sines, and each field has a vector of its own. Fusion tokens are
  learned.
- outputs: a learned query for each field reads its own tokens and one for the fusion those of the
  fusion, in one layer in which a query and the keys are one map. A fourth output, global, which
  reads all tokens, is left out.
- heads into the common space are perceptrons with GELU, one for each field and one for the fusion.
- loss: the mean over pairs, where the paper adds them: a constant factor. One fixed temperature. A
  row that lacks fields takes part with what it has, so the fusion of one field is also compared
  with that field.
- recipe: the plain one of a size; the paper's numbers for AudioSet and ACAV are not written down
  here. Views are `weak`.
- labels: no supervised training of all outputs with modalities dropped out; `amodal adapt` tunes
  a run. A stream that is missing is left out, with the same vectors of the others.
- open: video with sound, the trunks Swin and HiP, labels for all outputs with fields dropped, and
  the recipes for AudioSet and ACAV. Waits for video.
"""

from torch import Tensor

from amodal.core import Batch, Embeddings
from amodal.core.embeddings import FUSED
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
    """Build Zorro.

    Args:
        encoder: With a joint trunk.
        fusion: Number of fusion tokens.
        width: Of the common space.
        temperature: Of the softmax.
        mask_rule: The attention mask; "full" takes it away, which is the paper's own ablation.
    """

    def objective(z: Embeddings) -> dict[str, Tensor]:
        pairs = field_pairs(z) + [(FUSED, s) for s in z.sources]
        return share(
            {
                f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=temperature)
                for a, b in pairs
            }
        )

    fused = two_fields(encoder).fuse(fusion, mask_rule)
    return JointTowers(fused.align(width, hidden=2 * encoder.width, fused=True), objective)


class JointTowers(Towers):
    """Each field is pooled after one pass of all fields together.

    Under the mask that equals its pass alone; without the mask it does not.
    """

    def features(self, batch: Batch) -> Embeddings:
        context = self.encoder.encode(self.encoder.tokenize(batch))
        return self.encoder.project(Embeddings(self.encoder.pool(context), batch.size))
