"""A batch is each of its records alone: what tests of lists of patches and of groups share."""

import torch

from amodal.core import Batch, Column


def doubled(modality, values):
    """A batch of values in double precision."""
    ragged = modality.collate(values)
    return type(ragged)(ragged.flat.double(), ragged.lengths)


def assert_alone(drawn, model):
    """The features of a batch are those of each record alone, to 1e-5.

    Args:
        drawn: a batch, and (field, row) -> the decoded value.
        model: an encoder of these fields.
    """
    batch, values = drawn
    with torch.no_grad():
        whole = model.features(batch).columns
        for row in range(batch.size):
            have = {f: values[f, row] for f in model.fields if (f, row) in values}
            alone = {
                f: Column(
                    doubled(m, [have[f]] if f in have else []), torch.zeros(int(f in have)).long()
                )
                for f, m in model.fields.items()
            }
            single = model.features(Batch.of(1, alone)).columns
            for source, column in whole.items():
                mine = column.values[column.rows == row]
                torch.testing.assert_close(mine, single[source].values, atol=1e-5, rtol=1e-5)
