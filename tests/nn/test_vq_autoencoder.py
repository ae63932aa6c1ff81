"""A tokenizer of pictures: shapes, what a code sees, gradients, and that it learns."""

import pytest
import torch

from amodal.nn.vq_autoencoder import VqAutoencoder

WIDTH, HIDDEN = 4, 8


def autoencoder(tile=4, channels=3, codes=16, seed=0, **options):
    torch.manual_seed(seed)
    return VqAutoencoder(channels, tile, codes, **({"width": WIDTH, "hidden": HIDDEN} | options))


def fit_codebook(net, images):
    """As its first step does."""
    net.quantizer.update(net(images).latents.detach().flatten(0, 1))


@pytest.mark.parametrize("tile", [1, 4, 6, 14])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_code_is_of_a_tile_of_pixels(tile, channels):
    net = autoencoder(tile, channels)
    images = torch.randn(2, channels, 2 * tile, 3 * tile)
    fit_codebook(net, images)
    made, codes = net(images), net.encode(images)
    assert made.pixels.shape == images.shape and made.latents.shape == (2, 6, WIDTH)
    assert made.commitment.shape == (2,) and codes.shape == (2, 6) and codes.dtype == torch.int64
    vectors = net.quantizer.vectors
    nearest = torch.cdist(made.latents, vectors[None].expand(2, -1, -1)).argmin(2)
    assert torch.equal(codes, nearest) and len({*codes.flatten().tolist()}) > 1
    far = (made.latents - vectors[codes]).square().mean((1, 2))
    torch.testing.assert_close(made.commitment, far)


@pytest.mark.parametrize("tile", [4, 6])
def test_codes_are_in_the_order_of_rows(tile):
    """What is repeated along a side has the same vectors there, away from the border."""
    net = autoencoder(tile).double()
    one = torch.randn(1, 3, 8 * tile, 1, dtype=torch.float64).expand(-1, -1, -1, 8 * tile)
    latents = net(one).latents.view(8, 8, WIDTH)
    torch.testing.assert_close(latents[:, 3], latents[:, 4], rtol=1e-3, atol=1e-3)
    assert (latents[3] - latents[4]).abs().max() > 1e-2


def test_a_code_sees_its_neighbours_and_not_other_pictures():
    net = autoencoder(4).double()
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64).requires_grad_()
    latents = net(images).latents.view(2, 6, 6, WIDTH)
    (seen,) = torch.autograd.grad(latents[0, 2, 2].square().sum(), images)
    own = seen[0, :, 8:12, 8:12].abs().sum()
    beside = seen[0, :, 8:12, 12:16].abs().sum()
    assert own > beside > 1e-3 * own and not seen[1].any()


def test_pictures_are_made_each_by_itself():
    net = autoencoder().double()
    images = torch.randn(3, 3, 12, 8, dtype=torch.float64)
    fit_codebook(net, images)
    together = net(images)
    for i in range(3):
        alone = net(images[i : i + 1])
        torch.testing.assert_close(alone.pixels[0], together.pixels[i])
        torch.testing.assert_close(alone.latents[0], together.latents[i])
        torch.testing.assert_close(alone.commitment[0], together.commitment[i])
    assert net(images[:0]).pixels.shape == (0, 3, 12, 8)
    assert net.encode(images[:0]).shape[0] == 0


def test_the_gradient_goes_straight_through():
    """That of the vectors that are decoded is that of the latents, and none is of the codebook."""
    net = autoencoder().double()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    fit_codebook(net, images + 0.1)
    made, seen = [], {}
    hooks = [
        net.encoder.register_forward_hook(
            lambda _, args, out: out.retain_grad() or made.append(out)
        ),
        net.decoder.register_forward_pre_hook(lambda _, args: seen.update(vectors=args[0])),
    ]
    coded = net(images)
    seen["vectors"].retain_grad()
    (coded.pixels - images).square().mean().backward()
    for hook in hooks:
        hook.remove()
    assert made[0].grad.abs().sum() > 0
    torch.testing.assert_close(made[0].grad, seen["vectors"].grad.view_as(made[0]))
    codes = net.encode(images)
    wanted = net.quantizer.vectors[codes].transpose(1, 2).reshape(2, WIDTH, 2, 2)
    torch.testing.assert_close(seen["vectors"].detach(), wanted)
    assert all(p.grad.abs().sum() > 0 for p in net.encoder.parameters())
    assert not any(p.requires_grad for p in net.quantizer.parameters())
    assert not coded.latents.isnan().any()


def test_commitment_moves_the_encoder_alone():
    net = autoencoder()
    images = torch.randn(2, 3, 8, 8)
    fit_codebook(net, torch.randn(4, 3, 8, 8))
    net(images).commitment.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.encoder.parameters())
    assert all(p.grad is None or not p.grad.any() for p in net.decoder.parameters())


def pictures(count=8):
    """Bars of some colours before a plain background."""
    g = torch.Generator().manual_seed(0)
    images = torch.full((count, 3, 16, 16), -0.5)
    for image in images:
        row, column = torch.randint(0, 3, (2,), generator=g).tolist()
        colour = torch.randint(0, 2, (3, 1, 1), generator=g).float() * 2 - 1
        image[:, 4 * row : 4 * row + 8, 4 * column : 4 * column + 4] = colour
    return images


def test_a_hundred_steps_make_pictures_from_codes():
    images = pictures()
    mean = (images - images.mean(0)).square().mean()
    net = autoencoder(4, codes=32, width=8, hidden=16)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(100):
        coded = net(images)
        loss = (coded.pixels - images).square().mean() + 0.25 * coded.commitment.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        net.quantizer.update(coded.latents.detach().flatten(0, 1))
    error = (net(images).pixels - images).square().mean()
    assert error < mean / 3, (error, mean)
    assert len({*net.encode(images).flatten().tolist()}) > 4
