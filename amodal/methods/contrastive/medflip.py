"""MedFLIP: pictures are paired with their reports from a random part of their patches, for a
fraction of the cost. Li et al., 2024, arXiv:2403.04626: what is dropped never enters the encoder,
text stays whole; matching with soft targets from labels, as in MedCLIP (arXiv:2210.10163, semantic
matching); a term in the leading singular value of the similarities. Row 51 of the catalogue.

Differences: tokens of every field that is not text are dropped, whatever it holds, and every two
fields are matched; the targets come from one label per record (the paper: findings of image and
report, several each), and are hard where none is known; the scale and sign of the spectral term are
not recoverable from the paper: its default spreads the spectrum, a negative weight does the
opposite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, Tokens, field_of, name_code, unknown
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.methods.contract import Features, StagedMethod
from amodal.methods.shared.regions import alone, vectors
from amodal.methods.shared.shapes import (
    field_pairs,
    refuse_backbones,
    row_losses,
    share,
    token_mean,
    two_fields,
)
from amodal.nn.encoder import Encoder
from amodal.nn.generation.mask_decoder import MaskDecoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce
from amodal.objectives.leading_singular import leading_singular
from amodal.objectives.soft_info_nce import soft_info_nce

LABEL = "label/semantics"


def medflip(
    encoder: Encoder,
    *,
    ratio: float = 0.5,
    tuning: float = 0.0,
    width: int = 512,
    temperature: float = 0.07,
    max_scale: float = 100.0,
    semantics: str = "",
    spectral: float = 1.0,
    relative: bool = True,
    reconstruct: float = 0.0,
) -> MedFlip:
    """ratio: share of the tokens of each value that is dropped, not of text; tuning: share of the
    steps, at the end, in which none is. width: of the common space; temperature: where the learned
    softmax temperature starts; max_scale: bound of its inverse. semantics: a label of the data,
    whose classes make soft targets (records match only themselves without it). spectral: weight of
    the leading singular value of the similarities (below 0: it is to be large); relative: as a
    share of all of them. reconstruct: weight of a masked autoencoder's loss on what was dropped (0:
    no decoder)."""
    texts = [f for f, m in two_fields(encoder).fields.items() if m.takes_prompts]
    dropped = [f for f in encoder.fields if f not in texts] or list(encoder.fields)
    if not 0 <= ratio < 1 or not 0 <= tuning < 1:
        raise AmodalError(
            f"medflip.ratio and tuning are shares from 0 to below 1, got {ratio} and {tuning}"
        )
    if any(encoder.contextual(f) for f in dropped):
        refuse_backbones(encoder)
    method = MedFlip(encoder.align(width), dropped, Scale(1 / temperature, most=max_scale))
    method.ratio, method.spectral, method.relative, method.reconstruct = (
        ratio,
        spectral,
        relative,
        reconstruct,
    )
    method.labels = (semantics,) if semantics else ()
    method.stages = (1 - tuning, 1.0) if tuning else (1.0,)
    if reconstruct:
        method.decoder = MaskDecoder(
            dropped, encoder.width, width=encoder.width, depth=1, heads=encoder.num_heads
        )
        method.predictors = nn.ModuleDict(
            {f: encoder.fields[f].predictor(encoder.width) for f in dropped}
        )
    return method


class MedFlip(StagedMethod):
    min_batch_size = 2

    def __init__(self, encoder: Encoder, dropped: list[str], scale: Scale):
        super().__init__()
        self.encoder, self.dropped, self.scale, self.whole = encoder, dropped, scale, False

    def on_stage_start(self, stage: int) -> None:
        self.whole = stage > 0

    def features(self, batch: Batch) -> Features:
        bags = self.encoder.tokenize(batch)
        keep = {s: self.kept(bag, batch.seeds) for s, bag in bags.items()}
        seen = alone(self.encoder, batch, {s: bag.keep(keep[s]) for s, bag in bags.items()})
        columns = dict(vectors(self.encoder, seen, batch.size).columns)
        for s in (s for s in bags if self.reconstruct and field_of(s) in self.dropped):
            field, hidden = field_of(s), bags[s].keep(~keep[s])
            predicted = self.predictors[field](self.decoder([seen[s]], [hidden])[0].x)
            target = self.encoder.fields[field].targets(batch[s].values)[~keep[s]]
            columns[f"told/{s}"] = row_losses(
                self.encoder.fields[field].token_loss(predicted, target), hidden
            )
        for label in self.labels:
            if label not in batch.labels:
                raise unknown("label of this batch", label, batch.labels)
            columns[LABEL] = batch.labels[label]
        return Features(columns, batch.size)

    def kept(self, bag: Tokens, seeds: Tensor) -> Tensor:
        ratio = 0.0 if self.whole or field_of(bag.names[0]) not in self.dropped else self.ratio
        return random_keep(
            bag.row,
            hash_bits(seeds, name_code(f"seen {bag.names[0]}"))[bag.row],
            bag.within(),
            ratio,
        )

    def losses(self, features: Features) -> dict[str, Tensor]:
        z = Embeddings({s: features[s] for s in features if "/" not in s}, features.size)
        match, spectrum = {}, {}
        for a, b in field_pairs(z):
            rows, pair = z.complete((a, b))
            if LABEL in features:
                soft = self.targets(features[LABEL], features.size, rows, pair[0].dtype)
                # what is alike is so both ways: the same targets back, whose rows sum to 1, which
                # those of P transposed do not
                match[f"match/{a}~{b}"] = soft_info_nce(
                    *pair, soft, temperature=1 / self.scale(), reverse_targets=soft
                )
            else:
                match[f"match/{a}~{b}"] = info_nce(*pair, temperature=1 / self.scale())
            if self.spectral:
                spectrum[f"spectrum/{a}~{b}"] = self.spectral * leading_singular(
                    *pair, relative=self.relative
                )
        told = {
            f"reconstruct/{s[5:]}": self.reconstruct * token_mean(features[s])
            for s in features
            if s[:5] == "told/"
        }
        return share(match) | share(spectrum) | share(told)

    def targets(self, label: Column, size: int, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """(N, N) rows that sum to 1: softmax over j of (1 if i and j are of one class), of i alone
        where its class is not known."""
        every = label.values.new_full((size,), -1).index_put((label.rows,), label.values)[rows]
        alike = (every[:, None] == every) & (every >= 0)
        own = torch.eye(len(rows), dtype=dtype, device=rows.device)
        return torch.where((every >= 0)[:, None], alike.to(dtype).softmax(1), own)
