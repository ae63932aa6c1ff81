"""Classes predicted from the steps of one field in time, each joined by the other fields.

arXiv:2404.09010, section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amodal.core import Column, Tokens, field_of
from amodal.nn.pooling import ClsPool
from amodal.nn.positions import sincos
from amodal.nn.transformer import Transformer
from amodal.nn.trunks import SourceTokens


def steps_of(tokens: Tokens) -> Tokens:
    """A token for each moment of each row: the mean of the tokens there.

    Position 0 is time. Sources without time have one moment.
    """
    # moments as numbers, so that (row, moment) is one number whose order is that of rows and time
    moment, number = torch.unique(tokens.position[:, 0], return_inverse=True)
    pairs, inverse, count = torch.unique(
        tokens.row * max(len(moment), 1) + number, return_inverse=True, return_counts=True
    )
    x = tokens.x.new_zeros(len(pairs), tokens.x.shape[1]).index_add(
        0, inverse, tokens.x
    ) / count.unsqueeze(1)
    row, number = pairs // max(len(moment), 1), pairs % max(len(moment), 1)
    position = tokens.position.new_zeros(len(pairs), tokens.position.shape[1])
    position[:, 0] = moment[number]
    return Tokens(x, row, torch.zeros_like(row), position, tokens.names[:1], tokens.size)


def segments_of(tokens: Tokens, length: float) -> Tokens:
    """A token for each segment of each row that has any token in it: their mean.

    Args:
        tokens: Of one source.
        length: Of a segment, in the units of the tokens' position in time.

    Returns:
        Tokens whose position 0 is the number of the segment.
    """
    position = tokens.position.clone()
    position[:, 0] = (tokens.position[:, 0] / length).floor()
    return steps_of(
        Tokens(tokens.x, tokens.row, tokens.source, position, tokens.names, tokens.size)
    )


class TemporalHead(nn.Module):
    """A small transformer with a class token over the steps of a field.

    A step is the field's token there plus the mean vector of the other fields. A row without the
    field has one step, of the others alone.

    Args:
        fields: The fields.
        lead: The one whose steps are read.
        width: D of the tokens.
        hidden, depth, heads: Of the transformer.
        classes: Outputs.
    """

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

    def forward(self, tokens: SourceTokens) -> Column:
        """Logits of the rows that have any field.

        Args:
            tokens: Source -> tokens after the trunk, of one view of each field, without what
                pooling adds.

        Returns:
            (N, classes).
        """
        by_field = {field_of(s): part for s, part in tokens.items()}
        first = next(iter(by_field.values()))
        others, count = (
            first.x.new_zeros(first.size, first.x.shape[1]),
            first.x.new_zeros(first.size, 1),
        )
        for mean in (by_field[s].pool() for s in self.fields if s != self.lead and s in by_field):
            others = others.index_add(0, mean.rows, mean.flat)
            count = count.index_add(0, mean.rows, count.new_ones(len(mean), 1))
        others = others / count.clamp(min=1)
        lead = by_field.get(self.lead, first.keep(first.row < 0))
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
        pooled = self.cls(self.trunk(self.cls.prepare(steps.with_x(x))))
        return Column(self.head(pooled.flat), pooled.rows)


def class_weights(label_N: Tensor, classes: int) -> Tensor:
    """Weights with which each class that occurs counts the same.

    Returns:
        (classes,) N / (K n_c) for K classes that occur, 1 for the others.
    """
    count = torch.bincount(label_N, minlength=classes).double()
    occurs = count > 0
    weight = len(label_N) / (occurs.sum() * count.clamp(min=1))
    return torch.where(occurs, weight, torch.ones_like(weight))
