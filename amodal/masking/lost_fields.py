"""Take a field away from a share of records, the same ones in every epoch.

The protocol of Lee et al., CVPR 2023, arXiv:2303.03369, section 4.1: which records lack what is
drawn once for a data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from amodal.core import Batch, field_of, name_code
from amodal.core.batch import row_seeds
from amodal.core.host import to_device
from amodal.masking.hashing import uniform

_SALT = name_code("lost_fields")


def lose_fields(batch: Batch, share: float, fields: Sequence[str] = ()) -> Batch:
    """The batch without one field of some records.

    What a record loses is a function of its key alone. Records that lack a field already lose
    nothing more.

    Args:
        batch: B rows.
        share: Of the complete records that lose a field, 0 to 1.
        fields: Of which one is lost, all as often; by default all of the batch.
    """
    if not share:
        return batch
    fields = fields or list(dict.fromkeys(field_of(s) for s in batch.sources))
    seeds = to_device(row_seeds(batch.keys), batch.seeds.device)
    loses = batch.present().all(1) & (uniform(seeds, _SALT) < share)
    which = (uniform(seeds, _SALT, 1) * len(fields)).long()
    columns = {}
    for source, column in batch.columns.items():
        field = field_of(source)
        stays = torch.ones_like(loses)
        if field in fields:
            stays = ~(loses & (which == list(fields).index(field)))
        columns[source] = column.at(stays[column.rows])
    return replace(batch, columns=columns)
