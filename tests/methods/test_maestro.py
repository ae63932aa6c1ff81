"""MAESTRO beyond the batches of its golden test: what sees what, and what cannot be."""

import numpy as np
import pytest
import torch

from amodal import methods, modalities
from amodal.core import AmodalError, Batch, Column
from amodal.core import part as parts
from amodal.methods.masked.maestro import parts_of
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.grouped_trunk import GroupedTrunk
from tests.methods.bench import batch, exact, fields

OPTIONS = methods.encoder_options("maestro")
RASTER = modalities.make(
    "raster", bands=("a", "b"), size=8, patch=4, dates=3, resolution=10.0, groups={"one": ["a"]}
)
FIELDS = {"s2": RASTER, "s1": RASTER, **fields(("facts", "words"))}
FUSIONS = ("shared", "monotemp", "mod", "group")


def built(fields=FIELDS, size="nano", **options):
    chosen = {n: options.pop(n) for n in ("positions", "pool", "trunk") if n in options}
    torch.manual_seed(0)
    return methods.build("maestro", Encoder(fields, size=size, **OPTIONS | chosen), **options)


def value(seed, dates=3):
    rng = np.random.default_rng(seed)
    months = [f"2020-{month:02d}-01" for month in (1, 5, 9)[:dates]]
    raw = {"values": rng.normal(size=(dates, 2, 8, 8)).astype(np.float32), "dates": months}
    return RASTER.decode(raw)


def rows(s2, s1):
    columns = {"s2": s2, "s1": s1}
    return exact(
        Batch.of(
            len(s2),
            {
                name: Column(RASTER.collate(values), torch.arange(len(values)))
                for name, values in columns.items()
            },
        )
    )


def changed(value, date):
    out = value.copy()
    out[date, 1:] += 3
    return out


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_sees_what(fusion):
    """A date that changes moves its own tokens; others of its field, and of the other field, only
    with a fusion that lets them see it."""
    page = exact(built({"s2": RASTER, "s1": RASTER}, fusion=fusion)).eval()
    one, other = value(0), value(1)

    def encoded(s2, s1):
        with torch.no_grad():
            return page.encoder.encode(page.encoder.tokenize(rows([s2], [s1])))

    before, after = encoded(one, other), encoded(changed(one, 1), other)
    moved = {
        name: (before[name].x - after[name].x).abs().amax(1).view(3, -1).amax(1) > 1e-9
        for name in ("s2", "s1")
    }
    assert moved["s2"][1]
    assert moved["s2"][[0, 2]].all() == (fusion in ("mod", "group"))
    # at the end all fields see each other, where there are blocks of all
    assert moved["s1"].all() == (fusion in ("mod", "group")) == moved["s1"].any()


def test_without_blocks_of_all_fields_groups_are_apart():
    fields = {"s2": RASTER, "s1": RASTER, "dem": RASTER}
    page = exact(built(fields, groups="s2+s1", joint_depth=0)).eval()
    assert page.encoder.routing.is_per_source is False
    alone = exact(built(fields, fusion="mod", joint_depth=0)).eval()
    assert alone.encoder.routing.is_per_source

    def encoded(page, values):
        columns = {n: Column(RASTER.collate([v]), torch.zeros(1, dtype=torch.int64))
                   for n, v in values.items()}  # fmt: skip
        with torch.no_grad():
            tokens = page.encoder.tokenize(exact(Batch.of(1, columns)))
            return page.encoder.encode(tokens)

    first = {n: value(i) for i, n in enumerate(fields)}
    second = first | {"s2": changed(first["s2"], 0)}
    for one, together in ((page, True), (alone, False)):
        before, after = encoded(one, first), encoded(one, second)
        assert torch.equal(before["dem"].x, after["dem"].x)
        assert torch.equal(before["s1"].x, after["s1"].x) != together


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_encoder_is_rebuilt_from_its_description(fusion):
    page = exact(built(fusion=fusion)).eval()
    rebuilt = parts.build(page.encoder.spec)
    rebuilt.load_state_dict(page.encoder.state_dict())
    data = exact(batch(("plain",), sources=("facts", "words")))
    one, other = page.encoder(data), exact(rebuilt).eval()(data)
    assert one.sources == other.sources
    for source in one.sources:
        torch.testing.assert_close(one[source].values, other[source].values)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_losses_of_a_record_do_not_depend_on_the_batch(fusion):
    page = exact(built(fusion=fusion, ratio_scale=0.3, hide_bands=0.3)).eval()
    s2, s1 = [value(i) for i in range(4)], [value(i, 1 + i % 3) for i in range(4, 8)]
    whole = page.features(data := rows(s2, s1))
    for row in range(data.size):
        single = page.features(data.between(row, row + 1))
        for source in whole.sources:
            mine = whole[source].flat[whole[source].rows == row]
            torch.testing.assert_close(single[source].flat, mine)


