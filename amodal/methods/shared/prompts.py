"""Attributes of a record as a prompt, a token for each: shown, left blank, or masked and predicted
from another field."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Tokens, name_code
from amodal.masking.hashing import uniform
from amodal.methods.shared.shapes import ragged, token_column
from amodal.methods.shared.typed_parts import field_pool, table_modality
from amodal.modalities.shared.tokenizers.table import group_columns
from amodal.modalities.table import Table
from amodal.nn.encoder import Encoder


def attribute_vectors(table: Table, values_NC: Tensor) -> tuple[Tensor, Tensor]:
    """Encode the cells of a table as numbers.

    Args:
        table: Knows its columns.
        values_NC: Cells, NaN where missing.

    Returns:
        (N, A), column after column: numbers in deviations from their mean and categories as one-hot
        vectors, zero where a cell is missing; and (N, A) bool, which entries are known. A category
        that the table does not list has an entry of its own.
    """
    standard, parts, known = table.standardised(values_NC), [], []
    for c, size in enumerate(table.num_codes()):
        known_N = ~values_NC[:, c].isnan()
        code = values_NC[:, c].nan_to_num().long().clamp(0, max(size - 1, 0))
        one = (
            nn.functional.one_hot(code, size).to(standard.dtype)
            if size
            else standard[:, c, None].nan_to_num()
        )
        parts.append(one * known_N[:, None])
        known.append(known_N[:, None].expand_as(one))
    return torch.cat(parts, 1), torch.cat(known, 1)


@dataclass(frozen=True)
class Prompt:
    """Prompts of B rows.

    Args:
        words: A list of tokens for each row.
        hidden: (B,) number of the masked token in its list, -1 in a template.
    """

    words: Column
    hidden: Tensor

    def masked(self, rows: Tensor) -> Tensor:
        """Whether each token of some rows is masked (T,) bool."""
        lengths = ragged(self.words).lengths[rows]
        within = torch.arange(int(lengths.sum()), device=rows.device) - torch.repeat_interleave(
            lengths.cumsum(0) - lengths, lengths
        )
        return within == torch.repeat_interleave(self.hidden[rows], lengths)


class AttributePrompts(nn.Module):
    """Prompts of DUET (arXiv:2207.01328).

    A row gets either the template, in which every attribute is blank, or its own attributes. Of
    these one is masked, rare values rather than common ones, and each other is left blank with
    probability `miss`.

    Args:
        encoder: Of the fields.
        field: The table of attributes.
        chance: Probability of a row's own attributes.
        miss: Probability that an attribute is left blank.
    """

    count: Tensor

    def __init__(self, encoder: Encoder, field: str, *, chance: float, miss: float):
        super().__init__()
        self.field, self.chance, self.miss = field, chance, miss
        table = table_modality(encoder, field)
        self.slots = -(-len(table.columns) // table.patch)
        self.mask, self.blank = (nn.Parameter(torch.randn(encoder.width) * 0.02) for _ in range(2))
        self.predictor = table.predictor(encoder.width)
        self.register_buffer("count", torch.ones(sum(max(size, 1) for size in table.num_codes())))

    def forward(self, encoder: Encoder, batch: Batch) -> Prompt:
        content = encoder.patchify(batch.only(self.field))[self.field]
        asked = (uniform(batch.seeds, name_code("coin")) < self.chance) & (content.lengths() > 0)
        hidden = self.choose(table_modality(encoder, self.field), batch, content)
        hidden = hidden.masked_fill(~asked, -1)
        shown = content.keep(asked[content.row])
        number, dtype = shown.within(), shown.x.dtype
        draw = uniform(batch.seeds[shown.row], number, name_code("miss"))
        x_TD = torch.where((draw < self.miss)[:, None], self.blank.to(dtype), shown.x)
        x_TD = torch.where((number == hidden[shown.row])[:, None], self.mask.to(dtype), x_TD)
        rows = (~asked).nonzero().squeeze(1)
        position = torch.arange(self.slots, device=rows.device).repeat(len(rows))
        position = position.to(shown.position.dtype)
        template = Tokens.of(
            self.blank.to(dtype).expand(len(position), -1),
            rows,
            torch.full_like(rows, self.slots),
            nn.functional.pad(position[:, None], (0, shown.position.shape[1] - 1)),
            self.field,
            batch.size,
        )
        prompts = Tokens.join([shown.with_x(x_TD), template])
        read = encoder.encode({self.field: encoder.add_positions(prompts)})[self.field]
        return Prompt(token_column(field_pool(encoder, self.field).strip(read)), hidden)

    def choose(self, table: Table, batch: Batch, content: Tokens) -> Tensor:
        """Draw a token of each row, with probability inverse to how often its value was seen.

        Returns:
            (B,) its number in the row.
        """
        values = batch[self.field].flat
        _, share = self.presence(table, values)
        weight_NG = group_columns(share, table.patch, 0.0).amax(2)
        weight_T = weight_NG[group_columns(~values.isnan(), table.patch, False).any(2)]
        # the largest of log weight + Gumbel noise is a draw by weight; the middles of cells of
        # `uniform`, so that no logarithm is infinite
        luck = (
            uniform(batch.seeds[content.row], content.within(), name_code("which")).double()
            + 2.0**-25
        )
        score_T = weight_T.double().clamp(min=1e-12).log() - (-luck.log()).log()
        # the token with the highest score of each row, the first of equals
        best = score_T.new_full((batch.size,), -torch.inf).scatter_reduce(
            0, content.row, score_T, "amax"
        )
        first = torch.where(score_T == best[content.row], content.within(), self.slots)
        none = torch.full((batch.size,), self.slots, device=first.device)
        return none.scatter_reduce(0, content.row, first, "amin")

    def presence(self, table: Table, values_NC: Tensor) -> tuple[Tensor, Tensor]:
        """The values of records, and how rare they are.

        Numbers are hardly ever shared, so they count as common: one is masked only where a row has
        no category.

        Returns:
            (N, A) 1 for each value that a record has (any number is one value), and (N, C) for each
            column 1 over how often its value was seen.
        """
        x_NA, known_NA = attribute_vectors(table, values_NC)
        num_codes = torch.tensor(table.num_codes(), device=x_NA.device)
        owner = torch.repeat_interleave(
            torch.arange(len(num_codes), device=x_NA.device), num_codes.clamp(min=1)
        )
        has = torch.where((num_codes > 0)[owner], x_NA, known_NA.to(x_NA.dtype))
        rare = has / self.count.to(has.dtype) * torch.where((num_codes > 0)[owner], 1.0, 1e-6)
        return has, rare.new_zeros(len(has), len(num_codes)).index_add(1, owner, rare)

    def about(self, encoder: Encoder, batch: Batch, prompt: Prompt) -> dict[str, Tensor]:
        """Targets of the rows that have attributes.

        Returns:
            `attributes` and `known` (of `attribute_vectors`), `has` (of `presence`), (N, A) each;
            `group` (N,), the group of columns of the masked token, -1 in a template; and `value`,
            its cells.
        """
        table, values = table_modality(encoder, self.field), batch[self.field].flat
        x_NA, known_NA = attribute_vectors(table, values)
        hidden_N1 = prompt.hidden[batch[self.field].rows][:, None]
        # the number of a token counts only cells that exist, which differ from record to record;
        # the first group of columns with that number is the one that exists
        number_NG = table.tokens_of(values).cumsum(1) - 1
        group = (number_NG == hidden_N1).long().argmax(1)
        cells = group_columns(values, table.patch, torch.nan)
        value = cells[torch.arange(len(cells), device=cells.device), group].nan_to_num(-1.0)
        return {
            "attributes": x_NA,
            "known": known_NA.to(x_NA.dtype),
            "has": self.presence(table, values)[0],
            "group": group.masked_fill(hidden_N1[:, 0] < 0, -1),
            "value": value,
        }

    def masked_losses(
        self, encoder: Encoder, prompt: Prompt, batch: Batch, read_tD: Tensor, rows: Tensor
    ) -> Column:
        """The losses of masked tokens.

        Args:
            encoder: Of the fields.
            prompt: Knows what is masked.
            batch: B rows.
            read_tD: The masked tokens after cross-attention, of those of `rows` that have one.
            rows: Rows of the batch.

        Returns:
            (n, 2): sums of losses and their numbers.
        """
        content = encoder.patchify(batch.only(self.field))[self.field]
        target_T = encoder.fields[self.field].targets(batch[self.field].values)
        wanted = torch.isin(content.row, rows) & (content.within() == prompt.hidden[content.row])
        loss = encoder.fields[self.field].token_loss(self.predictor(read_tD), target_T[wanted])
        return Column(torch.stack([loss, torch.ones_like(loss)], 1), content.row[wanted])
