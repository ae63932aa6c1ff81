"""Trunks of groups of fields, and a trunk of all fields behind them.

The fusions of MAESTRO, Labatie et al. 2025, arXiv:2508.10894: which fields and which dates see each
other from the first block, and which in the last blocks alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens, field_of, view_of
from amodal.core.host import host_copy, to_device
from amodal.core.part import Part
from amodal.core.tokens import zeros_like
from amodal.nn.attention.cache import KeyValueCache
from amodal.nn.attention.varlen import Layout, MaskRule
from amodal.nn.transformer import BlockHook, Collector, Transformer
from amodal.nn.trunks import ALL, RouterLogitsOf, SourceTokens, TrunkRouting


class ByDate(Transformer):
    """A transformer in which tokens attend to those of their row, field and date alone.

    Args:
        width, depth, heads: See `Transformer`.
        dated: Fields whose first coordinate is a date; all tokens of another one have one date.
    """

    def __init__(self, width: int, depth: int, heads: int, *, dated: Sequence[str]):
        super().__init__(width, depth, heads)
        self.dated = tuple(dated)

    def lay_out(
        self,
        tokens: Tokens,
        mask_rule: MaskRule | None = None,
        *,
        causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Layout:
        """See `Transformer.lay_out`."""
        number, device = date_numbers(tokens, self.dated), tokens.row.device
        # dates of seen and of hidden tokens are not side by side in a decoder
        order = number.argsort(stable=True)
        number = number[order]
        size = int(number[-1]) + 1 if len(number) else 0
        rows = replace(
            tokens.with_x(tokens.x[:, :0]),
            row=to_device(number, device),
            source=zeros_like(tokens.source),
            names=("date",),
            size=size,
        )
        layout = super().lay_out(rows, mask_rule, causal=causal, cache=cache)
        order = to_device(order, device)
        return replace(layout, order=order if layout.order is None else order[layout.order])


def date_numbers(tokens: Tokens, dated: Sequence[str]) -> Tensor:
    """(T,) int64 on the CPU, from 0, ascending by row: the row, field and date of each token.

    Args:
        tokens: Of any sources.
        dated: See `ByDate`.
    """
    names = [field_of(name) for name in tokens.names]
    fields = list(dict.fromkeys(names))
    number = torch.tensor([fields.index(name) for name in names], dtype=torch.int64)
    has_date = torch.tensor([name in dated for name in names], dtype=torch.bool)
    row, source = host_copy(tokens.row), host_copy(tokens.source)
    date = host_copy(tokens.position)[:, 0].double() * has_date[source]
    keys = torch.stack([row.double(), number[source].double(), date], 1)
    pair: Tensor = torch.unique(keys, dim=0, return_inverse=True)[1]
    return pair


class GroupedTrunk(Part):
    """A transformer for each group of fields, and one of all tokens of a row behind them.

    Args:
        groups: Field -> the name of its group.
        together: Whether all fields of a group see each other; else each field is alone, with the
            weights of its group.
        dated: Fields of which each date is alone.
        width, heads: Of attention.
        depth: Blocks of a group's transformer.
        joint_depth: Blocks behind them; 0 for none.
    """

    def __init__(
        self,
        groups: Mapping[str, str],
        width: int,
        depth: int,
        heads: int,
        *,
        together: bool = True,
        dated: Sequence[str] = (),
        joint_depth: int = 0,
    ):
        super().__init__()
        self.groups, self.together, self.dated = dict(groups), together, tuple(dated)
        self.towers = nn.ModuleDict(
            {name: tower(width, depth, heads, dated) for name in group_names(groups)}
        )
        joint = Transformer(width, joint_depth, heads) if joint_depth else None
        self.joint = nn.ModuleDict({} if joint is None else {ALL: joint})
        self.depth = depth

    def routing(self, width: int) -> GroupedRouting:
        """What sends the tokens of all sources through it."""
        return GroupedRouting(self.groups, width, together=self.together, joint=bool(self.joint))


class GroupedRouting(TrunkRouting):
    """Sends tokens through a `GroupedTrunk`.

    Args:
        groups, together: See `GroupedTrunk`.
        width: Of tokens.
        joint: Whether blocks of all tokens follow.
    """

    def __init__(self, groups: Mapping[str, str], width: int, *, together: bool, joint: bool):
        super().__init__("joint", width)
        self.groups, self.together, self.joint = dict(groups), together, joint
        self.behind = TrunkRouting("joint", width)

    @property
    def is_per_source(self) -> bool:
        """See `TrunkRouting.is_per_source`."""
        alone = not self.together or len(set(self.groups.values())) == len(self.groups)
        return alone and not self.joint

    def forward(
        self,
        trunks: nn.ModuleDict,
        tokens: SourceTokens,
        collect: Collector | None = None,
        router_logits: RouterLogitsOf | None = None,
        block_hook: BlockHook | None = None,
        norms: Mapping[str, nn.Module] | None = None,
    ) -> SourceTokens:
        """See `TrunkRouting.forward`. A hook counts the blocks behind the groups after theirs."""
        if any(other is not None for other in (collect, router_logits, norms)):
            raise AmodalError(
                "trunks of groups of fields give their last states alone; take --trunk joint"
            )
        (trunk,) = trunks.values()
        assert isinstance(trunk, GroupedTrunk)
        if block_hook is not None and trunk.dated:
            raise AmodalError(
                "nothing can be put into blocks that see one date at a time; take another fusion"
            )
        out = super().forward(trunk.towers, tokens, block_hook=block_hook)
        if not self.joint:
            return out
        hook = None if block_hook is None else _after(block_hook, trunk.depth)
        whole: SourceTokens = self.behind(trunk.joint, out, block_hook=hook)
        return whole

    def _sequences(
        self, trunks: nn.ModuleDict, tokens: SourceTokens
    ) -> dict[str | None, list[list[str]]]:
        """Group -> lists of sources that form a sequence."""
        served: dict[str | None, dict[object, list[str]]] = {}
        for source in tokens:
            sequence = view_of(source) if self.together else source
            of_group = served.setdefault(self.groups[field_of(source)], {})
            of_group.setdefault(sequence, []).append(source)
        return {group: list(sequences.values()) for group, sequences in served.items()}


def tower(width: int, depth: int, heads: int, dated: Sequence[str] = ()) -> Transformer:
    """The transformer of a group; see `GroupedTrunk`."""
    if dated:
        return ByDate(width, depth, heads, dated=dated)
    return Transformer(width, depth, heads)


def group_names(groups: Mapping[str, str]) -> list[str]:
    """Each group of fields once, in the order of the fields."""
    return list(dict.fromkeys(groups.values()))


def _after(hook: BlockHook, depth: int) -> BlockHook:
    return lambda number, tokens, block: hook(number + depth, tokens, block)
