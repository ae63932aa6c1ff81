"""What most papers share: towers with objectives, a masked encoder with a decoder, a student with a
teacher."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, Tokens, field_of, name_code, unknown
from amodal.core.host import host_copy, take
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.methods.contract import Clock, Features, Method
from amodal.nn.encoder import Encoder
from amodal.nn.generation.mask_decoder import MaskDecoder
from amodal.nn.multi_vector import token_column as token_column
from amodal.nn.scale import Scale

Objective = Callable[[Embeddings], dict[str, Tensor]]


def field_pairs(z: Embeddings, anchor: str | None = None) -> list[tuple[str, str]]:
    """Every two sources of different fields, or those with the field `anchor` among them, which
    then stands first; of several views of a field, the first stands for it."""
    first = {field_of(s): s for s in reversed(z.sources)}
    fields = [s for s in z.sources if first[field_of(s)] == s]
    if not anchor:
        return list(itertools.combinations(fields, 2))
    if anchor not in first:
        raise unknown("field to anchor to", anchor, first)
    return [(first[anchor], s) for s in fields if s != first[anchor]]


def view_pairs(z: Embeddings) -> list[tuple[str, str]]:
    """Every two views of the same field."""
    return [(a, b) for a, b in itertools.combinations(z.sources, 2) if field_of(a) == field_of(b)]


def two_fields(encoder: Encoder) -> Encoder:
    """The encoder, if it has two fields to compare."""
    if len(encoder.fields) < 2:
        raise AmodalError(
            f"this method compares fields, and there is only {', '.join(encoder.fields)}. Take a method that learns from one, "
            "such as simclr, mae, dino or data2vec, or give records with a second field."
        )
    return encoder


def share(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Terms of one kind, weighted so that their sum is their mean, however many fields there are."""
    return {name: term / len(terms) for name, term in terms.items()}


class Towers(Method):
    """One vector for each source, then losses between vectors.

    objective: Embeddings -> named losses. heads: field -> a projector that only training needs, run
    on the whole batch. learned: a module whose parameters the objective uses (a temperature).
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        *,
        views: tuple[str, ...] = ("weak",),
        heads: Mapping[str, nn.Module] | None = None,
        learned: nn.Module | None = None,
    ):
        super().__init__()
        self.encoder, self.objective, self.views, self.learned = encoder, objective, views, learned
        self.heads = nn.ModuleDict(heads or {})

    def features(self, batch: Batch) -> Features:
        return self.encoder(batch)

    def losses(self, features: Features) -> dict[str, Tensor]:
        return self.objective(self.project(features))

    def logit_scale(self) -> Scale | None:
        return self.learned if isinstance(self.learned, Scale) and not self.heads else None

    def project(self, features: Features) -> Embeddings:
        if not self.heads:
            return features
        columns = {
            s: Column(self.heads[field_of(s)](features[s].values), features[s].rows)
            for s in features
            if field_of(s) in self.heads
        }
        return Embeddings(columns, features.size)


def row_losses(loss_T: Tensor, hidden: Tokens) -> Column:
    """Losses of hidden tokens -> for each row that has any, (N, 2): their sum and their number.
    `token_mean` ends it."""
    loss_T = loss_T.to(torch.promote_types(loss_T.dtype, torch.float32))
    both = torch.stack([loss_T, torch.ones_like(loss_T)], 1)
    total = both.new_zeros(hidden.size, 2).index_add(0, hidden.row, both)
    rows = hidden.rows()
    return Column(total[rows], rows)


def token_mean(column: Column) -> Tensor:
    """The mean loss of all hidden tokens of a batch, by whichever ranks and micro-batches they
    came."""
    total, count = column.values.sum(0)
    return total / count.detach().clamp(min=1)


class MaskedAutoencoder(Method):
    """The encoder sees the visible tokens only; a light decoder predicts the hidden ones (He et al.
    2022).

    ratio: share of tokens hidden. together: draw the mask over all tokens of a row, so that a field
    is at times hidden whole and must be told from the others; else field by field.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        ratio: float,
        together: bool,
        width: int,
        depth: int,
        heads: int,
        views: tuple[str, ...] = ("weak",),
    ):
        super().__init__()
        self.encoder, self.ratio, self.together, self.views = encoder, ratio, together, views
        self.decoder = MaskDecoder(
            list(encoder.fields), encoder.width, width=width, depth=depth, heads=heads
        )
        self.predictors = nn.ModuleDict({f: m.predictor(width) for f, m in encoder.fields.items()})
        refuse_backbones(encoder)
        refuse_pool(encoder)

    def features(self, batch: Batch) -> Features:
        bags = self.encoder.tokenize(batch)
        keep = self.visible(bags, batch.seeds)
        context = self.encoder.encode({s: bag.keep(keep[s]) for s, bag in bags.items()})
        hidden = {s: bag.keep(~keep[s]) for s, bag in bags.items()}
        decoded = self.decoder([context[s] for s in bags], list(hidden.values()))
        columns = {}
        for (source, bag), filled in zip(hidden.items(), decoded):
            field = field_of(source)
            target = take(self.encoder.fields[field].targets(batch[source].values), ~keep[source])
            loss_T = self.encoder.fields[field].token_loss(self.predictors[field](filled.x), target)
            columns[source] = row_losses(loss_T, bag)
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        return share({f"reconstruct/{s}": token_mean(features[s]) for s in features})

    def visible(self, bags: dict[str, Tokens], seeds: Tensor) -> dict[str, Tensor]:
        """source -> (T,) bool, on the CPU: which tokens the encoder sees."""
        bags, seeds = {s: bag.skeleton() for s, bag in bags.items()}, host_copy(seeds)
        if not self.together:
            return {
                s: random_keep(b.row, hash_bits(seeds, name_code(s))[b.row], b.within(), self.ratio)
                for s, b in bags.items()
            }
        # number the tokens of a row through all its fields, so that one draw serves them all
        before = torch.stack([b.lengths() for b in bags.values()]).cumsum(0)
        order = torch.cat(
            [b.within() + (before[i] - b.lengths())[b.row] for i, b in enumerate(bags.values())]
        )
        row = torch.cat([b.row for b in bags.values()])
        keep = random_keep(row, seeds[row], order, self.ratio)
        return dict(zip(bags, keep.split([len(b) for b in bags.values()])))


