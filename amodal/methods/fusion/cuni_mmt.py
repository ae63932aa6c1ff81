"""CUNI's multimodal translation: a text is told from another one and from what goes with it, which
is read, or only to be imagined. Helcl, Libovický and Variš, WMT 2018, arXiv:1811.04697. Reading
several sources: Libovický et al., arXiv:1811.04716, section 3, in
`amodal.nn.generation.multi_source_decoder`. Imagination: Elliott and Kádár, arXiv:1705.04350, eq.
4-5, a max-margin loss with in-batch negatives; it needs no picture at test time. Row 88 of the
catalogue.

Rows that lack a field are told from the others, and imagine nothing, so texts alone may be mixed
in. What differs: a picture is read, or imagined, as its trunk leaves it, here learnt with the rest
unless it is a pretrained backbone; the end of a text is a chance of its own beside the next token
(together a softmax with an end), so that any field can be told; tokens of the two texts are not
shared; the weight of the imagination is reconstructed. `amodal.curate.in_domain` chooses more texts
of the kind; back-translation is not there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Ragged, unknown
from amodal.methods.contract import Features, Method
from amodal.methods.shared.matching import token_features, words_of
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import share, token_column, token_mean, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.generation.field_decoder import FieldDecoder, decoded_from, every_row
from amodal.objectives.margin import ranking_hinge

ENCODER = {"trunk": "shared"}
ROUTES = ("read", "imagine", "both")


def cuni_mmt(
    encoder: Encoder,
    *,
    source: str = "",
    target: str = "",
    images: str = "read",
    strategy: str = "serial",
    depth: int = 6,
    weight: float = 1.0,
    margin: float = 0.1,
) -> Translator:
    """source: the field that is translated, the first text but the target unless given (without
    any, the first other field); target: the field that is told, the last text unless given; images:
    what the other fields are for: "read" beside the source, "imagine" as targets for the source's
    mean token, or "both"; strategy: to read several sources, "serial", "parallel", "flat" or
    "hierarchical"; depth: blocks of the decoder; weight: lambda of the imagination; margin: of its
    loss."""
    texts = [f for f, m in two_fields(encoder).fields.items() if m.takes_prompts]
    target, others = words_of(encoder, target or (texts[-1] if texts else ""))
    source = source or next((f for f in others if f in texts), others[0])
    if source not in others:
        raise unknown("field to translate", source, others)
    if images not in ROUTES:
        raise unknown("use of what goes with the text", images, ROUTES)
    seen = [f for f in others if f != source]
    if images != "read" and not seen:
        raise AmodalError(
            f"nothing is there to imagine: beside {source} and {target} there is no other field"
        )
    if encoder.contextual(target):
        raise AmodalError(
            f"tokens of {target} come from a backbone and have seen each other; leave it out to tell them"
        )
    read = [source, *seen] if images != "imagine" else [source]
    shape = {
        "depth": depth,
        "heads": encoder.num_heads,
        "sources": len(read),
        "strategy": strategy,
    }
    writer = FieldDecoder(encoder.fields[target], encoder.width, width=encoder.width, **shape)
    return Translator(
        encoder, writer, target, source, read, seen if images != "read" else [], weight, margin
    )


class Translator(Method):
    """Features: `tell`, of each row that is told from anything, the sum of losses of its tokens and
    its end, and their number; of each imagined field its vector, and as `imagine/FIELD` what the
    source makes of it."""

    def __init__(self, encoder, writer, target, source, read, imagined, weight, margin):
        super().__init__()
        self.encoder, self.writer, self.target, self.source, self.read = (
            encoder,
            writer,
            target,
            source,
            read,
        )
        self.weight, self.margin, width = weight, margin, encoder.width
        each = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in imagined
        )
        self.imagine = nn.ModuleDict(zip(imagined, each))
        if target in encoder.trunks:  # it is told and never read
            encoder.trunks[target].requires_grad_(False)

    def given(self, batch: Batch) -> tuple[dict[str, Column], list[Ragged]]:
        """The vector of each field but the target and, of each that is read, its tokens, a list for
        every row of the batch."""
        there = [*self.read, *(f for f in self.imagine if f in batch.columns)]
        context = alone(self.encoder, batch.only(*dict.fromkeys(there)))
        columns = token_features(self.encoder, context, self.read).values()
        return self.encoder.pool(context), [every_row(c, batch.size) for c in columns]

    def features(self, batch: Batch) -> Features:
        pooled, lists = self.given(batch)
        values = batch[self.target].values
        told = token_column(self.encoder.patchify(batch.only(self.target))[self.target])
        wanted = Ragged(self.encoder.fields[self.target].targets(values), told.values.lengths)
        at = decoded_from(lists)[told.rows].nonzero().squeeze(1)
        rows, text = told.rows[at], pooled[self.source]
        tell = self.writer([s[rows] for s in lists], told.values[at], wanted[at].flat)
        columns = {"tell": Column(tell, rows)} | {f: pooled[f] for f in self.imagine}
        columns |= {
            f"imagine/{f}": Column(head(text.values), text.rows) for f, head in self.imagine.items()
        }
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        imagined = {}
        for f in self.imagine:
            hinge = ranking_hinge(
                *features.pair(f"imagine/{f}", f), margin=self.margin, symmetric=False
            )
            imagined[f"imagine/{f}"] = self.weight * hinge
        return {"tell": token_mean(features["tell"])} | share(imagined)

    def translate(
        self, batch: Batch, *, beams: int = 4, longest: int = 64, alpha: float = 0.6
    ) -> dict[int, str]:
        """Row -> text, for the rows that have anything to tell it from, as `beam_search` finds it.
        The batch needs the columns that are read, if need be without a row. Raises AmodalError
        unless the target is text with one id a token."""
        with torch.no_grad():
            lists = self.given(batch)[1]
        rows, tokenizer = (
            decoded_from(lists).nonzero().squeeze(1),
            self.encoder.tokenizers[self.target],
        )
        how = {"beams": beams, "longest": longest, "alpha": alpha}
        return dict(
            zip(rows.tolist(), self.writer.write([s[rows] for s in lists], tokenizer, **how))
        )
