"""GRAM: all fields of a record at once, drawn together by the volume that their vectors span.
Cicchetti, Grassucci, Sigillo and Comminiello, ICLR 2025, arXiv:2412.11959. Volume: their section 3;
losses L_D2A and L_A2D of section 4, without the matching loss L_DAM. Row 158 of the catalogue.

Rows with a subset of the fields: what is missing is left out of the Gram matrix, as in the paper's
retrieval. One vector more makes every volume smaller, so only rows with the same fields compete for
an anchor; for a tuple, all anchors of the batch compete. A row without the anchor is led by its
first other field; a row with one field spans no volume and only lends its vector as an anchor.

A volume does not know the sign of a vector, so two fields may come to point apart: retrieval,
zero-shot classes and search rank such an encoder's vectors by |cosine|. The sum of several vectors
has no such remedy."""

import torch

from amodal.core import Embeddings, unknown
from amodal.methods.shared.shapes import Towers, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.common import connected_zero
from amodal.objectives.gram_volume import gram_info_nce


def gram(
    encoder: Encoder,
    *,
    anchor: str = "",
    width: int = 512,
    temperature: float = 0.07,
    max_scale: float = 100.0,
    smoothing: float = 0.1,
) -> Towers:
    """anchor: the field that each tuple is matched with, the first text unless given; width: of the
    common space; temperature: where the learned one starts; max_scale: bound of its inverse;
    smoothing: of the labels."""
    scale = Scale(1 / temperature, most=max_scale)
    texts = [f for f, modality in two_fields(encoder).fields.items() if modality.takes_prompts]
    anchor = anchor or [*texts, *encoder.fields][0]
    if anchor not in encoder.fields:
        raise unknown("field to anchor to", anchor, encoder.fields)

    def objective(z):
        total, tuples = connected_zero(*(z[s].values for s in z.sources), scale()), 0
        for rows, names in by_source(z, anchor):
            lead, *others = (at(z, name, rows) for name in names)
            more = z[names[0]].values[~torch.isin(z[names[0]].rows, rows)]
            loss = gram_info_nce(
                lead, others, temperature=1 / scale(), smoothing=smoothing, extra_anchor_MD=more
            )
            total, tuples = total + len(rows) * loss, tuples + len(rows)
        return {"volume": total / max(tuples, 1)}

    aligned = encoder.align(
        width, similarity="abs_cosine"
    )  # turning a vector round changes no volume
    return Volumes(aligned, objective, learned=scale)


class Volumes(Towers):
    def logit_scale(self) -> None:
        """None: tuples are matched by their volume and not pairs by their cosine."""


def by_source(z: Embeddings, anchor: str) -> list[tuple[torch.Tensor, list[str]]]:
    """For each set of two or more fields that some rows have: those rows, and the fields, `anchor`
    first if it is one of them."""
    order = sorted(z.sources, key=lambda s: s != anchor)
    present = torch.stack([z[s].present(z.size) for s in order], 1)
    sets, which = torch.unique(present, dim=0, return_inverse=True)
    groups = [((which == i).nonzero().squeeze(1), has) for i, has in enumerate(sets.tolist())]
    return [
        (rows, [s for s, there in zip(order, has) if there]) for rows, has in groups if sum(has) > 1
    ]


def at(z: Embeddings, name: str, rows: torch.Tensor) -> torch.Tensor:
    """The vectors of one field of rows that have it."""
    return z[name].values[torch.searchsorted(z[name].rows, rows)]
