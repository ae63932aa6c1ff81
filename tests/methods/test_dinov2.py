"""KoLeo, which DINOv2 alone has, beyond the few rows of a golden test."""

import torch

from amodal.objectives.koleo import koleo


def naive(z):
    z = z / z.norm(dim=1, keepdim=True)
    gap = (z[:, None] - z[None]).norm(dim=2) + 9 * torch.eye(len(z))
    return -gap.amin(1).log().mean()


def drawn(rows, width=3):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).double()


def test_rows_are_compared_a_tile_at_a_time():
    z = drawn(11)
    for tile in (1, 2, 4, 11, 50):
        torch.testing.assert_close(koleo(z, tile=tile), naive(z), rtol=1e-6, atol=1e-6)


def test_the_nearest_may_lie_on_the_other_side():
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]], dtype=torch.float64)
    torch.testing.assert_close(koleo(z), naive(z), rtol=1e-6, atol=1e-6)


def test_vectors_of_no_length_have_no_direction():
    """Below 1e-8 a vector is not stretched to length 1, so noise is not taken for a direction."""
    noise = 1e-12 * drawn(2)
    assert koleo(noise) > -torch.tensor(1e-3).log()
