"""Patches of other sides by resized weights."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from amodal import data, methods, modalities
from amodal.core import AmodalError, Column
from amodal.core.tokens import GROUP, METRES
from amodal.inference.dense import dense_features, patch_side
from amodal.modalities.shared.tokenizers.resized import resized_weights, resizing
from amodal.nn.encoder import Encoder

BANDS = ("a", "b", "c")


def made(**options):
    options = {"size": 16, "patch": 8, "resolution": 10.0, "patches": (2, 3, 8)} | options
    return modalities.make("raster", bands=BANDS, **options)


def value(raster, side=16, seed=0):
    return raster.decode(
        np.random.default_rng(seed).standard_normal((3, side, side)).astype(np.float32)
    )


def tokens_of(tokenizer, raster, *values):
    column = Column(raster.collate(values), torch.arange(len(values)))
    return tokenizer(column, "field", len(values))


@pytest.mark.parametrize("new", [1, 3, 4, 8])
def test_resized_weights_are_nearest_in_products(new):
    """Least squares: no other weights come nearer to products with what is resized."""
    torch.manual_seed(0)
    weight = torch.randn(4, 2 * 64).double()
    small = resized_weights(weight, 8, new)
    assert small.shape == (4, 2 * new * new)
    basis = torch.eye(64).double().view(64, 1, 8, 8)
    resize = interpolate(basis, (new, new), mode="bicubic", antialias=True).flatten(1)
    for one, other in zip(weight.view(-1, 64), small.view(-1, new * new)):
        expected = torch.linalg.lstsq(resize, one[:, None], driver="gelsd").solution[:, 0]
        torch.testing.assert_close(other, expected)
    assert resizing(8, new) is resizing(8, new)
    if new == 8:
        assert small is weight


def test_each_side_has_tokens_of_its_own_at_its_own_metres():
    raster = made(groups={"ab": ["a", "b"]})
    torch.manual_seed(0)
    tokenizer = raster.tokenizer(6)
    one = value(raster)
    for side in (2, 3, 8):
        small = raster.with_patch(side)
        assert small.tile == side and small.size == 2 * side
        tokens = tokens_of(tokenizer, small, one)
        rows = -(-16 // side)
        assert len(tokens) == 2 * rows**2
        assert (tokens.attributes[METRES] == 10 * side).all()
        assert tokens.attributes[GROUP].tolist() == [0, 1] * rows**2
        assert tokens.position[:, 1:].max() == rows - 1
    weight = resized_weights(tokenizer.project.weight, 8, 2)
    tokens = tokens_of(tokenizer, raster.with_patch(2), one)
    pixels = torch.zeros(3, 2, 2)
    pixels[:2] = torch.from_numpy(one[0, 1:3, :2, :2])
    exist = torch.zeros(3, 2, 2)
    exist[:2] = 1
    expected = weight @ torch.cat([pixels.flatten(), exist.flatten()]) + tokenizer.project.bias
    torch.testing.assert_close(tokens.x[0], expected)
    tokens.x.sum().backward()
    assert tokenizer.project.weight.grad.abs().sum() > 0


def test_smooth_values_look_alike_at_other_sides():
    """Weights that were learnt for 8 pixels see the same in 4, where pixels are twice as far apart."""
    raster = made(patches=(4, 8))
    torch.manual_seed(0)
    tokenizer = raster.tokenizer(32)
    ramp = np.linspace(-1, 1, 8, dtype=np.float32)
    fine = np.broadcast_to(ramp[:, None] + ramp, (3, 8, 8))
    coarse = fine.reshape(3, 4, 2, 4, 2).mean((2, 4))
    with torch.no_grad():
        a = tokens_of(tokenizer, raster, raster.decode(fine)).x
        b = tokens_of(tokenizer, raster.with_patch(4), raster.decode(coarse)).x
    assert torch.cosine_similarity(a, b).item() > 0.95


def test_each_step_draws_one_and_crops_to_as_many_patches():
    raster, seen = made(), set()
    for seed in range(40):
        step = raster.of_step(np.random.default_rng(seed))
        view = step.augment(value(raster), "weak", np.random.default_rng(seed))
        assert max(view.shape[2:]) <= 2 * step.tile
        assert len(step.collate([view])) == 1 and len(step.collate([view]).flat) <= 4
        seen.add(step.tile)
    assert seen == {2, 3, 8}
    plain = made(patches=())
    assert plain.of_step(np.random.default_rng(0)) is plain


def test_windows_of_values_with_gaps_have_pixels():
    raster = made()
    one = value(raster)
    one[:, 1:, :14] = np.nan
    for seed in range(20):
        view = raster.with_patch(2).augment(one, "weak", np.random.default_rng(seed))
        assert np.isfinite(view[:, 1:]).any() and max(view.shape[2:]) <= 16


def test_the_loader_draws_by_step_whatever_the_workers():
    raster = made()
    values = [value(raster, seed=i)[0, 1:] for i in range(8)]
    records = data.open({"field": values}, name="scenes", fields={"field": raster})
    widths = []
    for first in (0, 3):
        loader = data.Loader(
            records, range(8), batch=4, views=("weak",), seed=5, steps=12, start_step=first
        )
        widths.append([batch["field"].values.flat.shape[1] for batch in loader])
    assert widths[0][3:] == widths[1] and len(set(widths[0])) == 3
    [plain] = data.Loader(records, range(8), batch=8, shuffle=False)
    assert plain["field"].values.flat.shape[1] == 4 + 3 * 64


def test_features_of_places_at_a_side_that_was_learnt():
    fields = {"field": made()}
    torch.manual_seed(0)
    encoder = Encoder(fields, size="nano", trunk="joint", positions="ground").eval()
    one, _ = fields["field"].on_ground(np.random.default_rng(0).random((3, 40, 40)))
    assert dense_features(encoder, "field", one).shape == (5, 5, 64)
    with patch_side(encoder.fields, "field", 2):
        fine = dense_features(encoder, "field", one)
    assert fine.shape == (20, 20, 64) and np.isfinite(fine).all()
    assert encoder.fields["field"] is fields["field"]
    for side in (None, 8):
        with patch_side(encoder.fields, "field", side):
            assert encoder.fields["field"] is fields["field"]
    with (
        pytest.raises(AmodalError, match="has learnt patches of 2, 3, 8 pixels, not of 4"),
        patch_side(encoder.fields, "field", 4),
    ):
        pass


def test_a_method_learns_from_patches_of_any_side():
    raster = made()
    torch.manual_seed(0)
    options = methods.encoder_options("galileo")
    page = methods.build("galileo", Encoder({"field": raster}, size="nano", **options))
    records = data.open(
        {"field": [value(raster, seed=i)[0, 1:] for i in range(4)]},
        name="scenes",
        fields={"field": raster},
    )
    for batch in data.Loader(records, range(4), batch=4, views=("weak",), steps=4):
        loss = sum(page.losses(page.features(batch)).values())
        loss.backward()
        assert torch.isfinite(loss)
    assert torch.isfinite(page.encoder.tokenizers["field"].project.weight.grad).all()


@pytest.mark.parametrize("patches", [(0,), (9,), (4, 16)])
def test_sides_that_weights_cannot_have(patches):
    with pytest.raises(AmodalError, match="raster.patches are sides from 1 to that of a patch, 8"):
        made(patches=patches)


def test_methods_of_pixels_refuse_them():
    with pytest.raises(AmodalError, match="pixels of a patch are predicted at one size"):
        methods.build("mae", Encoder({"field": made()}, size="nano", trunk="joint"))


def test_fields_of_a_record_are_turned_alike():
    fine = modalities.make("raster", bands=("a",), size=8, patch=4, patches=(2, 4))
    coarse = modalities.make("raster", bands=("b",), size=4, patch=4)
    still = modalities.make("raster", bands=("b",), size=4, patch=4, turn=False)
    pixels = [np.arange(64, dtype=np.float32).reshape(1, 8, 8) + i for i in range(12)]
    # the mean of every 2 by 2 pixels, on the same ground
    means = [p.reshape(1, 4, 2, 4, 2).mean((2, 4)) for p in pixels]
    values = {"fine": pixels, "coarse": means, "still": means}
    records = data.open(
        values, name="scenes", fields={"fine": fine, "coarse": coarse, "still": still}
    )
    ways = set()
    for batch in data.Loader(records, range(12), batch=12, views=("turned",), steps=3):
        tiles = batch["fine"].values.flat[:, 4:].view(12, 2, 2, 4, 4)
        whole = tiles.permute(0, 1, 3, 2, 4).reshape(12, 8, 8)
        other = batch["coarse"].values.flat[:, 4:].view(12, 4, 4)
        torch.testing.assert_close(whole.view(12, 4, 2, 4, 2).mean((2, 4)), other)
        ways |= {tuple((view - view.min()).flatten().tolist()) for view in other}
        straight = batch["still"].values.flat[:, 4:].view(12, 4, 4)
        assert (straight.diff(dim=1) == 16).all() and (straight.diff(dim=2) == 2).all()
    assert len(ways) == 8