def refuse_backbones(encoder: Encoder) -> None:
    """Tokens that have already seen each other give the hidden ones away."""
    given = [f for f in encoder.fields if encoder.contextual(f)]
    if given:
        raise AmodalError(
            f"the fields {', '.join(given)} come from pretrained backbones whose tokens have seen each other, so hiding some of them "
            "hides nothing. Use a contrastive method, or leave the backbone out."
        )


def refuse_pool(encoder: Encoder) -> None:
    """A pooling with parameters that no loss reaches would put a random map between the tokens and
    every embedding."""
    if encoder.pool_name in ("attention", "vector"):
        raise AmodalError(
            f'this method trains tokens and not their pooling, so pool="{encoder.pool_name}" would stay random; take "mean" or "cls"'
        )


class StudentTeacher(Method):
    """A student learns from a slow copy of itself. momentum, final_momentum: the copy's weight, by
    half a cosine in between."""

    def __init__(
        self, encoder: Encoder, *, momentum: float, final_momentum: float, views: tuple[str, ...]
    ):
        super().__init__()
        self.encoder, self.views = encoder, views
        self.momentum, self.final_momentum = momentum, final_momentum
        self.teacher = frozen_copy(encoder)

    def momentum_at(self, clock: Clock) -> float:
        share = (1 + math.cos(math.pi * clock.progress)) / 2
        return self.final_momentum - (self.final_momentum - self.momentum) * share

    def on_step_end(self, clock: Clock) -> None:
        follow(self.teacher, self.encoder, self.momentum_at(clock))


def frozen_copy(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """slow <- momentum * slow + (1 - momentum) * fast, in fused calls; buffers are copied."""
    pairs = list(zip(slow.parameters(), fast.parameters()))
    for sharded in (False, True):  # one fused call cannot mix sharded parameters with whole ones
        some = [(a.data, b.data) for a, b in pairs if hasattr(a, "device_mesh") is sharded]
        if some:
            torch._foreach_lerp_(*map(list, zip(*some)), 1 - momentum)
    for a, b in zip(slow.buffers(), fast.buffers()):
        a.copy_(b)
