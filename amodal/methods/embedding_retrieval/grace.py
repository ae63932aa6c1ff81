"""GRACE: records are learnt by heart under identifiers, and a query is answered by writing the
identifier of the right one. Li et al., ACL 2024, arXiv:2402.10805, section 3: identifiers, and the
likelihood of their tokens in learning to memorise and learning to retrieve. Constrained beam search
is in `amodal.nn.generation.trie`. Row 159 of the catalogue.

First CLIP's loss between fields, then identifiers are made of what the encoder sees (the paper has
CLIP's features and a language model of 3B; here both begin from nothing, or from backbones with
`warmup` = 0), and a small decoder learns them. What differs: any field may ask, all others are the
record; the field says which task it is, not an instruction; the contrastive loss goes on beside, so
that embeddings stay of use; caption-like identifiers are left out. Records without a query are
memorised all the same; those with a query alone have no identifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.methods.contract import Features, StagedMethod
from amodal.methods.shared.matching import token_features, words_of
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import field_pairs, share, token_mean, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.generation.identifiers import (
    KINDS,
    IdentifierWriter,
    Register,
    identifiers,
    tokens_of,
)
from amodal.nn.scale import Scale
from amodal.nn.trunks import SourceTokens
from amodal.objectives.info_nce import info_nce


def grace(
    encoder: Encoder,
    *,
    words: str = "",
    kind: str = "structured",
    memorise: bool = True,
    branch: int = 10,
    leaf: int = 10,
    levels: int = 6,
    most: int = 4096,
    depth: int = 2,
    warmup: float = 0.3,
    contrast: float = 1.0,
    width: int = 256,
    temperature: float = 0.07,
) -> Grace:
    """words: the field that asks, the first text unless given; kind: of identifiers, "structured"
    (paths of a cluster tree), "atomic" (one token a record), "numeric" (digits of its number) or
    "string" (random ones); memorise: whether records themselves are to give their identifiers;
    branch: clusters at each node, and digits to write with; leaf: records of a cluster that is not
    split further; levels: tokens of an identifier at most; most: records that there is room for;
    depth: blocks of the decoder; warmup: share of the steps before identifiers are made; contrast:
    weight of the contrastive loss from then on (0 in the paper); width: of the common space;
    temperature: where its learned softmax temperature starts."""
    if kind not in KINDS:
        raise unknown("kind of identifier", kind, KINDS)
    if not 0 <= warmup < 1:
        raise AmodalError(f"warmup is from 0 to below 1, not {warmup}")
    method = Grace(encoder.align(width), Scale(1 / temperature, most=100.0), most, levels)
    method.query_field, method.records = words_of(two_fields(encoder), words)
    method.shape, method.memorise, method.contrast = (
        {"branch": branch, "leaf": leaf, "levels": levels},
        memorise,
        contrast,
    )
    tokens = tokens_of(kind, most=most, **method.shape)
    method.writer = IdentifierWriter(encoder.width, tokens, depth=depth, heads=encoder.num_heads)
    method.kind, method.stages, method.refresh_first = (
        kind,
        (warmup, 1.0) if warmup else (1.0,),
        not warmup,
    )
    method.on_stage_start(0)
    return method


class Grace(StagedMethod):
    min_batch_size = 2

    refresh_first = False

    def __init__(self, encoder: Encoder, scale: Scale, most: int, levels: int):
        super().__init__()
        self.encoder, self.scale, self.register = encoder, scale, Register(most, levels)

    def on_stage_start(self, stage: int) -> None:
        self.writes = stage == len(self.stages) - 1

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        self.register.enter([key for batch in records for key in batch.keys])

    @torch.no_grad()
    def refresh(self, stage: int, see: Callable[[], Embeddings]) -> None:
        seen = see()
        fields = {s: seen[s].to(self.scale.log.device) for s in self.records if s in seen}
        one = self.encoder.project(Embeddings(fields, seen.size)).fused(list(fields))
        self.register.name(one.rows, identifiers(self.kind, one.values, **self.shape))

    def read(self, context: SourceTokens, source: str) -> Column:
        return token_features(self.encoder, context, [source])[f"tokens/{source}"]

    def features(self, batch: Batch) -> Features:
        context = alone(self.encoder, batch)
        columns = dict(vectors(self.encoder, context, batch.size).columns)
        if self.writes:
            codes = self.register.of(batch.keys)
            for s in (self.query_field, *(self.records if self.memorise else ())):
                read = self.read(context, s)
                read = read.at(codes[read.rows, 0] >= 0)
                columns[f"write/{s}"] = Column(
                    self.writer(read.values, codes[read.rows]), read.rows
                )
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        z = Embeddings({s: features[s] for s in features if "/" not in s}, features.size)
        weight, heat = self.contrast if self.writes else 1.0, 1 / self.scale()
        near = {
            f"info_nce/{a}~{b}": weight * info_nce(*z.pair(a, b), temperature=heat)
            for a, b in field_pairs(z)
        }
        told = {s: token_mean(features[s]) for s in features if "/" in s}
        asked = (
            {f"retrieve/{self.query_field}": told.pop(f"write/{self.query_field}")} if told else {}
        )
        return (
            share(near)
            | share({s.replace("write", "memorise"): loss for s, loss in told.items()})
            | asked
        )

    @torch.no_grad()
    def retrieve(self, batch: Batch, *, beams: int = 10) -> tuple[Column, Tensor, Tensor]:
        read = self.read(alone(self.encoder, batch.only(self.query_field)), self.query_field)
        return *self.register.find(self.writer, read, beams=beams), self.register.codes

    def find(self, batch: Batch, *, beams: int = 10) -> Column:
        """(N, beams) int64: the numbers of `retrieve`."""
        return self.retrieve(batch, beams=beams)[0]
