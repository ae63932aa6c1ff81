"""Does a remark change what a trainee does? An encoder of what is seen goes on with masked
reconstruction on clips of its own domain. Gupta, Kocielnik, Wang, Nasriddinov, Yang, Wong,
Anandkumar and Hung, ML4H 2024, arXiv:2411.10919: self-supervised fine-tuning (SSFT) is VideoMAE's
objective (Tong et al., NeurIPS 2022, arXiv:2203.12602: tubes, normalised pixels), continued on
unlabelled clips. Row 63 of the catalogue. The encoder to go on from comes from a run
(`--init-from`).

The whole way: `amodal.data.clips` cuts clips around events; this page continues the reconstruction;
vectors of remark and clip, side by side, are probed with classes weighed and groups kept whole
(`amodal.evaluate.grouped_cv`). Text is not touched: its tower stays as it is. Any other field takes
part; a field without places (a series) is hidden token by token. No modality of video here yet."""

from __future__ import annotations

from torch import Tensor

from amodal.core import AmodalError, Batch, Tokens, field_of, name_code, unknown
from amodal.masking.hashing import hash_bits
from amodal.masking.tube import tube_keep
from amodal.methods.contract import Features
from amodal.methods.shared.shapes import MaskedAutoencoder
from amodal.nn.encoder import Encoder


def surgical_feedback(
    encoder: Encoder, *, ratio: float = 0.9, fields: str = "", decoder_depth: int = 4
) -> Continued:
    """ratio: share of places, or of tokens where there are none, that is hidden; fields: what goes
    on learning, with commas between (all that is not text unless given), the others stay as they
    are; decoder_depth: blocks of the decoder, half as wide as the encoder."""
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
    method = Continued(
        encoder,
        ratio=ratio,
        together=False,
        width=width,
        depth=decoder_depth,
        heads=max(width // 32, 1),
    )
    for field in (f for f in encoder.fields if f not in chosen):
        encoder.lock(field)
        method.predictors.pop(field)
    method.chosen = chosen
    return method


class Continued(MaskedAutoencoder):
    def features(self, batch: Batch) -> Features:
        return super().features(
            batch.only(*(s for s in batch.sources if field_of(s) in self.chosen))
        )

    def visible(self, bags: dict[str, Tokens], seeds: Tensor) -> dict[str, Tensor]:
        """source -> (T,) bool."""
        own = {s: hash_bits(seeds, name_code(s)) for s in bags}
        return {
            s: tube_keep(b.row, own[s][b.row], b.within(), b.position, self.ratio)
            for s, b in bags.items()
        }
