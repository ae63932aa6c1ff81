"""Groups of bands: a token for each group of each patch."""

import numpy as np
import pytest
import torch

from amodal import modalities
from amodal.core import AmodalError, Batch, Column
from amodal.core.tokens import DATE, GROUP, METRES
from amodal.nn.encoder import Encoder

BANDS = ("B02", "B03", "B04", "B08", "B11")
GROUPS = {"colour": ["B04", "B02"], "infrared": ["B08", "B11"]}


def made(**options):
    return modalities.make("raster", bands=BANDS, size=8, patch=4, **options)


def value(raster, seed=0, dates=1):
    pixels = np.random.default_rng(seed).standard_normal((dates, 5, 8, 8)).astype(np.float32)
    days = [f"2020-{7 + d:02d}-01" for d in range(dates)]
    return raster.decode({"values": pixels, "dates": days})


def tokens_of(raster, values, width=8):
    column = Column(raster.collate(values), torch.arange(len(values)))
    torch.manual_seed(0)
    return raster.tokenizer(width)(column, "field", len(values))


def test_a_band_of_no_group_is_a_group_by_itself():
    assert made().token_groups == ()
    assert made(groups=GROUPS).band_groups() == {
        "colour": (2, 0),
        "infrared": (3, 4),
        "B03": (1,),
    }
    assert made(by_band=True).token_groups == BANDS


@pytest.mark.parametrize("options, message", [
    ({"groups": {"a": ["B05"]}}, "B05.*of the group 'a'"),
    ({"groups": {"a": []}}, "groups.a has no band"),
    ({"groups": {"a": ["B02"], "b": ["B02"]}}, "of the groups 'a' and 'b'"),
    ({"groups": {"B03": ["B02"]}}, "the name of a band that is not in it"),
    ({"groups": GROUPS, "by_band": True}, "leave one of them out"),
    ({"groups": ["B02"]}, "must be a table"),
])  # fmt: skip
def test_wrong_groups(options, message):
    with pytest.raises(AmodalError, match=message):
        made(**options)


def test_each_group_of_a_patch_is_a_row_with_its_own_pixels():
    plain, grouped = made(dates=2), made(groups=GROUPS, dates=2)
    one = value(plain, dates=2)
    every, flat = plain.collate([one]).flat, grouped.collate([one]).flat
    assert len(every) == 2 * 4 and len(flat) == 3 * len(every)
    # in the order of places, then of groups
    assert torch.equal(flat[:, :4], every[:, :4].repeat_interleave(3, 0))
    pixels = flat[:, 4:].view(len(every), 3, 5, 16)
    whole = every[:, 4:].view(len(every), 5, 16)
    for number, members in enumerate(grouped.band_groups().values()):
        for band in range(5):
            if band in members:
                assert torch.equal(pixels[:, number, band], whole[:, band])
            else:
                assert pixels[:, number, band].isnan().all()


def test_a_patch_without_a_pixel_of_a_group_is_no_token_of_it():
    raster = made(groups=GROUPS)
    one = value(raster)
    one[0, [1, 3], :4, :4] = np.nan  # colours, of the first patch
    one[0, 4, :4, 4:] = np.nan  # one of two infrared bands, of the second
    tokens = tokens_of(raster, [one])
    places = list(zip(*tokens.position[:, 1:].int().T.tolist(), tokens.attributes[GROUP].tolist()))
    expected = [(y, x, g) for y in range(2) for x in range(2) for g in range(3)]
    assert places == [p for p in expected if p != (0, 0, 0)]


def test_tokens_of_a_group_do_not_depend_on_the_others():
    raster = made(groups=GROUPS)
    one = value(raster)
    other = one.copy()
    other[0, [1, 3]] += 1  # colours
    a, b = (tokens_of(raster, [v]) for v in (one, other))
    same = (a.x == b.x).all(1)
    assert torch.equal(same, a.attributes[GROUP] != 0)


def test_targets_and_losses_are_those_of_the_group():
    raster = made(groups=GROUPS)
    ragged = raster.collate([value(raster)])
    target = raster.targets(ragged)
    assert target.shape == (12, 5 * 16) and (target.isnan().sum(1) % 16 == 0).all()
    prediction = torch.zeros_like(target, requires_grad=True)
    loss = raster.token_loss(prediction, target)
    torch.testing.assert_close(loss, target.square().nanmean(1))
    loss.sum().backward()
    assert torch.equal(prediction.grad == 0, target.isnan())


def test_months_and_metres_ride_beside_positions():
    raster = made(groups=GROUPS, resolution=20.0, dates=2)
    tokens = tokens_of(raster, [value(raster, dates=2)])
    assert set(tokens.attributes) == {DATE, METRES, GROUP}
    assert (tokens.attributes[METRES] == 80).all()
    assert torch.equal(tokens.attributes[DATE], tokens.position[:, 0])
    unknown = raster.decode(np.ones((2, 5, 8, 8), np.float32))
    assert tokens_of(raster, [unknown]).attributes[DATE].isnan().all()
    plain = tokens_of(made(), [value(made())])
    assert set(plain.attributes) == {DATE}


def test_the_encoder_embeds_groups_and_stores_them():
    fields = {"plain": made(), "grouped": made(groups=GROUPS)}
    torch.manual_seed(0)
    encoder = Encoder(fields, size="nano", trunk="joint")
    assert {n: tuple(p.shape) for n, p in encoder.group_token.items()} == {"grouped": (3, 64)}
    assert 0.01 < encoder.group_token["grouped"].std() < 0.04
    one = value(fields["grouped"])
    column = Column(fields["grouped"].collate([one]), torch.zeros(1, dtype=torch.int64))
    batch = Batch.of(1, {"grouped": column})
    before = encoder.tokenize(batch)["grouped"]
    with torch.no_grad():
        encoder.group_token["grouped"][1] += 1
    moved = encoder.tokenize(batch)["grouped"].x - before.x
    assert torch.equal(moved.abs().amax(1) > 0.5, before.attributes[GROUP] == 1)
    encoder.drop("grouped")
    assert not encoder.group_token


def test_runs_without_groups_have_no_parameters_for_them():
    assert not [n for n in Encoder({"plain": made()}, size="nano").state_dict() if "group" in n]
