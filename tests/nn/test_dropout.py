import pytest
import torch

from amodal.masking.hashing import uniform
from amodal.nn.dropout import seeded_dropout


def test_each_entry_is_dropped_by_its_own_draw():
    x, seeds = torch.randn(4, 6, dtype=torch.float64), torch.tensor([5, -3, 9, 2])
    found = seeded_dropout(x, seeds, 0.3, stream=7)
    for i in range(4):
        for j in range(6):
            survives = float(uniform(seeds[i : i + 1], 7, torch.tensor([j]))) >= 0.3
            assert float(found[i, j]) == pytest.approx(float(x[i, j]) / 0.7 if survives else 0)


def test_shares_and_means_are_right_and_streams_apart():
    x, seeds = torch.ones(400, 100), torch.arange(400)
    one, other = (seeded_dropout(x, seeds, 0.25, stream) for stream in (0, 1))
    assert float((one == 0).float().mean()) == pytest.approx(0.25, abs=0.01) and float(
        one.mean()
    ) == pytest.approx(1, abs=0.02)
    assert float(((one == 0) & (other == 0)).float().mean()) == pytest.approx(0.0625, abs=0.01)
    # neither rows nor columns fall out together
    assert (
        float((one == 0).float().mean(0).std()) < 0.05
        and float((one == 0).float().mean(1).std()) < 0.06
    )


def test_a_row_is_dropped_the_same_wherever_it_stands():
    x, seeds = torch.randn(5, 8), torch.arange(5)
    whole = seeded_dropout(x, seeds, 0.5)
    assert torch.equal(whole[2:4], seeded_dropout(x[2:4], seeds[2:4], 0.5))
    assert torch.equal(seeded_dropout(x, seeds, 0.0), x)
    with pytest.raises(ValueError, match="below 1"):
        seeded_dropout(x, seeds, 1.0)
