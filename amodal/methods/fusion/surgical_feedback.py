"""Does a remark change what a trainee does? A visual encoder goes on with masked
reconstruction on clips of its domain. Gupta, Kocielnik, Wang, Nasriddinov, Yang, Wong,
Anandkumar and Hung, ML4H 2024, arXiv:2411.10919: self-supervised fine-tuning (SSFT) is VideoMAE's
objective (Tong et al., NeurIPS 2022, arXiv:2203.12602: tubes, normalised pixels), continued on
unlabelled clips. Row 63 of the catalogue. The encoder to go on from comes from a run
(`--init-from`).

The whole way: `amodal.data.clips` cuts clips around events; this page continues the reconstruction;
vectors of remark and clip, side by side, are probed with weighted classes and whole groups
(`amodal.evaluate.grouped_cv`). Text is not touched: its tower stays as it is. Any other field takes
part; a field without places (a series) is hidden token by token. No modality of video here yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from amodal.core import AmodalError, Batch, Embeddings, Tokens, field_of, name_code, unknown
from amodal.masking.hashing import hash_bits
from amodal.masking.tube import tube_keep
from amodal.methods.shared.shapes import MaskedAutoencoder
from amodal.nn.encoder import Encoder


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
    width = max(encoder.width // 2, 32)
    return Continued(
        encoder,
        chosen=chosen,
        ratio=ratio,
        width=width,
        depth=decoder_depth,
        heads=max(width // 32, 1),
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
