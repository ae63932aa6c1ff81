import torch

from amodal.core import Column, Embeddings, Ragged
from amodal.train.step import full_precision


def test_features_in_half_precision_reach_losses_in_float32_also_for_multi_vectors():
    rows = torch.arange(2)
    half = Embeddings(
        {
            "image": Column(torch.ones(2, 3, dtype=torch.bfloat16), rows),
            "words": Column(
                Ragged(torch.ones(5, 3, dtype=torch.bfloat16), torch.tensor([2, 3])), rows
            ),
            "exact": Column(torch.ones(2, 3, dtype=torch.float64), rows),
        },
        2,
    )
    found = full_precision(half)
    assert found["image"].values.dtype == found["words"].values.flat.dtype == torch.float32
    assert (
        found["words"].values.lengths.tolist() == [2, 3]
        and found["exact"].values.dtype == torch.float64
    )
