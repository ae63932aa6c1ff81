"""MedFLIP: pictures are paired with reports from a random part of their patches, at lower cost.

Li et al., 2024, arXiv:2403.04626. Dropped patches never enter the encoder, and text stays whole.
Matching has soft targets from labels, as in MedCLIP (arXiv:2210.10163, semantic matching). A
further term is in the leading singular value of the similarities. Row 51 of the catalogue.

Differs:

- encoders: by default those of the library, from nothing, with means of tokens. The paper goes on
  from MedCLIP: a Swin transformer or a ViT with weights of ImageNet, and BioClinicalBERT. Pictures
  have such a ViT by `--init-from timm:vit_base_patch16_224@pretrained`, whose patches are hidden
  before its layers, and texts the other by `--backbone report=transformers:DIR --train-backbones`.
  A Swin transformer, whose windows need all patches, may not be a backbone.
- masking: of every field that is not text, whatever its kind, and every two fields are matched. A
  class token, which the paper never drops, is there with `pool="cls"` alone.
- targets come from one label of a record. The paper compares the findings of a picture and of a
  report, more than one each and from two records, so that its pictures need no report of their own.
  Where the label is not known, a record matches itself alone.
- the scale and sign of the spectral term are not recoverable from the paper. The default spreads
  the spectrum; a negative weight does the opposite.
- reconstruction: a decoder of one block, as wide as the encoder; MAE's has eight. It is off unless
  `reconstruct` is set.
- temperature: at the start and its bound are CLIP's.
- views are `plain`: no augmentation, as in FLIP but for its crops.
- recipe: no program was released, and what the paper says of it was not at hand, so there is no
  `PAPER_RECIPE`.
- product: zero-shot classes by prompts, and retrieval between pictures and reports, by the usual
  verbs, on any pictures; no reader of chest X-rays (DICOM) and their findings.
- open: soft targets from the findings of two records, and the recipe. Waits for work, and the
  configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, Tokens, field_of, name_code, unknown
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.methods.contract import Columns, FeatureRecord, StagedMethod
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import (
    field_pairs,
    refuse_backbones,
    row_losses,
    share,
    token_mean,
    two_fields,
)
from amodal.nn.encoder import Encoder
from amodal.nn.generation.mask_decoder import MaskDecoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce
from amodal.objectives.leading_singular import leading_singular
from amodal.objectives.soft_info_nce import soft_info_nce


def medflip(
    encoder: Encoder,
    *,
    ratio: float = 0.5,
    tuning: float = 0.0,
    width: int = 512,
    temperature: float = 0.07,
    max_scale: float = 100.0,
    semantics: str = "",
    spectral: float = 1.0,
    relative: bool = True,
    reconstruct: float = 0.0,
) -> MedFlip:
    """InfoNCE of masked fields with soft targets, and a term in the leading singular value.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        ratio: Share of the tokens of each value that is dropped, not of text.
        tuning: Share of the steps, at the end, in which none is dropped.
        width: Width of the common space.
        temperature: Initial value of the learned softmax temperature.
        max_scale: Upper bound of the inverse temperature.
        semantics: A label of the data, whose classes make soft targets. Without it, records match
            only themselves.
        spectral: Weight of the leading singular value of the similarities (below 0: it is
            maximised).
        relative: Take that value as a share of all singular values.
        reconstruct: Weight of a masked autoencoder's loss on the dropped tokens (0: no decoder).

    Raises:
        AmodalError: If a share is out of range, or dropped fields have pretrained backbones.
    """
    texts = [f for f, m in two_fields(encoder).fields.items() if m.takes_prompts]
    dropped = [f for f in encoder.fields if f not in texts] or list(encoder.fields)
    if not 0 <= ratio < 1 or not 0 <= tuning < 1:
        raise AmodalError(
            f"medflip.ratio and tuning are shares from 0 to below 1, got {ratio} and {tuning}"
        )
    refuse_backbones(encoder, "medflip", fields=dropped)
    return MedFlip(
        encoder.align(width),
        dropped=dropped,
        scale=Scale(1 / temperature, most=max_scale),
        ratio=ratio,
        tuning=tuning,
        semantics=semantics,
        spectral=spectral,
        relative=relative,
        reconstruct=reconstruct,
    )


@dataclass(frozen=True, kw_only=True)
class MedFlipFeatures(FeatureRecord):
    """Vectors of the visible tokens, losses of the dropped ones, and the label."""

    aligned: Columns  # source -> (N, D)
    reconstruction: Columns  # source -> (N, 2), sum and number; empty without a decoder
    label: Column | None  # (N,), None without soft targets


class MedFlip(StagedMethod):
    """See `medflip`.

    Args:
        dropped: The fields whose tokens are dropped.
        ratio, tuning, semantics, spectral, relative, reconstruct: As of `medflip`.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        *,
        dropped: Sequence[str],
        scale: Scale,
        ratio: float,
        tuning: float,
        semantics: str,
        spectral: float,
        relative: bool,
        reconstruct: float,
    ):
        super().__init__()
        self.encoder, self.dropped, self.scale = encoder, tuple(dropped), scale
        self.ratio, self.reconstruct = ratio, reconstruct
        self.spectral, self.relative = spectral, relative
        self.labels = (semantics,) if semantics else ()
        self.stages = (1 - tuning, 1.0) if tuning else (1.0,)
        self.drops_tokens = True
        self.decoder: MaskDecoder | None = None
        if reconstruct:
            self.decoder = MaskDecoder(
                list(dropped), encoder.width, width=encoder.width, depth=1, heads=encoder.num_heads
            )
            self.predictors = nn.ModuleDict(
                {f: encoder.fields[f].predictor(encoder.width) for f in dropped}
            )

    def on_stage_start(self, stage: int) -> None:
        self.drops_tokens = stage == 0

    def features(self, batch: Batch) -> MedFlipFeatures:
        tokens = self.encoder.tokenize(batch)
        keep = {s: self.visible(t, batch.seeds) for s, t in tokens.items()}
        context = alone(self.encoder, batch, {s: t.keep(keep[s]) for s, t in tokens.items()})
        reconstruction = {}
        if self.decoder is not None:
            for s in (s for s in tokens if field_of(s) in self.dropped):
                modality, hidden = self.encoder.fields[field_of(s)], tokens[s].keep(~keep[s])
                decoded = self.decoder([context[s]], [hidden])[0]
                target = modality.targets(batch[s].values)[~keep[s]]
                loss_T = modality.token_loss(self.predictors[field_of(s)](decoded.x), target)
                reconstruction[s] = row_losses(loss_T, hidden)
        return MedFlipFeatures(
            size=batch.size,
            aligned=vectors(self.encoder, context, batch.size).columns,
            reconstruction=reconstruction,
            label=self.label_of(batch),
        )

    def label_of(self, batch: Batch) -> Column | None:
        """The label that soft targets come from."""
        for label in self.labels:
            if label not in batch.labels:
                raise unknown("label of this batch", label, batch.labels)
            return batch.labels[label]
        return None

    def visible(self, tokens: Tokens, seeds: Tensor) -> Tensor:
        """(T,) bool, which tokens of one source the encoder sees."""
        source = tokens.names[0]
        drops = self.drops_tokens and field_of(source) in self.dropped
        return random_keep(
            tokens.row,
            hash_bits(seeds, name_code(f"seen {source}"))[tokens.row],
            tokens.within(),
            self.ratio if drops else 0.0,
        )

    def losses(self, features: MedFlipFeatures) -> dict[str, Tensor]:
        z = Embeddings(dict(features.aligned), features.size)
        match, spectrum = {}, {}
        for a, b in field_pairs(z):
            rows, pair = z.complete((a, b))
            match[f"match/{a}~{b}"] = self.match(features, rows, pair)
            if self.spectral:
                spectrum[f"spectrum/{a}~{b}"] = self.spectral * leading_singular(
                    *pair, relative=self.relative
                )
        reconstruction = {
            f"reconstruct/{s}": self.reconstruct * token_mean(column)
            for s, column in features.reconstruction.items()
        }
        return share(match) | share(spectrum) | share(reconstruction)

    def match(self, features: MedFlipFeatures, rows: Tensor, pair: list[Tensor]) -> Tensor:
        """InfoNCE of two fields, with soft targets where there is a label."""
        loss: Tensor
        if features.label is None:
            loss = info_nce(*pair, temperature=1 / self.scale())
            return loss
        soft = self.targets(features.label, features.size, rows, pair[0].dtype)
        # similarity is symmetric, so both directions have the same targets, whose rows sum to 1;
        # those of the transposed table do not
        a, b = pair
        loss = soft_info_nce(a, b, soft, temperature=1 / self.scale(), reverse_targets=soft)
        return loss

    def targets(self, label: Column, size: int, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Soft targets of the pairs of `rows`.

        Returns:
            (N, N), rows sum to 1: softmax over j of (1 if i and j are of one class), and 1 for
            j = i alone where the class of i is not known.
        """
        known = label.flat.new_full((size,), -1).index_put((label.rows,), label.flat)[rows]
        alike = (known[:, None] == known) & (known >= 0)
        itself = torch.eye(len(rows), dtype=dtype, device=rows.device)
        return torch.where((known >= 0)[:, None], alike.to(dtype).softmax(1), itself)
