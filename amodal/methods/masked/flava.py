"""FLAVA: an encoder for each field and one over all of them, learned from records that have one
field and from records that have several.

Singh, Hu, Goswami, Couairon, Galuba, Rohrbach and Kiela, CVPR 2022, arXiv:2112.04482, section 3.2.
A row with several fields has the multimodal losses: a contrast of the fields, over the rows of all
processes; masked multimodal modelling (MMM), hidden tokens of every field from all fields; and
image-text matching (ITM). A row with one field has that field's masked modelling (MIM, MLM) alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged, Recipe, Tokens, name_code
from amodal.core.column import shared_rows
from amodal.masking.by_layout import layout_mask
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep_units
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.matching import pick_text_field, seed_column
from amodal.methods.shared.regions import vectors
from amodal.methods.shared.shapes import (
    field_pairs,
    ragged,
    refuse_backbones,
    row_losses,
    share,
    token_column,
    token_mean,
    two_fields,
)
from amodal.methods.shared.typed_parts import field_pool
from amodal.methods.shared.whole_words import units
from amodal.modalities import Modality
from amodal.nn.codebook import Codebook
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.multimodal_encoder import MultimodalEncoder
from amodal.nn.scale import Scale
from amodal.nn.trunks import SourceTokens
from amodal.objectives.common import connected_zero
from amodal.objectives.info_nce import info_nce
from amodal.objectives.matching import swap_partners
from amodal.objectives.reconstruction import masked_cross_entropy

ENCODER = {"pool": "cls"}
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.1,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_steps=10_000,
    clip=0.0,
    batch_size=8192,
    resolution=224,
)
UNIMODAL = ("unpaired", "all")


def flava(
    encoder: Encoder,
    *,
    text_field: str = "",
    width: int = 0,
    depth: int = 6,
    codes: int = 512,
    image: float = 0.38,
    sequence: float = 0.49,
    span: int = 10,
    other: float = 0.15,
    whole_words: bool = False,
    mismatched: float = 0.1,
    unimodal: str = "unpaired",
    contrastive_weight: float = 1.0,
    unimodal_weight: float = 1.0,
    mmm_weight: float = 1.0,
    itm_weight: float = 1.0,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Flava:
    """Build FLAVA.

    Args:
        encoder: Gets heads into a common space; needs two fields, each with a trunk of its own.
        text_field: The field that is exchanged for another row's where a pair should not match.
            Default: the first text field.
        width: Width of the common space; 0 for the encoder's.
        depth: Blocks of the multimodal encoder.
        codes: Discrete codes of tokens of images and signals, which are what is predicted of them
            (8192 in the paper); 0 to predict their values.
        image: Share of an image that is masked, in blocks, see `amodal.masking.by_layout`.
        sequence: Share of a signal that is masked.
        span: Tokens of a masked span of a signal.
        other: Share of any other field that is masked, such as a text.
        whole_words: Mask words whole where a token is a part of one.
        mismatched: Probability that a row gets another row's text for the matching loss.
        unimodal: Rows that have the losses of single fields: "unpaired", those with one field, or
            "all".
        contrastive_weight: Weight of the contrast.
        unimodal_weight: Weight of masked modelling of single fields.
        mmm_weight: Weight of masked multimodal modelling.
        itm_weight: Weight of matching.
        temperature: Initial value of the learned softmax temperature.
        max_scale: Upper bound of its inverse, which is at least 1.

    Raises:
        AmodalError: For a single field, a trunk that sources share, backbones, and bad options.
    """
    text_field, _ = pick_text_field(two_fields(encoder), text_field)
    refuse_backbones(encoder, "flava")
    if encoder.trunk != "separate":
        raise AmodalError(
            'flava has an encoder for each field, trunk="separate", and makes the one over all of '
            f"them itself; this encoder has {encoder.trunk!r}"
        )
    if unimodal not in UNIMODAL:
        from amodal.core import unknown

        raise unknown("flava.unimodal", unimodal, UNIMODAL)
    if depth < 1 or codes < 0 or codes == 1:
        raise AmodalError(
            "flava needs a block of its multimodal encoder at least, and two codes or none (0), "
            f"not {depth} and {codes}"
        )
    if not 0 <= mismatched < 1:
        raise AmodalError(
            f"flava.mismatched is a probability below 1, so that some pairs match, not {mismatched}"
        )
    return Flava(
        encoder.align(width or encoder.width, bias=True),
        multimodal=MultimodalEncoder(
            list(encoder.fields), encoder.width, depth, encoder.num_heads
        ),
        scale=Scale(1 / temperature, least=1.0, most=max_scale),
        text_field=text_field,
        codes=codes,
        shares={"image": image, "sequence": sequence, "span": span, "other": other},
        whole_words=whole_words,
        mismatched=mismatched,
        unimodal=unimodal,
        weights={
            "contrast": contrastive_weight,
            "unimodal": unimodal_weight,
            "mmm": mmm_weight,
            "itm": itm_weight,
        },
    )


@dataclass(frozen=True, kw_only=True)
class FlavaFeatures(FeatureRecord):
    """What single rows give.

    Args:
        aligned: field -> (N, D) of whole values, in the common space.
        unimodal: field -> (N, 2) sum and number of the losses of hidden tokens, from the field.
        mmm: field -> (N, 2) as `unimodal`, from all fields of the row.
        joint: (N, D) the class token of the multimodal encoder, of rows with several fields.
        tokens: field -> N lists of (D,), with some tokens hidden, for pairs that do not match.
        text_keys: (N,) int64 of the rows with a text, equal for equal texts.
        seeds: (B,).
    """

    aligned: Columns
    unimodal: Columns
    mmm: Columns
    joint: Column
    tokens: Columns
    text_keys: Column
    seeds: Column


class PredictionHead(nn.Module):
    """A layer with GELU and a norm, and the predictions of a modality, or logits of codes.

    Args:
        modality: Of the field.
        width: Of tokens.
        codes: How many; 0 for the modality's own predictor.
    """

    def __init__(self, modality: Modality, width: int, codes: int):
        super().__init__()
        self.hidden, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.out = nn.Linear(width, codes) if codes else modality.predictor(width)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(t, width) -> predictions."""
        prediction: Tensor = self.out(self.norm(nn.functional.gelu(self.hidden(x_TD))))
        return prediction


