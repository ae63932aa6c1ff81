"""What MMRL and its successor share: frozen towers with tokens of a common space, adapted to
classes by the names of the classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from amodal.core import AmodalError, Batch, Column, Embeddings, field_of
from amodal.core.column import shared_rows
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.matching import pick_text_field
from amodal.methods.shared.shapes import share
from amodal.methods.shared.supervised import label_columns
from amodal.methods.shared.typed_parts import aligned_heads
from amodal.nn.adapters.block_tokens import hook_disabled, require_no_hook
from amodal.nn.adapters.shared_space_tokens import SpaceTokens
from amodal.nn.backbones.projected import token_space
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target
from amodal.nn.transformer import Transformer
from amodal.objectives.common import connected_zero
from amodal.objectives.negative_cosine import negative_cosine


def one_category(targets: Sequence[Target | dict[str, Any]], method: str) -> Target:
    """The only target, which must be a category.

    Args:
        targets: Of the labels.
        method: Its name, for the error.

    Raises:
        AmodalError: For none, for more than one, and for a target that is no category.
    """
    parsed = [Target.read(t) for t in targets]
    if len(parsed) != 1 or parsed[0].kind != "classes":
        raise AmodalError(
            f"{method} learns classes by their names: give label, one label of the data that is a "
            "category"
        )
    return parsed[0]


def body_of(encoder: Encoder, field: str) -> nn.Module:
    """The model of a field's backbone."""
    return cast(nn.Module, cast(Any, encoder.tokenizers[field]).body)


@dataclass(frozen=True, kw_only=True)
class NamedClassFeatures(FeatureRecord):
    """Features of MMRL.

    Args:
        class_features: source -> (N, D), by the towers with tokens.
        representation: source -> (N, D), of the tokens themselves.
        frozen: source -> (N, D), by the towers without tokens.
        label: (N,) class numbers.
    """

    class_features: Columns
    representation: Columns
    frozen: Columns
    label: Column


