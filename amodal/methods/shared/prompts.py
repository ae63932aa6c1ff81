"""Attributes of a record as a prompt, a token for each: shown, left blank, or masked to be told
from another field."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Tokens, name_code
from amodal.masking.hashing import uniform
from amodal.methods.shared.shapes import token_column
from amodal.modalities.shared.tokenizers.table import group_columns
from amodal.modalities.table import Table
from amodal.nn.encoder import Encoder


def attribute_vectors(table: Table, values_NC: Tensor) -> tuple[Tensor, Tensor]:
    """(N, A) numbers in deviations from their mean and categories as 0 and 1, column after column,
    zero where a cell is missing; and (N, A) bool, which entries are known. A category that the
    table does not list has an entry of its own."""
    standard, parts, known = table.standardised(values_NC), [], []
    for c, size in enumerate(table.num_codes()):
        there = ~values_NC[:, c].isnan()
        code = values_NC[:, c].nan_to_num().long().clamp(0, max(size - 1, 0))
        one = (
            nn.functional.one_hot(code, size).to(standard.dtype)
            if size
            else standard[:, c, None].nan_to_num()
        )
        parts.append(one * there[:, None])
        known.append(there[:, None].expand_as(one))
    return torch.cat(parts, 1), torch.cat(known, 1)


@dataclass(frozen=True)
class Prompt:
    """words: a list of tokens for each of the B rows; hidden: (B,) number of the masked token in
    its list, -1 in a template."""

    words: Column
    hidden: Tensor

    def masked(self, rows: Tensor) -> Tensor:
        """(tokens of `rows`,) bool: which of them are masked."""
        lengths = self.words.values.lengths[rows]
        within = torch.arange(int(lengths.sum()), device=rows.device) - torch.repeat_interleave(
            lengths.cumsum(0) - lengths, lengths
        )
        return within == torch.repeat_interleave(self.hidden[rows], lengths)


class AttributePrompts(nn.Module):
    """DUET (arXiv:2207.01328): a row either gets the template, in which every attribute is blank,
    or its own attributes, of which one is masked, rare values rather than common ones, and each
    other is left blank with probability `miss`."""

    def __init__(self, encoder: Encoder, field: str, *, chance: float, miss: float):
        super().__init__()
        self.field, self.chance, self.miss = field, chance, miss
        table = encoder.fields[field]
        self.slots = -(-len(table.columns) // table.patch)
        self.mask, self.blank = (nn.Parameter(torch.randn(encoder.width) * 0.02) for _ in range(2))
        self.predictor = table.predictor(encoder.width)
        self.register_buffer("count", torch.ones(sum(max(size, 1) for size in table.num_codes())))

    def forward(self, encoder: Encoder, batch: Batch) -> Prompt:
        content = encoder.patchify(batch.only(self.field))[self.field]
        asked = (uniform(batch.seeds, name_code("coin")) < self.chance) & (content.lengths() > 0)
        hidden = self.choose(encoder.fields[self.field], batch, content).masked_fill(~asked, -1)
        own = content.keep(asked[content.row])
        luck, number = uniform(batch.seeds[own.row], own.within(), name_code("miss")), own.within()
        x_TD = torch.where((luck < self.miss)[:, None], self.blank.to(own.x.dtype), own.x)
        x_TD = torch.where((number == hidden[own.row])[:, None], self.mask.to(own.x.dtype), x_TD)
        rows = (~asked).nonzero().squeeze(1)
        place = (
            torch.arange(self.slots, device=rows.device).repeat(len(rows)).to(own.position.dtype)
        )
        template = Tokens.of(
            self.blank.to(own.x.dtype).expand(len(place), -1),
            rows,
            torch.full_like(rows, self.slots),
            nn.functional.pad(place[:, None], (0, own.position.shape[1] - 1)),
            self.field,
            batch.size,
        )
        bag = Tokens.join([own.with_x(x_TD), template])
        read = encoder.encode({self.field: encoder.add_positions(bag)})[self.field]
        return Prompt(token_column(encoder.pools[self.field].strip(read)), hidden)

    def choose(self, table: Table, batch: Batch, content: Tokens) -> Tensor:
        """(B,) number of a token of each row, drawn with probability ~ 1 / how often its value was
        seen."""
        values = batch[self.field].values
        _, share = self.presence(table, values)
        weight_NG = group_columns(share, table.patch, 0.0).amax(2)
        weight_T = weight_NG[group_columns(~values.isnan(), table.patch, False).any(2)]
        luck = (
            uniform(batch.seeds[content.row], content.within(), name_code("which")).double()
            + 2.0**-25
        )
        score_T = weight_T.double().clamp(min=1e-12).log() - (-luck.log()).log()
        best = score_T.new_full((batch.size,), -torch.inf).scatter_reduce(
            0, content.row, score_T, "amax"
        )
        first = torch.where(score_T == best[content.row], content.within(), self.slots)
        none = torch.full((batch.size,), self.slots, device=first.device)
        return none.scatter_reduce(0, content.row, first, "amin")

    def presence(self, table: Table, values_NC: Tensor) -> tuple[Tensor, Tensor]:
        """(N, A) which values a record has (a number counts as one), and (N, C) one over how often
        that of each column was seen. Numbers are hardly ever shared, so they count as common: one
        is masked only where a row has no category."""
        x_NA, known_NA = attribute_vectors(table, values_NC)
        sizes = torch.tensor(table.num_codes(), device=x_NA.device)
        owner = torch.repeat_interleave(
            torch.arange(len(sizes), device=x_NA.device), sizes.clamp(min=1)
        )
        has = torch.where((sizes > 0)[owner], x_NA, known_NA.to(x_NA.dtype))
        rare = has / self.count.to(has.dtype) * torch.where((sizes > 0)[owner], 1.0, 1e-6)
        return has, rare.new_zeros(len(has), len(sizes)).index_add(1, owner, rare)

    def about(self, encoder: Encoder, batch: Batch, prompt: Prompt) -> dict[str, Tensor]:
        """Of the rows that have attributes: `attributes`, `known` and `has`, (N, A) each, and
        `value`, what is masked."""
        table, values = encoder.fields[self.field], batch[self.field].values
        x_NA, known_NA = attribute_vectors(table, values)
        cells, hidden = (
            group_columns(values, table.patch, torch.nan),
            prompt.hidden[batch[self.field].rows],
        )
        value = cells[
            torch.arange(len(cells), device=cells.device), hidden.clamp(min=0)
        ].nan_to_num(-1.0)
        has = self.presence(table, values)[0]
        return {"attributes": x_NA, "known": known_NA.to(x_NA.dtype), "has": has, "value": value}

    def told(
        self, encoder: Encoder, prompt: Prompt, batch: Batch, read_tD: Tensor, rows: Tensor
    ) -> Column:
        """(n, 2) sums and numbers of the losses of masked tokens. read_tD: what they became, of the
        rows among `rows` that have one."""
        content = encoder.patchify(batch.only(self.field))[self.field]
        target_T = encoder.fields[self.field].targets(batch[self.field].values)
        wanted = torch.isin(content.row, rows) & (content.within() == prompt.hidden[content.row])
        loss = encoder.fields[self.field].token_loss(self.predictor(read_tD), target_T[wanted])
        return Column(torch.stack([loss, torch.ones_like(loss)], 1), content.row[wanted])
