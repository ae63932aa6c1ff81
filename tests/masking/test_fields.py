import pytest
import torch

from amodal.core import AmodalError
from amodal.masking.modality_dropout import drop_modalities

SEEDS = torch.arange(4000) * 7919


def present(*shares):
    g = torch.Generator().manual_seed(0)
    return {f"s{i}": torch.rand(4000, generator=g) < share for i, share in enumerate(shares)}


def test_nothing_appears_that_was_not_there_and_no_row_loses_all():
    there = present(0.9, 0.5, 0.2)
    any_there = torch.stack(list(there.values())).any(0)
    for rate in (0.0, 0.4, 1.0):
        present_after = drop_modalities(there, SEEDS, rate)
        assert all(bool((there[s] | ~present_after[s]).all()) for s in there)
        assert torch.equal(torch.stack(list(present_after.values())).any(0), any_there)
    assert all(
        torch.equal(a, b)
        for a, b in zip(drop_modalities(there, SEEDS, 0.0).values(), there.values())
    )
    assert int(torch.stack(list(drop_modalities(there, SEEDS, 1.0).values())).sum(0).max()) == 1


def test_each_field_goes_as_often_as_asked():
    """Of two fields that are there, one goes by the rate less half of the chance that both would
    (then one of them stays)."""
    present_after = drop_modalities(present(1.1, 1.1), SEEDS, 0.4)
    for k in present_after.values():
        assert abs((~k).float().mean().item() - (0.4 - 0.16 / 2)) < 0.03


def test_the_draw_is_of_the_row_and_not_of_its_place():
    there, order = (
        present(0.8, 0.8),
        torch.randperm(4000, generator=torch.Generator().manual_seed(1)),
    )
    present_after = drop_modalities(there, SEEDS, 0.5)
    rebuilt = drop_modalities({s: t[order] for s, t in there.items()}, SEEDS[order], 0.5)
    assert all(torch.equal(present_after[s][order], rebuilt[s]) for s in there)


def test_a_rate_is_a_chance():
    with pytest.raises(AmodalError, match="from 0 to 1"):
        drop_modalities(present(1.0), SEEDS, 1.5)
