"""MAESTRO, Labatie et al. 2025, arXiv:2508.10894, with the numbers of the authors' program."""

import math

import numpy as np
import pytest

from amodal import methods
from amodal.core import AmodalError, Recipe
from amodal.nn.encoder import Encoder
from tests.golden.harness import defaults, golden
from tests.golden.maestro_reference import GRIDS, maestro
from tests.methods import bench

TURNED, WEAK = ("turned",), ("weak",)


@pytest.fixture
def rasters(grouped_rasters):
    """Rasters of two groups of bands, at two dates, in place of pictures; some patches lack some
    bands, and some rasters a date."""

    def draw(rng):
        values = rng.normal(size=(2, 3, 12, 12)).astype(np.float32)
        values[rng.integers(2), rng.integers(3), : 4 * rng.integers(1, 3)] = np.nan
        values[rng.random(values.shape) < 0.1] = np.nan
        count = rng.integers(1, 3)
        return {"values": values[:count], "dates": ["2020-03-01", "2020-08-15"][:count]}

    grouped_rasters(draw)


GROUPED = {"picture": ("near", "b")}
"""Names of groups of bands."""


def check(fields, *, views=None, changed=None, grouped=None, rows=6, size="nano", **options):
    """Two steps. `changed`: what the reference is told in place of options of the page."""
    own = {n: v for n, v in options.items() if n not in ("groups", "norm_bands", *METHOD)}
    own |= {METHOD[n]: v for n, v in options.items() if n in METHOD}
    if options.get("fusion") in ("shared", "monotemp"):
        own["joint_depth"] = 0
    own |= {"grouped": grouped or {}} | (changed or {})
    # the scales of signals and the numbers of tables are in single precision
    tolerance = 1e-6 if {"signal", "facts"} & set(fields) else 1e-9
    golden(
        "maestro", maestro(**own), views=views or views_of(fields), fields=fields, rows=rows,
        size=size, tolerance=tolerance, also=options,
    )  # fmt: skip


METHOD = {"decoder_width": "width", "decoder_depth": "depth"}


def views_of(fields):
    """Grids beside each other are turned alike; one alone is cropped as well."""
    grids = [f for f in fields if f in GRIDS]
    return {f: TURNED if f in grids else WEAK for f in fields} if len(grids) > 1 else WEAK


MOSTLY = {"hide_field": 0.6, "hide_bands": 0.6, "hide_date": 0.6, "hide_place": 0.6}
"""Units hide more than the ratio in some rows, and less in others."""
FUSIONS = ("group", "mod", "monotemp", "shared")


def test_defaults():
    """The authors' configuration."""
    assert defaults("maestro") == {
        "fusion": "group",
        "groups": "",
        "joint_depth": -1,
        "ratio": 0.75,
        "ratio_scale": 0.0,
        "hide_field": 0.25,
        "hide_bands": 0.0,
        "hide_date": 0.25,
        "hide_place": 0.25,
        "norm_bands": "patch",
        "error": "l1",
        "decoder_width": 0,
        "decoder_depth": 1,
    }
    assert methods.encoder_options("maestro") == {"trunk": "joint", "positions": "ground"}


def test_the_recipe_of_the_paper():
    """A rate of 3e-5 times the root of a third of the batch; a fifth of the steps warms up."""
    assert methods.paper_recipe("maestro") == Recipe(
        optimizer="adamw",
        lr=3e-5,
        lr_scaling="sqrt/3",
        weight_decay=0.01,
        betas=(0.9, 0.99),
        schedule="cosine",
        warmup=0.2,
        clip=0.0,
        batch_size=32,
        epochs=100.0,
    )


SHARES = ("ratio", "hide_field", "hide_bands", "hide_date", "hide_place")