class Flava(Method):
    """See `flava`.

    Args:
        encoder: A trunk for each field.
        multimodal: Reads what the trunks give.
        scale: The learned inverse temperature.
        text_field, codes, whole_words, mismatched, unimodal: As of `flava`.
        shares: What is masked, see `layout_mask`.
        weights: Of "contrast", "unimodal", "mmm" and "itm".
    """

    min_batch_size = 2
    views = ("weak",)

    def __init__(
        self,
        encoder: Encoder,
        *,
        multimodal: MultimodalEncoder,
        scale: Scale,
        text_field: str,
        codes: int,
        shares: Mapping[str, Any],
        whole_words: bool,
        mismatched: float,
        unimodal: str,
        weights: Mapping[str, float],
    ):
        super().__init__()
        self.encoder, self.multimodal, self.scale = encoder, multimodal, scale
        self.text_field, self.mismatched, self.whole_words = text_field, mismatched, whole_words
        self.unpaired_only, self.weights = unimodal == UNIMODAL[0], dict(weights)
        self.hide = partial(layout_mask, **shares)
        self.other = float(shares["other"])
        width, fields = encoder.width, encoder.fields
        coded = {f: code_width(m) for f, m in fields.items()} if codes else {}
        self.codebooks = nn.ModuleDict({f: Codebook(codes, w) for f, w in coded.items() if w})
        self.masks = nn.ParameterDict({f: nn.Parameter(torch.randn(width) * 0.02) for f in fields})

        def heads() -> nn.ModuleDict:
            number = {f: codes if f in self.codebooks else 0 for f in fields}
            return nn.ModuleDict(
                {f: PredictionHead(m, width, number[f]) for f, m in fields.items()}
            )

        self.unimodal_heads, self.mmm_heads = heads(), heads()
        self.itm_head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))
