"""Rotary positions in a crop."""

import dataclasses
import math

import pytest
import torch

from amodal.core import AmodalError
from amodal.core import part as parts
from amodal.export.dense_encoder import why_not_exportable
from amodal.modalities.image import Image
from amodal.nn.axial import CROP, BoxAugmentation, axes_of, axial_rotary, crop_coordinates
from amodal.nn.encoder import Encoder
from amodal.nn.positions import Rotary
from amodal.nn.transformer import Transformer
from tests.methods.bench import FIELDS, SCANS, SENSORS, batch, exact, fields

BOX = "axial:shift=0.2,jitter=1.5,rescale=2"
SOURCES = ("picture", "words", "signal")


def encoder_of(positions=BOX, **options):
    torch.manual_seed(0)
    return exact(Encoder(fields(SOURCES), size="nano", positions=positions, **options))


def rows_of(views=("plain", "local"), size=6, seed=0):
    return exact(batch(views, size=size, seed=seed, sources=SOURCES))


def test_each_axis_of_a_crop_goes_from_minus_one_to_one():
    """Of any number of patches, in any unit, row by row."""
    place = [torch.cartesian_prod(torch.arange(n), torch.arange(m)) for n, m in ((2, 4), (3, 1))]
    unit = torch.tensor([[2.0, 0.5]])
    position = torch.cat([place[0] * unit + 7, place[1] * unit]).double()
    row = torch.tensor([0] * 8 + [2] * 3)
    c = crop_coordinates(position, row, 4)
    for index, axis, count in ((row == 0, 0, 2), (row == 0, 1, 4), (row == 2, 0, 3)):
        wanted = [2 * (i + 0.5) / count - 1 for i in range(count)]
        found = c[index, axis].unique()
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    assert not c[row == 2, 1].any()  # one column lies in the middle
    assert not len(crop_coordinates(position[:0], row[:0], 4))


def test_a_small_view_and_a_large_picture_span_the_same_box():
    image = Image(size=32, patch=4)
    encoder = Encoder({"picture": image}, size="nano", positions="axial")
    large = batch(("plain",), sources=("picture",))
    for side in (32, 16):
        values = torch.zeros(6, 3, side, side)
        column = dataclasses.replace(large["picture"], values=values)
        tokens = encoder.patchify(dataclasses.replace(large, columns={"picture": column}))
        for name in CROP[1:]:
            c, count = tokens["picture"].attributes[name], side // 4
            assert math.isclose(c.max(), 1 - 1 / count, rel_tol=1e-5) and c.min() == -c.max()
        assert CROP[0] not in tokens["picture"].attributes


def test_bands_are_of_the_axes_that_a_field_has():
    encoder = encoder_of("axial")
    axes = {"picture": (1, 2), "words": (0,), "signal": (0,)}
    assert {f: trunk.axial for f, trunk in encoder.trunks.items()} == axes
    assert encoder_of("axial", trunk="joint").trunks["all"].axial == (0, 1, 2)
    # of two axes each has half of the 16 angles of a head, and of one all
    c = torch.tensor([[0.25, 0.5]], dtype=torch.float64)
    for width, count in ((32, 8), (20, 5)):
        rotary = axial_rotary(dict(zip(CROP[1:], c.T)), lambda x: x, (1, 2), width)
        band = torch.arange(count, dtype=torch.float64)
        angle = torch.cat([2 * math.pi * x / 100 ** (band / count) for x in (0.25, 0.5)])
        torch.testing.assert_close(rotary.cos[0, 0], angle.cos())
        torch.testing.assert_close(rotary.sin[0, 0], angle.sin())
    # rotary positions of before turn by all three axes, a picture by two thirds of the bands
    assert int((Rotary(torch.tensor([[0.0, 1.0, 1.0]]), 24).sin != 0).sum()) == 8
    with pytest.raises(AmodalError, match="at least 4 wide, not 3"):
        Rotary(torch.zeros(1, 2), 3)


def test_what_has_no_place_is_not_turned():
    rotary = axial_rotary({CROP[1]: torch.tensor([math.nan, 0.5])}, lambda x: x, (0, 1), 8)
    x = torch.randn(2, 1, 8)
    assert torch.equal(rotary(x)[0], x[0]) and not torch.equal(rotary(x)[1], x[1])


@pytest.mark.parametrize("trunk", ["separate", "shared", "joint"])
def test_boxes_change_in_training_alone(trunk):
    encoder, rows = encoder_of(trunk=trunk, pool="cls"), rows_of()
    plain = encoder_of("axial", trunk=trunk, pool="cls")
    plain.load_state_dict(encoder.state_dict())
    drawn, calm = encoder.features(rows), plain.features(rows)
    other = encoder.features(dataclasses.replace(rows, seeds=rows.seeds + 1))
    encoder.eval()
    still = encoder.features(rows)
    for source in still:
        assert torch.equal(still[source].flat, encoder.features(rows)[source].flat)
        assert torch.equal(still[source].flat, calm[source].flat)
    for features in (drawn, other):
        assert not torch.allclose(still["words:1"].flat, features["words:1"].flat)
    assert not torch.allclose(drawn["words:1"].flat, other["words:1"].flat)
    # nor where nothing learns, such as in a teacher
    frozen = encoder.train().requires_grad_(False).features(rows)
    assert torch.equal(frozen["words:1"].flat, still["words:1"].flat)


