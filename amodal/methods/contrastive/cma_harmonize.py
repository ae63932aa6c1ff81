"""Gradient harmonization: where what one field learns from two others pulls shared weights apart,
neither pull may undo the other. Wu, Liang, Han, Akbari, Wang and Yu, NeurIPS 2022,
arXiv:2211.02077. One trunk for all fields; an anchor is contrasted with every other field by
InfoNCE, with texts by MIL-NCE (VATT's losses, arXiv:2104.11178). Realignment: gradients that
conflict are each projected on the plane normal to the other. Curriculum: what has a cosine of at
most gamma is left out; gamma rises from -.3 to 0. Row 53 of the catalogue.

What differs. The curriculum looks at rows by the gradients at the anchor's vector, which costs no
pass of the trunk; "batch" is the form by all shared weights, and then a whole batch is skipped: its
gradient is zero, while the optimizer still steps by momentum and weight decay. There is one common
space instead of one for each pair. With more than two others, every two of them are compared: a row
goes by its lowest cosine."""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import Batch, Column, Embeddings, field_of, name_code, unknown
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.methods.contract import Clock, Features, Method
from amodal.methods.shared.regions import alone, sentences, vectors
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce
from amodal.objectives.mil_nce import mil_nce
from amodal.objectives.realign import cosines, realign, row_cosines

ENCODER = {"trunk": "shared"}
SIFTS = ("row", "batch", "none")


def cma_harmonize(
    encoder: Encoder,
    *,
    anchor: str = "",
    realigned: bool = True,
    sift: str = "row",
    start: float = -0.3,
    end: float = 0.0,
    captions: int = 5,
    drop: float = 0.5,
    width: int = 128,
    temperature: float = 0.07,
) -> Harmonized:
    """anchor: the field that both losses share (video), the first that is not text unless given;
    realigned: whether gradients that conflict are projected; sift: what the curriculum leaves out,
    a "row", a whole "batch" or "none"; start, end: the least cosine to be kept, at the first and at
    the last step; captions: candidates drawn of each text, by lines or stretches (1: the text
    itself); drop: share of the tokens left out, of all fields but texts; width: of the common
    space; temperature: of both losses."""
    if sift not in SIFTS:
        raise unknown("cma_harmonize.sift", sift, SIFTS)
    texts = [f for f, m in two_fields(encoder).fields.items() if m.takes_prompts]
    anchor = anchor or next(
        (f for f in encoder.fields if f not in texts), next(iter(encoder.fields))
    )
    if anchor not in encoder.fields:
        raise unknown("field to anchor to", anchor, encoder.fields)
    kind = HarmonizedGradients if realigned or sift == "batch" else Harmonized
    method = kind(encoder.align(width), anchor, [f for f in texts if f != anchor], captions, start)
    method.realigned, method.sift, method.end, method.drop, method.temperature = (
        realigned,
        sift,
        end,
        drop,
        temperature,
    )
    return method


class Harmonized(Method):
    """seen: of the last step, the cosines of the gradients (`cosines`) and of the rows (`rows`),
    for those who want to look."""

    min_batch_size = 2

    def __init__(
        self, encoder: Encoder, anchor: str, texts: list[str], captions: int, start: float
    ):
        super().__init__()
        self.encoder, self.anchor, self.texts, self.start = encoder, anchor, texts, start
        self.views = {
            f: ("local",) * captions if f in texts and captions > 1 else ("weak",)
            for f in encoder.fields
        }
        self.register_buffer("gamma", torch.tensor(start))
        self.seen: dict[str, object] = {}

    def on_step_end(self, clock: Clock) -> None:
        self.gamma.fill_(self.start + (self.end - self.start) * clock.progress)

    def features(self, batch: Batch) -> Features:
        bags = self.encoder.tokenize(batch)
        for s in [s for s in bags if field_of(s) not in self.texts] if self.drop else []:
            bag, seeds = bags[s], hash_bits(batch.seeds, name_code(f"drop {s}"))
            bags[s] = bag.keep(random_keep(bag.row, seeds[bag.row], bag.within(), self.drop))
        return vectors(self.encoder, alone(self.encoder, batch, bags), batch.size)

    def contrasts(self, z: Embeddings, anchors: Column) -> dict[str, Tensor]:
        """Each other field with `anchors`."""
        terms = {}
        for a, b in field_pairs(z, self.anchor):
            f = field_of(b)
            other = sentences(z, [s for s in z if field_of(s) == f]) if f in self.texts else z[b]
            at, at_b = shared_rows(anchors, other)
            loss = mil_nce if f in self.texts else info_nce
            terms[f"{loss.__name__}/{a}~{f}"] = loss(
                anchors.values[at], other.values[at_b], temperature=self.temperature
            )
        return terms

    def losses(self, features: Features) -> dict[str, Tensor]:
        anchors = features[self.anchor]
        if self.sift == "row":
            lowest = self.row_cosines(features)
            self.seen["rows"] = lowest
            anchors = anchors.at(lowest.values > self.gamma)
        return share(self.contrasts(features, anchors))

    def row_cosines(self, features: Features) -> Column:
        """(N,) of each anchor the lowest cosine of two of the gradients that the losses have at its
        vector."""
        rest = Embeddings(
            {s: Column(c.values.detach(), c.rows) for s, c in features.columns.items()},
            features.size,
        )
        leaf = Column(
            features[self.anchor].values.detach().requires_grad_(), features[self.anchor].rows
        )
        terms = self.contrasts(rest, leaf).values()
        return Column(
            row_cosines([torch.autograd.grad(term, leaf.values)[0] for term in terms]), leaf.rows
        )


class HarmonizedGradients(Harmonized):
    """Gradients of the terms are combined, for realignment or for leaving out whole batches."""

    def combine_gradients(self, gradients: dict[str, Tensor]) -> Tensor:
        self.seen["cosines"] = found = cosines(gradients)
        total = (
            realign(gradients) if self.realigned else torch.stack(list(gradients.values())).sum(0)
        )
        if self.sift == "batch" and found:
            lowest = torch.stack(
                [torch.where(c == 0, 1, c) for c in found.values()]
            ).min()  # 0: nothing to compare
            total = total * (lowest > self.gamma)
        return total
