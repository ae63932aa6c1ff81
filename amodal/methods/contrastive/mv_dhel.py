"""MV-DHEL and MV-InfoNCE: all views of a sample in one term, be they augmentations or fields, and
not one term for each pair. Koromilas, Georgiou, Bouritsas, Giannakopoulos, Nicolaou and Panagakis,
2025, arXiv:2507.06979. Losses: their section IV, with the baselines of their section V under the
same interface. Row 89 of the catalogue.

Rows with a subset of the views have their own term over the views that they have; a row with one
view has no positive and serves the others as a negative. Of MV-DHEL a row's product has a factor
for each of its own views."""

import torch

from amodal.core import Embeddings, unknown
from amodal.methods.shared.shapes import Towers
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives import multi_view

LOSSES = ("mv_dhel", "mv_info_nce", "pairwise", "average", "multi_positive")


def mv_dhel(
    encoder: Encoder,
    *,
    loss: str = "mv_dhel",
    views: int = 0,
    temperature: float = 0.5,
    width: int = 128,
) -> Towers:
    """loss: "mv_dhel", "mv_info_nce", or a baseline: "pairwise" (PWE, mean NT-Xent of pairs),
    "average" (AVG, each view with the mean of the others), "multi_positive" (NT-Xent, the other
    views all positive); views: augmentations of each value, 0 for four of a single field and for
    one each of several; temperature: of the softmax; width: of the space that is compared, a
    projector's output with one field, the fields' common space with several."""
    if loss not in LOSSES:
        raise unknown("mv_dhel.loss", loss, LOSSES)
    alone = len(encoder.fields) == 1
    views = views or (4 if alone else 1)
    heads = (
        {f: Projector(encoder.width, width, hidden=encoder.width) for f in encoder.fields}
        if alone
        else {}
    )

    def objective(z):
        return {loss: getattr(multi_view, loss)(*table(z), temperature=temperature)}

    augment = ("strong",) * views if views > 1 else ("weak",)
    return Towers(encoder if alone else encoder.align(width), objective, heads=heads, views=augment)


def table(z: Embeddings) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows by sources: (B, S, D) vectors, zero where a row lacks the source, and (B, S) bool where
    it has it."""
    columns = [z[s] for s in z.sources]
    whole = [
        c.values.new_zeros(z.size, c.values.shape[1]).index_put((c.rows,), c.values)
        for c in columns
    ]
    return torch.stack(whole, 1), torch.stack([c.present(z.size) for c in columns], 1)