@pytest.mark.parametrize("wrong, message", [
    *[({name: value}, f"maestro.{name} is a share") for name in SHARES
      for value in (1.0, -0.1, math.nan)],
    ({"fusion": "groups"}, "Did you mean group"),
    ({"error": "l3"}, "no maestro.error is called 'l3'"),
    ({"groups": "optical+radr"}, "Did you mean radar"),
    ({"groups": "optical+radar, radar+words"}, "'radar' is named twice"),
    ({"groups": "optical+optical"}, "'optical' is named twice"),
    ({"groups": "optical+"}, "no field of maestro.groups is called ''"),
    *[({"groups": "optical+radar", "fusion": other}, 'groups are of fusion="group"')
      for other in FUSIONS[1:]],
    ({"joint_depth": 2}, "below the 2 blocks of --size nano"),
    ({"joint_depth": -2}, "joint_depth"),
    ({"joint_depth": 1, "fusion": "shared"}, '0 with fusion="shared" and "monotemp"'),
    ({"joint_depth": 1, "fusion": "monotemp"}, '0 with fusion="shared" and "monotemp"'),
    ({"ratio_scale": -0.1}, "ratio_scale is at least 0"),
    ({"ratio_scale": math.nan}, "ratio_scale"),
    ({"decoder_width": -1}, "decoder_width"),
    ({"decoder_width": 100}, "decoder_width"),  # of three heads
    ({"decoder_depth": 0}, "decoder_depth"),
    ({"norm_bands": "patches"}, "Did you mean patch"),
    ({"norm_bands": "optic.r"}, "Did you mean optical"),
    ({"norm_bands": "optical.x"}, "no band of 'optical' is called 'x'"),
    ({"norm_bands": "optical.r+r"}, "optical.r is named twice"),
    ({"norm_bands": "optical.r, optical.g+r"}, "optical.r is named twice"),
    ({"norm_bands": "words.r"}, "no part of maestro.norm_bands is called 'words.r'"),
])  # fmt: skip
def test_wrong_options_are_refused(wrong, message):
    with pytest.raises(AmodalError, match=message):
        bench.method("maestro", sources=("optical", "radar", "words"), **wrong)


@pytest.mark.parametrize("shape, options, message", [
    ({"trunk": "shared"}, {}, 'trunk="joint"'),
    ({"trunk": "separate"}, {}, 'trunk="joint"'),
    ({"positions": "rotary"}, {}, "take ground, sincos, learned or none"),
    ({"positions": "alibi"}, {}, "take ground, sincos, learned or none"),
    ({"pool": "cls"}, {"fusion": "shared"}, 'pool="mean"'),
    ({"pool": "cls"}, {"fusion": "monotemp"}, 'pool="mean"'),
])  # fmt: skip
def test_other_encoders_are_refused(shape, options, message):
    encoder = Encoder(bench.fields(("picture",)), size="nano", **{"trunk": "joint"} | shape)
    with pytest.raises(AmodalError, match=message):
        methods.build("maestro", encoder, **options)


def test_a_quarter_of_twelve_blocks_are_of_all_fields():
    """As in the authors' configuration."""
    encoder = bench.method("maestro", sources=("picture",), size="small").encoder
    names = [n.split(".") for n, _ in encoder.trunks.named_parameters() if ".blocks." in n]
    assert len({n[4] for n in names if n[1] == "towers"}) == 9
    assert len({n[4] for n in names if n[1] == "joint"}) == 3


@pytest.mark.parametrize("options", [
    {},
    {"ratio": 0.3} | MOSTLY,
    {"ratio": 0.5, "ratio_scale": 0.7, "hide_bands": 0.5},
    {"ratio": 0.6, "ratio_scale": 1.0, "error": "l2"},
    {"ratio": 0.9, "hide_date": 0.9, "hide_place": 0.0},
    {"ratio": 0.2, "hide_date": 0.0, "hide_place": 0.9},
    {"ratio": 0.2, "hide_bands": 0.9, "hide_date": 0.0, "hide_place": 0.0},
    {"hide_field": 0.9, "hide_bands": 0.99, "hide_date": 0.99, "hide_place": 0.99},
    {"joint_depth": 0},
    {"decoder_depth": 2, "decoder_width": 64},
])  # fmt: skip
def test_two_steps(options, rasters):
    changed = {"decoder_heads": 2} if "decoder_width" in options else {}
    check(("picture", "words"), grouped=GROUPED, changed=changed, **options)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_two_steps_of_each_fusion(fusion, rasters):
    """Of dates and groups of bands; with the fusions by date no unit is hidden whole, and no ratio
    is scaled."""
    options = MOSTLY | {"ratio": 0.6, "ratio_scale": 0.5}
    check(("picture", "optical", "words"), grouped=GROUPED, fusion=fusion, **options)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_two_steps_of_what_has_no_dates(fusion):
    """Each field by itself, with the fusions by date."""
    check(("words", "facts"), fusion=fusion, ratio=0.5)


