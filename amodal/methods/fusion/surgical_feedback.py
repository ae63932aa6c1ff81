"""SSFT: a visual encoder goes on with masked reconstruction on clips of its domain, before it is
asked whether a remark changes what a trainee does.

Gupta, Kocielnik, Wang, Nasriddinov, Yang, Wong, Anandkumar and Hung, ML4H 2024, arXiv:2411.10919:
self-supervised fine-tuning is VideoMAE's objective (Tong et al., NeurIPS 2022, arXiv:2203.12602),
continued on unlabelled clips. Row 63 of the catalogue. The encoder to go on from comes from a run
(`--init-from`).

The whole way: `amodal.data.clips` cuts clips around events; this page continues the reconstruction;
vectors of remark and clip, side by side, are probed with weighted classes and whole groups
(`amodal.evaluate.grouped_cv`). Text is not touched: its tower stays as it is. Any other field takes
part; a field without places (a series) is hidden token by token.

Differs:

- data: there is no kind for video. The authors read 16 frames of 224 pixels out of 10 seconds, in
  cubes of 2 frames; here a picture or a series is in their place, and a place has one time.
- encoder: that of a run. The authors go on from VideoMAE's weights (ViT-B, Kinetics), its decoder
  among them; a pretrained backbone is refused here, since its tokens have seen each other, and the
  decoder begins anew.
- masks: tubes of 90 %, VideoMAE's. The authors' code hides cubes one by one, 85 % of them
  (`--method.ratio 0.85`); with one time the two ways are the same.
- targets: patches are normalised over all channels at once, as MAE's authors do it; theirs channel
  by channel.
- decoder: 4 blocks, half as wide as the encoder, heads 32 wide (theirs 64); it sees all fields of a
  record that learn, each with a learned vector of its own.
- recipe: `PAPER_RECIPE`. Its rate of 5e-7 is for a decoder that is trained already: with a new one
  take more (`--lr`). The authors keep the epochs' checkpoints, here the last step is kept.
- views: `weak`; with the paper's recipe pictures are as they are.
- product: the authors' classifier reads VideoMAE's mean token, after fine-tuning with labels, and a
  sentence's vector (MiniLM) by two perceptrons and a third on both, with the rarer class drawn more
  often; here it is a probe of both vectors with weighted classes. Clips and the probe are Python,
  no command.
- open: the data (clips of sixteen frames), VideoMAE's weights with their decoder, and verbs for
  clips and for the probe. Waits for video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from amodal.core import (
    AmodalError,
    Batch,
    Embeddings,
    Recipe,
    Tokens,
    field_of,
    name_code,
    unknown,
)
from amodal.masking.hashing import hash_bits
from amodal.masking.tube import tube_keep
from amodal.methods.shared.shapes import MaskedAutoencoder
from amodal.nn.encoder import Encoder

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=5e-7,
    weight_decay=0.05,
    betas=(0.9, 0.999),
    schedule="linear",
    warmup_steps=0,
    clip=1.0,
    batch_size=24,
    resolution=224,
    epochs=500.0,
    views={"image": ("plain",)},
)
"""The authors' code, and the defaults of the trainer of transformers where it has none."""


def surgical_feedback(
    encoder: Encoder, *, ratio: float = 0.9, fields: str = "", decoder_depth: int = 4
) -> Continued:
    """Build SSFT.

    Args:
        encoder: Of a run.
        ratio: Share of places that is hidden, or of tokens where there are no places.
        fields: What goes on learning, with commas between (by default all that is not text); the
            others are frozen.
        decoder_depth: Blocks of the decoder, which is half as wide as the encoder.
    """
    chosen = [f.strip() for f in fields.split(",")] if fields else []
    for field in chosen:
        if field not in encoder.fields:
            raise unknown("field to go on with", field, encoder.fields)
    chosen = chosen or [f for f, m in encoder.fields.items() if not m.takes_prompts]
    if not chosen:
        raise AmodalError(
            "there is text alone, whose tower stays as it is; give fields, or take mae"
        )
    width = encoder.width // 2
    return Continued(
        encoder,
        chosen=chosen,
        ratio=ratio,
        width=width,
        depth=decoder_depth,
        heads=width // 32,
    )


class Continued(MaskedAutoencoder):
    """A masked autoencoder of some fields, with tubes as masks.

    Args:
        encoder: All fields but the chosen ones are frozen.
        chosen: The fields that learn.
        ratio: Share of places that is hidden.
        width: Of the decoder.
        depth: Blocks of the decoder.
        heads: Of its attention.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        chosen: Sequence[str],
        ratio: float,
        width: int,
        depth: int,
        heads: int,
    ):
        super().__init__(
            encoder,
            ratio=ratio,
            together=False,
            width=width,
            depth=depth,
            heads=heads,
            name="surgical_feedback",
        )
        self.chosen = list(chosen)
        for field in (f for f in encoder.fields if f not in chosen):
            encoder.lock(field)
            self.predictors.pop(field)

    def features(self, batch: Batch) -> Embeddings:
        return super().features(
            batch.only(*(s for s in batch.sources if field_of(s) in self.chosen))
        )

    def visible(self, tokens: Mapping[str, Tokens], batch: Batch) -> dict[str, Tensor]:
        bits = {s: hash_bits(batch.seeds, name_code(s)) for s in tokens}
        return {
            s: tube_keep(t.row, bits[s][t.row], t.within(), t.position, self.ratio)
            for s, t in tokens.items()
        }
