"""Classes told from the steps of one field in time, each joined by what the other fields say
(arXiv:2404.09010, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core import Column, Tokens, field_of
from amodal.nn.pooling import ClsPool
from amodal.nn.positions import sincos
from amodal.nn.transformer import Transformer
from amodal.nn.trunks import Bags


def steps_of(bag: Tokens) -> Tokens:
    """A token for each moment of each row: the mean of the tokens that stand there (position 0 is
    time). Sources without time have one."""
    moment, number = torch.unique(bag.position[:, 0], return_inverse=True)
    pairs, inverse, count = torch.unique(
        bag.row * max(len(moment), 1) + number, return_inverse=True, return_counts=True
    )
    x = bag.x.new_zeros(len(pairs), bag.x.shape[1]).index_add(0, inverse, bag.x) / count.unsqueeze(
        1
    )
    row, number = pairs // max(len(moment), 1), pairs % max(len(moment), 1)
    position = bag.position.new_zeros(len(pairs), bag.position.shape[1])
    position[:, 0] = moment[number]
    return Tokens(x, row, torch.zeros_like(row), position, bag.names[:1], bag.size)


def segments_of(bag: Tokens, length: float) -> Tokens:
    """A token for each segment of each row that has any token in it, their mean; position 0 is the
    segment's number. length: in the units of the tokens' position in time."""
    position = bag.position.clone()
    position[:, 0] = (bag.position[:, 0] / length).floor()
    return steps_of(Tokens(bag.x, bag.row, bag.source, position, bag.names, bag.size))


class TemporalHead(nn.Module):
    """Each step of the field `lead` plus the mean vector of the other fields, to `hidden`
    dimensions, through a small transformer with a CLS token, from which classes are told. A row
    without the lead has one step, of the others alone."""

    def __init__(
        self,
        fields: Sequence[str],
        lead: str,
        width: int,
        hidden: int,
        depth: int,
        heads: int,
        classes: int,
    ):
        super().__init__()
        self.fields, self.lead = tuple(fields), lead
        self.project, self.cls = nn.Linear(width, hidden), ClsPool(hidden)
        self.trunk, self.head = Transformer(hidden, depth, heads), nn.Linear(hidden, classes)

    def forward(self, bags: Bags) -> Column:
        """(N, classes) of the rows that have any field. bags: finished tokens, of one view of each
        field, without what pooling adds."""
        own = {field_of(s): bag for s, bag in bags.items()}
        first = next(iter(own.values()))
        others, count = (
            first.x.new_zeros(first.size, first.x.shape[1]),
            first.x.new_zeros(first.size, 1),
        )
        for mean in (own[s].pool() for s in self.fields if s != self.lead and s in own):
            others = others.index_add(0, mean.rows, mean.values)
            count = count.index_add(0, mean.rows, count.new_ones(len(mean), 1))
        others = others / count.clamp(min=1)
        lead = own.get(self.lead, first.keep(first.row < 0))
        alone = ((count.squeeze(1) > 0) & (lead.lengths() == 0)).nonzero().squeeze(1)
        blank = first.x.new_zeros(len(alone), first.x.shape[1])
        position = first.position.new_zeros(len(alone), first.position.shape[1])
        steps = Tokens.join(
            [
                steps_of(lead),
                Tokens.of(blank, alone, torch.ones_like(alone), position, lead.names[0], lead.size),
            ]
        )
        x = self.project(steps.x + others[steps.row])
        x = x + sincos(steps.position, x.shape[1]).to(x.dtype)
        told = self.cls(self.trunk(self.cls.prepare(steps.with_x(x))))
        return Column(self.head(told.values), told.rows)


def class_weights(label_N: Tensor, classes: int) -> Tensor:
    """(classes,) N / (K n_c) of the K classes that occur, so that each of these weighs the same; 1
    for others."""
    count = torch.bincount(label_N, minlength=classes).double()
    there = count > 0
    weight = len(label_N) / (there.sum() * count.clamp(min=1))
    return torch.where(there, weight, torch.ones_like(weight))