@pytest.mark.parametrize(
    "groups", ["optical+picture", "picture + optical,", "radar+words, optical"]
)
@pytest.mark.parametrize("options", [
    {}, {"ratio": 0.3, "ratio_scale": 0.5} | MOSTLY, {"ratio": 0.2, "hide_field": 0.9},
])  # fmt: skip
def test_two_steps_of_groups_of_fields(groups, options, rasters):
    together = tuple(tuple(part.replace(" ", "").split("+")) for part in groups.split(","))
    changed = {"together": tuple(g for g in together if len(g) > 1)}
    fields = ("picture", "optical", "radar", "words")
    check(fields, grouped=GROUPED, changed=changed, groups=groups, **options)


@pytest.mark.parametrize("error", ["l1", "l2"])
@pytest.mark.parametrize("norm_bands, parts", [
    ("patch", "patch"),
    ("band", "band"),
    ("none", "none"),
    ("picture.c+b", {"picture": ["cb"]}),
    ("optical.r, optical.g", {"optical": ["r", "g"]}),
    ("optical.n, optical.r+g,picture.a", {"optical": ["n", "rg"], "picture": ["a"]}),
])  # fmt: skip
def test_two_steps_with_other_parts(error, norm_bands, parts, rasters):
    options = {"norm_bands": norm_bands, "error": error, "changed": {"parts": parts}}
    check(("picture", "optical"), grouped=GROUPED, **options)


@pytest.mark.parametrize("norm_bands", ["patch", "band", "none"])
def test_two_steps_of_pictures(norm_bands):
    """Their channels are standardised together, if at all. They may not be turned."""
    check(("picture", "words"), norm_bands=norm_bands, changed={"parts": norm_bands}, rows=8)


def test_two_steps_of_pictures_beside_a_raster():
    """None is turned, since pictures may not be."""
    fields = ("picture", "optical", "words")
    views = {f: WEAK if f == "words" else ("plain",) for f in fields}
    check(fields, views=views, groups="picture+optical", changed={"together": (fields[:2],)})


def test_two_steps_of_a_signal_and_a_table(rasters):
    check(("picture", "signal", "facts"), grouped=GROUPED, ratio=0.5)


def test_two_steps_of_sensors_with_other_patches_on_the_ground():
    together = {"together": (("thermal", "radar"),)}
    check(("thermal", "optical", "radar"), groups="thermal+radar", changed=together)


@pytest.mark.parametrize("options", [{}, {"joint_depth": 2}, {"joint_depth": 3}])
def test_two_steps_of_a_deeper_encoder(options, rasters):
    """A quarter of four blocks are of all fields, and the decoder has half of 128."""
    changed = {"blocks": 4, "width": 64, "decoder_heads": 2}
    check(("picture", "words"), grouped=GROUPED, rows=4, size="tiny", changed=changed, **options)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows, fusion, rasters):
    """The first has no picture, and of what has one token nothing is hidden."""
    check(("picture", "optical"), grouped=GROUPED, rows=rows, fusion=fusion)


def test_one_row_without_a_picture():
    """Nothing is hidden, and nothing is lost."""
    check(("picture",), rows=1)


def test_nothing_is_hidden():
    check(("picture", "words"), ratio=0.0)