def test_a_row_draws_the_same_alone_and_in_a_batch():
    encoder, rows = encoder_of(pool="cls"), rows_of()
    whole = encoder.features(rows)
    for row in range(rows.size):
        alone = encoder.features(rows.between(row, row + 1))
        for source in whole:
            mine = whole[source].flat[whole[source].rows == row]
            torch.testing.assert_close(alone[source].flat, mine, rtol=0, atol=1e-6)


def test_draws_are_within_their_ranges():
    seeds, c = torch.arange(4000), torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    c = c.expand(4000, 2)
    scaled = BoxAugmentation(rescale=2.0)(c, (1, 2), "a", seeds)
    assert torch.equal(scaled[:, 0], scaled[:, 1])  # one factor of all axes
    assert 0.25 <= scaled.min() < 0.26 and 0.98 < scaled.max() <= 1
    assert abs(float(scaled.log2().mean()) + 1) < 0.02  # evenly in the logarithm
    moved = BoxAugmentation(shift=0.3)(c, (1, 2), "a", seeds)
    assert 0.2 <= moved.min() < 0.21 and 0.79 < moved.max() <= 0.8
    assert abs(float(torch.corrcoef(moved.T)[0, 1])) < 0.05  # each axis by itself
    stretched = BoxAugmentation(jitter=1.5)(c, (1, 2), "a", seeds)
    assert 0.5 / 1.5 <= stretched.min() < 0.34 and 0.74 < stretched.max() <= 0.75
    assert abs(float(torch.corrcoef(stretched.T)[0, 1])) < 0.05
    assert not torch.equal(BoxAugmentation(rescale=2.0)(c, (1, 2), "b", seeds), scaled)
    assert torch.equal(BoxAugmentation()(c, (1, 2), "a", seeds), c)


def test_hidden_neighbours_do_not_move_a_token():
    """Crops are measured before anything is hidden, so a token stays where it is."""
    encoder, rows = encoder_of("axial").eval(), rows_of(("plain",))
    tokens = encoder.tokenize(rows)["signal"]
    some = tokens.keep(tokens.skeleton().within() % 2 == 1)
    assert torch.equal(
        some.attributes[CROP[0]], tokens.attributes[CROP[0]][tokens.skeleton().within() % 2 == 1]
    )
    assert not torch.allclose(
        encoder.encode({"signal": some})["signal"].x,
        encoder.encode(
            {"signal": dataclasses.replace(some, attributes={CROP[0]: 0 * some.x[:, 0]})}
        )["signal"].x,
    )


def test_tokens_that_no_encoder_placed_are_refused():
    trunk, tokens = Transformer(8, 1, 2, axial=(0,)), encoder_of("none").tokenize(rows_of())
    bare = dataclasses.replace(tokens["words:1"], x=torch.zeros(len(tokens["words:1"]), 8))
    with pytest.raises(AmodalError, match="take other positions"):
        trunk(bare)


def test_every_modality_names_the_axes_that_its_tokens_lie_along():
    names = (*FIELDS, *SENSORS, *SCANS)
    rows = batch(("plain",), sources=names)
    encoder = Encoder(fields(names), size="nano", positions="none")
    for field, tokens in encoder.tokenize(rows).items():
        used = {a for a in range(3) if len(tokens.position[:, a].unique()) > 1}
        assert used <= set(axes_of([encoder.fields[field]])), field
    assert axes_of([object()]) == (0, 1, 2)  # of a plug-in that names none


def test_a_saved_encoder_has_its_boxes_and_extra_blocks():
    encoder, rows = encoder_of().extend("words", 1).double(), rows_of(("plain",))
    rebuilt = parts.build(encoder.spec).double()
    rebuilt.load_state_dict(encoder.state_dict())
    assert rebuilt.box == BoxAugmentation(0.2, 1.5, 2.0)
    assert rebuilt.extra_blocks["words"].axial == (0,)
    torch.testing.assert_close(rebuilt(rows)["words"].values, encoder(rows)["words"].values)


def test_there_is_no_dense_form_yet():
    assert "in its crop" in why_not_exportable(encoder_of("axial"), "words")


@pytest.mark.parametrize("positions, message", [
    ("axial:scale=2", "Did you mean rescale?"),
    ("axial:rescale=two", "rescale is a number"),
    ("axial:rescale", "rescale is a number"),
    ("axial:rescale=0.5", "rescale of axial positions is a largest factor"),
    ("axial:jitter=0.5", "jitter of axial positions"),
    ("axial:jitter=inf", "jitter of axial positions"),
    ("axial:shift=-1", "shift of axial positions"),
    ("axial:shift=nan", "shift of axial positions"),
    ("axail", "Did you mean axial?"),
])  # fmt: skip
def test_wrong_options(positions, message):
    with pytest.raises(AmodalError) as error:
        encoder_of(positions)
    assert message in str(error.value)
