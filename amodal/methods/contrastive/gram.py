"""GRAM: all fields of a record are aligned at once, by the volume that their vectors span.

Cicchetti, Grassucci, Sigillo and Comminiello, ICLR 2025, arXiv:2412.11959. Volume: their section 3.
Losses: L_D2A and L_A2D of section 4, without the matching loss L_DAM. Row 158 of the catalogue.

Rows with a subset of the fields: a missing field is left out of the Gram matrix, as in the paper's
retrieval. One vector more makes every volume smaller, so only rows with the same fields compete for
an anchor; for a tuple, all anchors of the batch compete. In a row without the anchor, its first
other field takes the anchor's place. A row with one field spans no volume and is an anchor only.

A volume does not know the sign of a vector, so two fields may come to point apart. Retrieval,
zero-shot classes and search therefore rank such an encoder's vectors by |cosine|. Sums of two or
more vectors have no such remedy.

Differs:

- loss: without L_DAM (weight .1), a matching head on a text encoder that reads all other fields,
  with hard negatives by volume; so nothing is ranked a second time by it either.
- encoder: transformers over tokens, from scratch. The paper has those of VAST (EVA-CLIP for
  frames, BEATs for sound, BERT for text and subtitles), and goes on from its weights. Backbones
  can be had.
- heads: linear, into 512 dimensions, as theirs.
- temperature: learned as a logarithm and bounded; theirs is the number itself, without a bound.
- volume: sines below 1e-3 are held there, as float32 resolves no smaller ones; theirs takes the
  root of |det|, whose gradient is infinite at 0.
- views: `weak`; theirs are eight frames of a video, cropped and flipped.
- retrieval by the volume of a whole tuple is not a command: search ranks by one field, or by sums.
- recipe: `PAPER_RECIPE` is that of MSR-VTT: the authors' rate, batch and epochs, and what else
  VAST's configuration has, whose program theirs is. There CLIP's encoder of frames has a rate of
  5e-7 (`--lr-multipliers encoder.tokenizers.FIELD.=0.01`).
"""

import torch
from torch import Tensor

from amodal.core import Embeddings, Recipe, unknown
from amodal.methods.shared.shapes import Towers, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.common import connected_zero
from amodal.objectives.gram_volume import gram_info_nce

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=5e-5,
    weight_decay=0.01,
    betas=(0.9, 0.98),
    schedule="linear",
    warmup=0.1,
    clip=2.0,
    batch_size=64,
    epochs=4,
)
"""Of MSR-VTT, for encoders that are pretrained."""


def gram(
    encoder: Encoder,
    *,
    anchor: str = "",
    width: int = 512,
    temperature: float = 0.07,
    max_scale: float = 100.0,
    smoothing: float = 0.1,
) -> Towers:
    """InfoNCE over volumes, between an anchor and the tuple of all other fields.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        anchor: The field that each tuple is matched with. Default: the first text field.
        width: Width of the common space.
        temperature: Initial value of the learned temperature.
        max_scale: Upper bound of the inverse temperature.
        smoothing: Label smoothing.
    """
    scale = Scale(1 / temperature, most=max_scale)
    texts = [f for f, modality in two_fields(encoder).fields.items() if modality.takes_prompts]
    anchor = anchor or [*texts, *encoder.fields][0]
    if anchor not in encoder.fields:
        raise unknown("field to anchor to", anchor, encoder.fields)

    def objective(z: Embeddings) -> dict[str, Tensor]:
        total, tuples = connected_zero(*(z[s].flat for s in z.sources), scale()), 0
        for rows, names in rows_by_fields(z, anchor):
            first, *others = (vectors_of(z, name, rows) for name in names)
            more = z[names[0]].flat[~torch.isin(z[names[0]].rows, rows)]
            loss = gram_info_nce(
                first, others, temperature=1 / scale(), smoothing=smoothing, extra_anchor_MD=more
            )
            total, tuples = total + len(rows) * loss, tuples + len(rows)
        return {"volume": total / max(tuples, 1)}

    # a volume stays the same when a vector changes its sign
    aligned = encoder.align(width, similarity="abs_cosine")
    return Volumes(aligned, objective, learned=scale)


class Volumes(Towers):
    """Towers whose learned scale is one of volumes."""

    def logit_scale(self) -> None:
        """None: tuples are matched by their volume and not pairs by their cosine."""


def rows_by_fields(z: Embeddings, anchor: str) -> list[tuple[Tensor, list[str]]]:
    """Group the rows that have two or more fields by which fields they have.

    Returns:
        (rows, fields) for each set of fields, `anchor` first if it is one of them.
    """
    order = sorted(z.sources, key=lambda s: s != anchor)
    present = torch.stack([z[s].present(z.size) for s in order], 1)
    sets, number = torch.unique(present, dim=0, return_inverse=True)
    return [
        ((number == i).nonzero().squeeze(1), [s for s, has in zip(order, one) if has])
        for i, one in enumerate(sets.tolist())
        if sum(one) > 1
    ]


def vectors_of(z: Embeddings, name: str, rows: Tensor) -> Tensor:
    """The vectors of one field, of rows that have it."""
    return z[name].flat[torch.searchsorted(z[name].rows, rows)]
