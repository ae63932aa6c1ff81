"""GRACE: generative retrieval. A decoder memorises records under identifiers, and for a query it
writes the identifier of the right one. Li et al., ACL 2024, arXiv:2402.10805, section 3:
identifiers, and the likelihood of their tokens in learning to memorise and learning to retrieve.
Constrained beam search is in `amodal.nn.generation.trie`. Row 159 of the catalogue.

First CLIP's loss between fields, then identifiers are made of the encoder's vectors, and a decoder
learns them.

Differs:

- networks: the paper tunes OpenFlamingo of 3 billion weights, whose language model reads words and,
  by gated attention, CLIP's picture features. Here it is a decoder of two blocks from nothing, over
  the tokens of the library's encoders (or of backbones). What words mean, it has to learn.
- before: identifiers come from CLIP's features there. Here `warmup` of the steps train the encoder
  by CLIP's loss first (0 for backbones that know already), and the loss goes on beside, so that
  embeddings stay of use: `contrast` is 0 in the paper.
- tasks: an instruction says there whether a picture is to be memorised or a query answered; here
  the tokens are those of the one field or of the other. Both are in every batch.
- identifiers: those like a caption are left out. The tokens of the others are a vocabulary of their
  own, not words that the language model knows. `string` is of random digits; the authors' is the
  number of the picture, cut by the language model's tokenizer as it likes. Their digits have no
  leading zeros. Their tree has 30 branches and 30 places in a leaf (`--method.branch`,
  `--method.leaf`), and a leaf of one picture has no place; ours has 10 of each, and cuts evenly
  what k-means cannot split.
- loss: the mean over the tokens of a batch, those of identifiers; the authors' labels have words
  around them too.
- recipe: theirs is a rate of 1e-4 that falls linearly after 500 steps, gradients clipped at 1, and
  64 rows on each of four devices, by a command without an end. It is one for tuning a large model,
  so there is no `PAPER_RECIPE`.
- product: the ranking by constrained beam search is `amodal search --generate`. What else the paper
  asks a model that has memorised pictures (to describe them, to answer about them) is left out.
- ours: any field may hold the queries, and all others are the record; if they are several, the loss
  of memorising is their mean. Records without a query are memorised all the same; those with
  nothing but a query have no identifier.
- open: a pretrained language model that reads pictures (OpenFlamingo, 3 billion weights) as the
  decoder that is tuned. Waits for a language model as decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.methods.contract import Columns, FeatureRecord, StagedMethod
from amodal.methods.shared.matching import pick_text_field, token_features
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
    text_field: str = "",
    kind: str = "structured",
    memorise: bool = True,
    branch: int = 10,
    leaf: int = 10,
    levels: int = 6,
    capacity: int = 4096,
    depth: int = 2,
    warmup: float = 0.3,
    contrast: float = 1.0,
    width: int = 256,
    temperature: float = 0.07,
) -> Grace:
    """Build GRACE.

    Args:
        encoder: Of at least two fields.
        text_field: The field of queries (by default the first of text).
        kind: Of identifiers: "structured" (paths of a cluster tree), "atomic" (one token a record),
            "numeric" (digits of its number) or "string" (random ones).
        memorise: Whether records themselves are mapped to their identifiers.
        branch: Clusters at each node, and digits to write with.
        leaf: Records of a cluster that is not split further.
        levels: Tokens of an identifier at most.
        capacity: Records that there is room for.
        depth: Blocks of the decoder.
        warmup: Share of the steps before identifiers are made.
        contrast: Weight of the contrastive loss from then on (0 in the paper).
        width: Of the common space.
        temperature: Where its learned softmax temperature starts.
    """
    if kind not in KINDS:
        raise unknown("kind of identifier", kind, KINDS)
    if not 0 <= warmup < 1:
        raise AmodalError(f"warmup is from 0 to below 1, not {warmup}")
    query_field, record_fields = pick_text_field(two_fields(encoder), text_field)
    return Grace(
        encoder.align(width),
        Scale(1 / temperature, most=100.0),
        query_field=query_field,
        record_fields=record_fields,
        kind=kind,
        memorise=memorise,
        branch=branch,
        leaf=leaf,
        levels=levels,
        capacity=capacity,
        depth=depth,
        warmup=warmup,
        contrast=contrast,
    )


@dataclass(frozen=True, kw_only=True)
class GraceFeatures(FeatureRecord):
    """Features of GRACE.

    Args:
        vectors: source -> (N, D), aligned.
        written: source -> (N, 2), the sum of the losses of identifier tokens, and their number;
            empty in the first stage.
    """

    vectors: Columns
    written: Columns


class Grace(StagedMethod):
    """A decoder that writes the identifiers of records.

    Args:
        encoder: Aligned.
        scale: The learned inverse temperature.
        query_field: The field of queries.
        record_fields: All others.
        kind: Of identifiers.
        memorise: Whether records themselves are mapped to their identifiers.
        branch: Clusters at each node.
        leaf: Records of a cluster that is not split further.
        levels: Tokens of an identifier at most.
        capacity: Records that there is room for.
        depth: Blocks of the decoder.
        warmup: Share of the steps before identifiers are made.
        contrast: Weight of the contrastive loss from then on.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        scale: Scale,
        *,
        query_field: str,
        record_fields: list[str],
        kind: str,
        memorise: bool,
        branch: int,
        leaf: int,
        levels: int,
        capacity: int,
        depth: int,
        warmup: float,
        contrast: float,
    ):
        super().__init__()
        self.encoder, self.scale, self.register = encoder, scale, Register(capacity, levels)
        self.query_field, self.record_fields = query_field, record_fields
        self.kind, self.memorise, self.contrast = kind, memorise, contrast
        self.shape = {"branch": branch, "leaf": leaf, "levels": levels}
        vocabulary = tokens_of(kind, most=capacity, **self.shape)
        self.writer = IdentifierWriter(
            encoder.width, vocabulary, depth=depth, heads=encoder.num_heads
        )
        self.stages, self.refresh_first = (warmup, 1.0) if warmup else (1.0,), not warmup
        self.on_stage_start(0)

    def on_stage_start(self, stage: int) -> None:
        self.writes = stage == len(self.stages) - 1

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        """Register the keys of all records."""
        self.register.enter([key for batch in records for key in batch.keys])

    @torch.no_grad()
    def refresh(self, stage: int, embed_all: Callable[[], Embeddings]) -> None:
        """Make the identifiers from the vectors of the records."""
        z = embed_all()
        fields = {s: z[s].to(self.scale.log.device) for s in self.record_fields if s in z}
        fused = self.encoder.project(Embeddings(fields, z.size)).fused(list(fields))
        self.register.name(fused.rows, identifiers(self.kind, fused.flat, **self.shape))

    def read(self, context: SourceTokens, source: str) -> Column:
        """The tokens of one source that the decoder reads."""
        return token_features(self.encoder, context, [source])[f"tokens/{source}"]

    def features(self, batch: Batch) -> GraceFeatures:
        context, written = alone(self.encoder, batch), {}
        if self.writes:
            codes = self.register.of(batch.keys)
            for s in (self.query_field, *(self.record_fields if self.memorise else ())):
                read = self.read(context, s)
                # records without an identifier have nothing to write
                read = read.at(codes[read.rows, 0] >= 0)
                written[s] = Column(self.writer(read.values, codes[read.rows]), read.rows)
        z = vectors(self.encoder, context, batch.size)
        return GraceFeatures(size=batch.size, vectors=z.columns, written=written)

    def losses(self, features: GraceFeatures) -> dict[str, Tensor]:
        z = Embeddings(dict(features.vectors), features.size)
        weight, temperature = self.contrast if self.writes else 1.0, 1 / self.scale()
        contrast = {
            f"info_nce/{a}~{b}": weight * info_nce(*z.pair(a, b), temperature=temperature)
            for a, b in field_pairs(z)
        }
        memorise, retrieve = {}, {}
        for s, column in features.written.items():
            if s == self.query_field:
                retrieve[f"retrieve/{s}"] = token_mean(column)
            else:
                memorise[f"memorise/{s}"] = token_mean(column)
        return share(contrast) | share(memorise) | retrieve

    @torch.no_grad()
    def retrieve(self, batch: Batch, *, beams: int = 10) -> tuple[Column, Tensor, Tensor]:
        """Name records for the rows that have the query field; see `Retrieves`."""
        read = self.read(alone(self.encoder, batch.only(self.query_field)), self.query_field)
        numbers, log_probabilities = self.register.find(self.writer, read, beams=beams)
        return numbers, log_probabilities, self.register.codes

    def find(self, batch: Batch, *, beams: int = 10) -> Column:
        """(N, beams) int64: the numbers of `retrieve`."""
        return self.retrieve(batch, beams=beams)[0]