def test_only_seen_tokens_move_the_encoding_and_none_is_hidden_whole():
    page = exact(built({"s2": RASTER, "s1": RASTER}, hide_date=0.6, hide_place=0.6)).eval()
    data = rows([value(i) for i in range(6)], [value(10 + i) for i in range(6)])
    tokens = page.encoder.tokenize(data)
    keep = page.visible(tokens, data.seeds)
    for source in ("s2", "s1"):
        seen = torch.bincount(tokens[source].row[keep[source]], minlength=6)
        assert (seen == round(24 * 0.25)).all()
    flat = data["s2"].values.flat.clone()
    flat[~keep["s2"], 4:] += 5
    moved = {**data.columns, "s2": Column(type(data["s2"].values)(flat, data["s2"].values.lengths),
                                          data["s2"].rows)}  # fmt: skip
    other = page.encoder.tokenize(exact(Batch.of(6, moved, data.keys)))
    with torch.no_grad():
        one, two = (
            page.encoder.encode({s: t.keep(keep[s]) for s, t in each.items()})
            for each in (tokens, other)
        )
    assert torch.equal(one["s2"].x, two["s2"].x) and torch.equal(one["s1"].x, two["s1"].x)


def test_long_groups_hide_more():
    page = built({"s2": RASTER}, ratio=0.5, ratio_scale=0.5)
    column = Column(RASTER.collate([value(0)]), torch.zeros(1, dtype=torch.int64))
    data = Batch.of(1, {"s2": column})
    tokens = page.encoder.tokenize(data)
    # 3 dates of 2 groups of bands: 1 - .5 / sqrt(6) of 24 tokens
    assert int(page.visible(tokens, data.seeds)["s2"].sum()) == round(24 * 0.5 / 6**0.5)


def test_parts_of_targets():
    assert parts_of(FIELDS, "patch")["s2"] == []
    assert parts_of(FIELDS, "none")["s2"] is None
    assert parts_of(FIELDS, "band")["s2"] == [0] * 16 + [1] * 16
    three = {"s2": modalities.make("raster", bands=("a", "b", "c"), size=4, patch=1)}
    assert parts_of(three, "s2.c+a")["s2"] == [0, 1, 0]
    assert parts_of(three, "s2.b, s2.c")["s2"] == [0, 1, 2]


@pytest.mark.parametrize("options, message", [
    ({"fusion": "groups"}, "Did you mean group"),
    ({"fusion": "mod", "groups": "s2+s1"}, "leave one of them out"),
    ({"groups": "s2+s3"}, "Did you mean s"),
    ({"groups": "s2+s1, s1"}, "'s1' is named twice"),
    ({"joint_depth": 2}, "joint_depth is below the 2 blocks"),
    ({"fusion": "shared", "joint_depth": 1}, "nothing sees another date"),
    ({"ratio": 1.0}, "maestro.ratio is a share"),
    ({"hide_place": -0.1}, "maestro.hide_place is a share"),
    ({"ratio_scale": -1.0}, "ratio_scale is at least 0"),
    ({"error": "l3"}, "Did you mean l"),
    ({"norm_bands": "s2.c"}, "band of 's2'"),
    ({"norm_bands": "s2.a+b, s2.a"}, "s2.a is named twice"),
    ({"norm_bands": "patches"}, "Did you mean patch"),
    ({"decoder_depth": 0}, "decoder_depth at least 1"),
    ({"positions": "alibi"}, "adds embeddings of positions"),
    ({"positions": "rotary", "size": "tiny"}, "adds embeddings of positions"),
    ({"fusion": "monotemp", "pool": "cls"}, "a class token is of none"),
    ({"pool": "attention"}, "would stay random"),
    ({"trunk": "separate"}, "in place of a joint one"),
])  # fmt: skip
def test_what_cannot_be_is_said(options, message):
    with pytest.raises(AmodalError, match=message):
        built(**options)


def test_hooks_see_blocks_of_groups_before_those_of_all():
    page, seen = built(size="tiny"), []

    def hook(number, tokens, block):
        seen.append(number)
        return block(tokens)

    tokens = page.encoder.tokenize(batch(("plain",), sources=("facts", "words")))
    page.encoder.encode(tokens, block_hook=hook)
    # three of each of two fields, then one of both
    assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3] and seen[-1] == 3
    dated = built(size="tiny", fusion="shared")
    with pytest.raises(AmodalError, match="one date at a time"):
        dated.encoder.encode(tokens, block_hook=hook)
    with pytest.raises(AmodalError, match="last states alone"):
        page.encoder.encode(tokens, router_logits={})


def test_another_trunk_stands_in_place_of_a_joint_one():
    trunk = GroupedTrunk({"facts": "facts"}, 64, 1, 2)
    with pytest.raises(AmodalError, match="in place of a joint one"):
        Encoder(fields(("facts",)), size="nano").set_trunk(trunk)
    with pytest.raises(AmodalError, match="in place of a joint one"):
        Encoder(fields(("facts",)), size="nano", trunk="joint", fusion_tokens=2).set_trunk(trunk)
