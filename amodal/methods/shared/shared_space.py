"""What MMRL and its successor share: frozen towers with tokens of a common space, adapted to
classes that are told by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from amodal.core import AmodalError, Batch, Column, Embeddings, field_of, unknown
from amodal.core.column import shared_rows
from amodal.methods.contract import Features, Method
from amodal.methods.shared.matching import words_of
from amodal.methods.shared.shapes import share
from amodal.nn.adapters.block_tokens import hook_disabled, require_no_hook
from amodal.nn.adapters.shared_space_tokens import SpaceTokens
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target
from amodal.objectives.common import connected_zero
from amodal.objectives.negative_cosine import negative_cosine


def one_category(targets: Sequence, method: str) -> Target:
    """The only target, which must be a category. Raises AmodalError."""
    found = [Target.read(t) for t in targets]
    if len(found) != 1 or found[0].kind != "classes":
        raise AmodalError(
            f"{method} learns to tell classes by their names: give label, one label of the data that is a category"
        )
    return found[0]


class NamedClasses(Method):
    """Features are each source's class features under its name, its representation features under
    `rep/…`, what the towers say without the tokens under `plain/…`, and the label.

    tokens: makes them for an encoder; projection: of the encoder's frozen head, the head of the
    representation features.
    """

    def __init__(
        self,
        encoder: Encoder,
        target: Target,
        words: str,
        tokens: Callable[[Encoder], SpaceTokens],
        projection: Callable[[nn.Module], nn.Module],
        *,
        alpha: float,
        weight: float,
        scale: float,
        template: str,
        width: int,
        view: str,
    ):
        super().__init__()
        self.encoder, self.views, self.labels, self.target = encoder, (view,), target.labels, target
        self.words, self.sources = words_of(encoder, words)
        if not encoder.fields[self.words].takes_prompts or not self.sources:
            raise AmodalError(
                "classes are told by their names, which takes a field of text and another one"
            )
        if template.count("{}") != 1 or not 0 <= alpha <= 1:
            raise AmodalError(
                f"a template needs one {{}} for the class, got {template!r}; alpha is from 0 to 1, got {alpha}"
            )
        self.alpha, self.weight, self.scale, self.template = alpha, weight, scale, template
        encoder.requires_grad_(False)
        if encoder.heads is None:
            encoder.align(width)
        encoder.set_block_hook(tokens(require_no_hook(encoder)))
        self.heads = nn.ModuleDict({s: projection(encoder.heads[s]) for s in self.sources})

    def features(self, batch: Batch) -> Features:
        seen, rep = self.seen(batch)
        with torch.no_grad(), hook_disabled(self.encoder):
            before = self.encoder(batch.only(*seen))
        if self.labels[0] not in batch.labels:
            raise unknown("label of this batch", self.labels[0], batch.labels)
        columns = (
            seen.columns
            | {f"rep/{s}": rep[s] for s in rep}
            | {f"plain/{s}": before[s] for s in before}
        )
        return Features(columns | {"label": batch.labels[self.labels[0]]}, batch.size)

    def seen(self, batch: Batch) -> tuple[Embeddings, Embeddings]:
        """Class features and representation features of all sources but the words."""
        encoder, kept = self.encoder, {}
        bags = encoder.tokenize(
            batch.only(*(s for s in batch.sources if field_of(s) in self.sources))
        )
        context = encoder.encode(bags, block_hook=partial(encoder.block_hook, collected=kept))
        rep = {s: kept[field_of(s)] for s in bags}
        rep = {s: Column(self.read_out(field_of(s), c.values), c.rows) for s, c in rep.items()}
        return encoder.project(Embeddings(encoder.pool(context), batch.size)), Embeddings(
            rep, batch.size
        )

    def read_out(self, field: str, tokens_NKD: Tensor) -> Tensor:
        return self.heads[field](self.encoder.trunks[field].norm(tokens_NKD).mean(1))

    def class_vectors(self, names: Sequence[str] | None = None, tokens: bool = True) -> Tensor:
        """(C, D) unit vectors of the classes' names (those learnt, unless given), by towers with
        the tokens or without."""
        names, modality, still = (
            names or self.target.classes,
            self.encoder.fields[self.words],
            np.random.default_rng(0),
        )
        texts = [self.template.format(name.replace("_", " ")) for name in names]
        values = modality.collate(
            [modality.augment(modality.decode(t), "plain", still) for t in texts]
        )
        column = Column(values, torch.arange(len(texts))).to(
            self.encoder.field_token[self.words].device
        )
        with nullcontext() if tokens else hook_disabled(self.encoder):
            return normalize(
                self.encoder(Batch.of(len(texts), {self.words: column}))[self.words].values, dim=1
            )

    def losses(self, features: Features) -> dict[str, Tensor]:
        names = self.class_vectors()
        with torch.no_grad():
            before = self.class_vectors(tokens=False)
        told, near = {}, {}
        for s in (s for s in self.sources if s in features):
            terms = [
                self.told(features[f"{way}{s}"], features["label"], names) for way in ("", "rep/")
            ]
            told[f"told/{s}"] = self.alpha * terms[0] + (1 - self.alpha) * terms[1]
            near[f"near/{s}"] = (
                self.weight / 2 * negative_cosine(features[s].values, features[f"plain/{s}"].values)
            )
        return (
            share(told)
            | share(near)
            | {"near/names": self.weight / 2 * negative_cosine(names, before)}
        )

    def told(self, z: Column, label: Column, names_CD: Tensor) -> Tensor:
        at, at_label = shared_rows(z, label)
        if not len(at):
            return connected_zero(z.values, names_CD)
        return cross_entropy(self.logits(z.values[at], names_CD), label.values[at_label])

    def logits(self, z_ND: Tensor, names_CD: Tensor) -> Tensor:
        return self.scale * normalize(z_ND, dim=1) @ names_CD.T

    def predict(self, batch: Batch) -> Column:
        """(N, C) logarithms of the probabilities of the classes learnt, the mean over the sources
        that a row has."""
        told = self.probabilities(batch)
        like = self.encoder.field_token[self.words]
        total, count = (
            like.new_zeros(batch.size, len(self.target.classes)),
            like.new_zeros(batch.size),
        )
        for column in told.values():
            total = total.index_add(0, column.rows, column.values)
            count = count.index_add(0, column.rows, count.new_ones(len(column)))
        rows = count.nonzero().squeeze(1)
        return Column((total[rows] / count[rows, None]).clamp(min=1e-12).log(), rows)

    @torch.no_grad()
    def probabilities(
        self, batch: Batch, names: Sequence[str] | None = None, mixed: bool | None = None
    ) -> dict[str, Column]:
        """Source -> (N, C) probabilities of the classes `names`, or of those learnt. mixed: with
        representation features too, as is right for the classes learnt and for no others (so unless
        given)."""
        seen, rep = self.seen(batch)
        vectors, mixed = self.class_vectors(names), names is None if mixed is None else mixed
        found = {}
        for s in seen:
            parts = [self.logits(z[s].values, vectors).softmax(1) for z in (seen, rep)]
            both = self.alpha * parts[0] + (1 - self.alpha) * parts[1] if mixed else parts[0]
            found[s] = Column(both, seen[s].rows)
        return found
