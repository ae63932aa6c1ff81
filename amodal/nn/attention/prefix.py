"""Keys and values in front of those of the tokens of a row."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from amodal.core.host import host_copy, to_device
from amodal.nn.attention.varlen import Group, Layout


def with_prefix(layout: Layout, key_BPD: Tensor, value_BPD: Tensor) -> Layout:
    """The layout in which all tokens of a row also attend to P keys and values.

    Prefix-tuning, Li and Liang 2021, arXiv:2101.00190. They go neither through the projections of
    keys and values nor through rotary positions, and a causal order does not hide them.

    Args:
        layout: Without a cache.
        key_BPD, value_BPD: (B, P, D), or as wide as the keys where heads share them.

    Raises:
        ValueError: For a layout with a cache.
    """
    if layout.cache is not None:
        raise ValueError(
            "a prefix goes into the cache with the first tokens; it cannot be put before what is "
            "cached"
        )
    assert layout.row is not None  # every layout of `layout_of` has it
    device, row = layout.row.device, host_copy(layout.row)
    count, start, read = key_BPD.shape[1], 0, 0
    key_places = row[:0] if layout.keys is None else host_copy(layout.keys)
    number, keys, groups = torch.arange(count), [row[:0]], []
    for group in layout.groups:
        stop = start + group.rows * group.queries
        mask, bias = group.mask, group.bias
        if group.keys:
            places = key_places[read : read + group.rows * group.keys].view(group.rows, -1)
            read += group.rows * group.keys
        else:
            # it gets keys of its own here, so a causal order has to become a mask
            places = torch.arange(start, stop).view(group.rows, -1)
            if layout.causal and group.queries > 1 and bias is None:
                mask = torch.ones(
                    group.queries, group.queries, dtype=torch.bool, device=device
                ).tril()[None, None]
        if mask is not None:
            mask = torch.cat([mask.new_ones(*mask.shape[:3], count), mask], 3)
        if bias is not None:
            bias = pad(bias, (count, 0))  # a prefix is at no place
        # the row of each run; the prefix of a row lies behind the tokens, P entries a row
        first = row[start : stop : group.queries, None]
        keys.append(torch.cat([len(row) + first * count + number, places], 1).flatten())
        groups.append(Group(group.rows, group.queries, places.shape[1] + count, mask, bias))
        start = stop
    prefix = key_BPD.flatten(0, 1), value_BPD.flatten(0, 1)
    return replace(
        layout, groups=tuple(groups), keys=to_device(torch.cat(keys), device), prefix=prefix
    )