class NamedClasses(Method):
    """Classifies by the cosines of a record with the names of the classes.

    Args:
        encoder: Compares its fields with texts; it is frozen.
        target: The label.
        text_field: The field that class names are read in ("": the first text).
        tokens: Makes the tokens for an encoder.
        projection: From the encoder's frozen head, makes the head of the representation features.
        alpha: Share of the class feature's loss, and of its probabilities.
        weight: Of the cosines to the frozen towers.
        scale: Of cosines as logits.
        template: A sentence with {} for the class.
        width: Of the space of vectors, if the encoder has aligned none.
        view: How values are augmented.
    """

    def __init__(
        self,
        encoder: Encoder,
        target: Target,
        text_field: str,
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
        self.text_field, self.sources = pick_text_field(encoder, text_field)
        if not encoder.fields[self.text_field].takes_prompts or not self.sources:
            raise AmodalError(
                "class names are read in a field of text, and records in another one; both are "
                "needed"
            )
        if template.count("{}") != 1 or not 0 <= alpha <= 1:
            raise AmodalError(
                f"a template needs one {{}} for the class, got {template!r}; alpha is from 0 to 1, "
                f"got {alpha}"
            )
        self.alpha, self.weight, self.scale, self.template = alpha, weight, scale, template
        encoder.requires_grad_(False)
        in_space = [f for f in encoder.fields if encoder.contextual(f)]
        ends = {f: token_space(body_of(encoder, f), f) for f in in_space}
        if encoder.heads is None:
            encoder.align(max([width, *(encoder.space_of(f) for f in ends)]))
        heads = aligned_heads(encoder)
        for field in ends:  # the vectors are those of the space already
            heads[field].requires_grad_(False)
        encoder.set_block_hook(tokens(require_no_hook(encoder)))
        made = {f: projection(ends[f][1] if f in ends else heads[f]) for f in self.sources}
        self.heads = nn.ModuleDict(made)

    def features(self, batch: Batch) -> NamedClassFeatures:
        z, representation = self.encode(batch)
        with torch.no_grad(), hook_disabled(self.encoder):
            frozen = self.encoder(batch.only(*z))
        return NamedClassFeatures(
            size=batch.size,
            class_features=z.columns,
            representation=representation.columns,
            frozen=frozen.columns,
            label=label_columns(batch, self.labels)[self.labels[0]],
        )

    def encode(self, batch: Batch) -> tuple[Embeddings, Embeddings]:
        """Class features and representation features of all sources but the text field's."""
        encoder, own = self.encoder, (s for s in batch.sources if field_of(s) in self.sources)
        batch = batch.only(*own)
        with cast(SpaceTokens, encoder.block_hook).collect() as collected:
            context = encoder.encode(encoder.tokenize(batch))
        z = encoder.project(Embeddings(encoder.pool(context), batch.size))
        # of a backbone that had no value an example was read
        final = {s: collected[field_of(s)].flat[: len(z[s])] for s in z}
        columns = {s: Column(self.read_out(field_of(s), x), z[s].rows) for s, x in final.items()}
        return z, Embeddings(columns, batch.size)

    def read_out(self, field: str, tokens_NKD: Tensor) -> Tensor:
        """The representation features (N, D) of the K tokens of each row."""
        if not self.encoder.contextual(field):
            norm = cast(Transformer, self.encoder.trunks[field]).norm
            vectors: Tensor = self.heads[field](norm(tokens_NKD).mean(1))
            return vectors
        norm, _ = token_space(body_of(self.encoder, field), field)
        in_space = self.heads[field](norm(tokens_NKD).mean(1))
        # as class features go on from there
        tokenizer, head = self.encoder.tokenizers[field], aligned_heads(self.encoder)[field]
        vectors = head(cast(Any, tokenizer).project(in_space))
        return vectors

    def class_vectors(self, names: Sequence[str] | None = None, tokens: bool = True) -> Tensor:
        """Embed the names of classes.

        Args:
            names: C names; by default those of the classes learnt.
            tokens: Whether the tower has its tokens.

        Returns:
            (C, D) unit vectors.
        """
        names = names or self.target.classes
        modality, rng = self.encoder.fields[self.text_field], np.random.default_rng(0)
        texts = [self.template.format(name.replace("_", " ")) for name in names]
        values = modality.collate(
            [modality.augment(modality.decode(t), "plain", rng) for t in texts]
        )
        column = Column(values, torch.arange(len(texts))).to(
            self.encoder.field_token[self.text_field].device
        )
        batch = Batch.of(len(texts), {self.text_field: column})
        with nullcontext() if tokens else hook_disabled(self.encoder):
            return normalize(self.encoder(batch)[self.text_field].values, dim=1)

    def losses(self, features: NamedClassFeatures) -> dict[str, Tensor]:
        names = self.class_vectors()
        with torch.no_grad():
            before = self.class_vectors(tokens=False)
        supervised, near = {}, {}
        for s in (s for s in self.sources if s in features.class_features):
            z, representation = features.class_features[s], features.representation[s]
            terms = [self.cross_entropy(c, features.label, names) for c in (z, representation)]
            supervised[f"supervised/{s}"] = self.alpha * terms[0] + (1 - self.alpha) * terms[1]
            cosine = negative_cosine(z.flat, features.frozen[s].flat)
            # weight (1 - cos), as `negative_cosine` is 2 - 2 cos
            near[f"near/{s}"] = self.weight / 2 * cosine
        return (
            share(supervised)
            | share(near)
            | {"near/names": self.weight / 2 * negative_cosine(names, before)}
        )

    def cross_entropy(self, z: Column, label: Column, names_CD: Tensor) -> Tensor:
        """Of the rows that have both the field and the label."""
        rows, label_rows = shared_rows(z, label)
        if not len(rows):
            return connected_zero(z.flat, names_CD)
        return cross_entropy(self.logits(z.flat[rows], names_CD), label.flat[label_rows])

    def logits(self, z_ND: Tensor, names_CD: Tensor) -> Tensor:
        """Scaled cosines (N, C) with unit vectors of the class names."""
        return self.scale * normalize(z_ND, dim=1) @ names_CD.T

    def predict(self, batch: Batch) -> Column:
        """Predict the classes learnt.

        Returns:
            (N, C) logarithms of probabilities, the mean over the sources that a row has.
        """
        sources = self.probabilities(batch)
        like = self.encoder.field_token[self.text_field]
        total, count = (
            like.new_zeros(batch.size, len(self.target.classes)),
            like.new_zeros(batch.size),
        )
        for column in sources.values():
            total = total.index_add(0, column.rows, column.values)
            count = count.index_add(0, column.rows, count.new_ones(len(column)))
        rows = count.nonzero().squeeze(1)
        return Column((total[rows] / count[rows, None]).clamp(min=1e-12).log(), rows)

    @torch.no_grad()
    def probabilities(
        self, batch: Batch, names: Sequence[str] | None = None, mixed: bool | None = None
    ) -> dict[str, Column]:
        """Probabilities of classes by each source.

        Args:
            batch: B rows.
            names: C names of classes; by default those learnt.
            mixed: Use representation features too. They help for the classes learnt and for no
                others, so the default is whether `names` is None.

        Returns:
            source -> (N, C).
        """
        z, representation = self.encode(batch)
        vectors, mixed = self.class_vectors(names), names is None if mixed is None else mixed
        columns = {}
        for s in z:
            parts = [self.logits(c[s].flat, vectors).softmax(1) for c in (z, representation)]
            both = self.alpha * parts[0] + (1 - self.alpha) * parts[1] if mixed else parts[0]
            columns[s] = Column(both, z[s].rows)
        return columns
