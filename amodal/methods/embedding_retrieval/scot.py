"""SCOT: a query of a picture and a change to it is learnt from captions and edited captions, which
stand in for the pictures asked for. Jawade et al., WACV 2025, arXiv:2501.08347. Combiner:
`amodal.nn.fusion.combiner`; loss with the caption before the edit as a further negative:
`amodal.objectives.explicit_negatives`. Row 44 of the catalogue.

The paper's frozen CLIP or BLIP-2 is here the first stage, CLIP's loss, or backbones with `warmup` =
0; then only the combiner learns. The paper has a language model write what to change and the
caption after it; here both are fields of the data, which `amodal.curate.edits` makes of captions.
Any other field may be the reference, and what it becomes may be of any kind (pictures give the
supervised method). A field of the kind of another one is read by its tower. Of hard negatives there
is the caption before the edit. `amodal search` then composes a query of words and something else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.core.column import both
from amodal.methods.contract import Features, StagedMethod
from amodal.methods.shared.matching import words_of
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.explicit_negatives import explicit_negative_nce
from amodal.objectives.info_nce import info_nce


def scot(
    encoder: Encoder,
    *,
    words: str = "",
    change: str = "change",
    changed: str = "changed",
    original: bool = True,
    warmup: float = 0.5,
    width: int = 256,
    project: int = 4,
    hidden: int = 8,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Scot:
    """words: the field of captions, the first text unless given; change: the field that says what
    to change; changed: the field with what it becomes; original: whether the caption before the
    edit is a negative; warmup: share of the steps before the encoder is frozen (0: as it comes);
    width: of the common space; project, hidden: of the combiner's layers, times that width;
    temperature: where the learned softmax temperature starts; max_scale: bound of its inverse."""
    for name in (change, changed):
        if name not in encoder.fields:
            raise unknown(
                "field",
                name,
                encoder.fields,
                "`amodal.curate.edits` makes changes and changed captions.",
            )
    if not 0 <= warmup < 1:
        raise AmodalError(f"warmup is from 0 to below 1, not {warmup}")
    own = {f: m for f, m in encoder.fields.items() if f not in (change, changed)}
    texts = [f for f, m in own.items() if m.takes_prompts]
    words = words_of(encoder, words)[0] if words else (texts or list(own))[0 if texts else -1]
    read_by = {name: tower_of(encoder, name, [words, *own]) for name in (change, changed)}
    for name in {n for n, tower in read_by.items() if tower != n}:
        encoder.drop(name)
    two_fields(encoder).align(width).compose(words, project * width, hidden * width)
    method = Scot(encoder, Scale(1 / temperature, most=max_scale))
    method.words, method.change, method.changed, method.read_by, method.original = (
        words,
        change,
        changed,
        read_by,
        original,
    )
    method.references = [f for f in own if f != words]
    method.stages = (warmup, 1.0) if warmup else (1.0,)
    method.on_stage_start(0)
    return method


def tower_of(encoder: Encoder, name: str, among: list[str]) -> str:
    """The first field whose tower can read this one, or itself."""

    def kind(field: str) -> tuple:
        shapes = [tuple(p.shape) for p in encoder.tokenizers[field].parameters()]
        return type(encoder.fields[field]), getattr(encoder.fields[field], "vocabulary", ""), shapes

    return next((f for f in among if kind(f) == kind(name)), name)


class Scot(StagedMethod):
    min_batch_size = 2

    def __init__(self, encoder: Encoder, scale: Scale):
        super().__init__()
        self.encoder, self.scale = encoder, scale

    def on_stage_start(self, stage: int) -> None:
        self.composes = stage == len(self.stages) - 1
        if self.composes:
            self.requires_grad_(False)
            self.encoder.combiner.requires_grad_(True)

    def features(self, batch: Batch) -> Features:
        z = self.encoder(batch.only(*(s for s in batch.sources if s in self.encoder.fields)))
        if not self.composes:
            return z
        read = {name: z[name] if tower == name else self.encoder(
            Batch(batch.size, {tower: batch[name]}, batch.keys, batch.seeds))[tower] for name, tower in self.read_by.items()}  # fmt: skip
        columns = {"changed": read[self.changed], "original": z[self.words]}
        for f in self.references:
            v, m = both(z[f], read[self.change])
            columns[f"composed/{f}"] = Column(self.encoder.combiner(v.values, m.values), v.rows)
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        heat = 1 / self.scale()
        if not self.composes:
            z = Embeddings(dict(features.columns), features.size)
            return share(
                {
                    f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=heat)
                    for a, b in field_pairs(z)
                }
            )
        terms, before = {}, features["original"]
        for f in self.references:
            c, u = both(features[f"composed/{f}"], features["changed"])
            t = u.values.new_zeros(features.size, u.values.shape[1]).index_copy(
                0, before.rows, before.values
            )
            there = before.present(features.size)[u.rows] & torch.tensor(
                self.original, device=u.rows.device
            )
            terms[f"compose/{f}"] = explicit_negative_nce(
                c.values, u.values, t[u.rows], there, temperature=heat
            )
        return share(terms)
