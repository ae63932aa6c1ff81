"""Capsules routed by self-attention: each field is told by many small parts, of which few stay
active, before fields are compared. Duarte, Chen, Shvetsova, Rouditchenko et al., 2021,
arXiv:2112.00775: primary capsules and routing by self-attention, of their section 3; masked margin
softmax between every two fields (arXiv:1909.08782, eq. 2-4). Row 115 of the catalogue.

The head survives training. "dynamic" and "em" put the iterative routings of the comparison in its
place. What differs: any fields, whose trunks learn with the rest (theirs are pooled features of
pretrained networks); cosines with a learned temperature instead of plain products, because search
ranks by cosine; the mean over pairs of fields. Reconstructed, as the authors published no code:
widths, how activations enter the routing, and the layer norm before the gated linear map."""

from __future__ import annotations

from functools import partial

import torch

from amodal.core import Batch, Embeddings
from amodal.core.column import shared_rows
from amodal.methods.contract import Features
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.heads.capsules import CapsuleHead
from amodal.nn.scale import Scale
from amodal.objectives.masked_margin import masked_margin_softmax

ITEM = "label/item"


def capsule_attn(
    encoder: Encoder,
    *,
    capsules: int = 128,
    pose: int = 32,
    routing: str = "attention",
    width: int = 512,
    margin: float = 1e-3,
    temperature: float = 0.07,
    label: str = "",
) -> Capsules:
    """capsules: of each field, as many after routing as before; pose: the width of each; routing:
    "attention", "dynamic" or "em"; width: of the common space; margin: taken from the logit of rows
    that belong together; temperature: where the learned one starts; label: of the data, equal for
    records that are no negatives of each other (clips of one film)."""
    scale = Scale(1 / temperature, most=100.0)

    def objective(z):
        fields = Embeddings({s: z[s] for s in z if s != ITEM}, z.size)
        terms = {}
        for a, b in field_pairs(fields):
            groups = of_one_item(z, shared_rows(z[a], z[b])[0], a) if ITEM in z else None
            options = {"margin": margin, "temperature": 1 / scale(), "group_N": groups}
            terms[f"margin/{a}~{b}"] = masked_margin_softmax(*fields.pair(a, b), **options)
        return share(terms)

    head = partial(CapsuleHead, capsules=capsules, pose=pose, routing=routing)
    method = Capsules(two_fields(encoder).align(width, head=head), objective, learned=scale)
    method.labels = (label,) if label else ()
    return method


def of_one_item(z: Embeddings, at: torch.Tensor, field: str) -> torch.Tensor:
    """(n,) the item of the rows at these places of the field's column, -1 where it is not known."""
    item = z[ITEM].rows.new_full((z.size,), -1).index_put((z[ITEM].rows,), z[ITEM].values.long())
    return item[z[field].rows[at]]


class Capsules(Towers):
    def features(self, batch: Batch) -> Features:
        columns = dict(self.encoder(batch).columns)
        for name in self.labels:
            columns[ITEM] = batch.labels[name]
        return Features(columns, batch.size)

    def logit_scale(self) -> None:
        """None: it learns by another loss than InfoNCE."""
