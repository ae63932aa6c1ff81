"""PatchDisc against its formula, record by record."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from amodal.objectives.patch_disc import patch_disc

LENGTHS = torch.tensor([3, 0, 1, 7, 2])


def drawn(seed=0, width=5):
    generator = torch.Generator().manual_seed(seed)
    shape = int(LENGTHS.sum()), width
    return [torch.randn(*shape, generator=generator).double().requires_grad_() for _ in range(2)]


def naive(prediction, target, temperature):
    losses, start = [], 0
    for length in LENGTHS.tolist():
        for i in range(start, start + length):
            scores = [
                cosine_similarity(prediction[i], target[j], dim=0) / temperature
                for j in range(start, start + length)
            ]
            losses.append(2 * temperature * (torch.stack(scores).logsumexp(0) - scores[i - start]))
        start += length
    return torch.stack(losses)


@pytest.mark.parametrize("tile", [1, 2, 4, 5, 13, 100])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_a_tile_at_a_time(tile, temperature):
    prediction, target = drawn()
    made = patch_disc(prediction, target, LENGTHS, temperature=temperature, tile=tile)
    expected = naive(prediction, target, temperature)
    torch.testing.assert_close(made, expected)
    weight = torch.arange(1.0, len(made) + 1).double()
    slopes = [
        torch.autograd.grad((loss * weight).sum(), [prediction, target])
        for loss in (made, expected)
    ]
    for a, b in zip(*slopes):
        torch.testing.assert_close(a, b)


def test_targets_of_other_records_do_not_count():
    prediction, target = drawn()
    other = target.detach().clone()
    other[4:11] += 1  # the record of seven
    made, moved = (patch_disc(prediction, t, LENGTHS) for t in (target, other))
    same = torch.tensor([*range(4), 11, 12])
    assert torch.equal(made[same], moved[same]) and not torch.allclose(made, moved)


def test_a_token_alone_has_nothing_to_be_mistaken_for():
    prediction, target = drawn()
    assert patch_disc(prediction, target, LENGTHS)[3] == 0


def test_lengths_of_vectors_do_not_count():
    prediction, target = drawn()
    a, b = (
        patch_disc(p, t, LENGTHS) for p, t in ((prediction, target), (prediction * 3, target * 5))
    )
    torch.testing.assert_close(a, b)


def test_no_token_is_part_of_the_graph():
    empty = torch.zeros(0, 4, requires_grad=True)
    loss = patch_disc(empty, empty, torch.zeros(2, dtype=torch.int64))
    assert loss.shape == (0,) and loss.requires_grad


@pytest.mark.parametrize("change, message", [
    ({"lengths": torch.tensor([3])}, "13 tokens, and records of 3"),
    ({"temperature": 0.0}, "temperature must be above 0"),
    ({"tile": 0}, "tile must be above 0"),
    ({"target": torch.zeros(2, 5)}, "patch_disc compares row i"),
])  # fmt: skip
def test_wrong_arguments(change, message):
    prediction, target = drawn()
    lengths, target = change.pop("lengths", LENGTHS), change.pop("target", target)
    with pytest.raises(ValueError, match=message):
        patch_disc(prediction, target, lengths, **change)
