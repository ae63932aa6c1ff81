"""Every trunk with every pool and position: one vector for each field of each row, from that row
alone."""

import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from toys import Toy, ToyTokenizer, batch_of, quick, reorder, same, vectors

from amodal.core import AmodalError, Batch, Column, Ragged
from amodal.core.embeddings import FUSED
from amodal.nn import config as encoder_config
from amodal.nn.encoder import Encoder
from amodal.nn.pooling import POOLS
from amodal.nn.positions import KINDS
from amodal.nn.trunks import KINDS as TRUNKS
from tests.methods import bench

FIELDS = {"image": Toy(), "text": Toy()}
FUSIONS = (None, "full", "pure", "bottleneck")
KINDS_OF_ENCODER = [
    *(
        pytest.param(t, p, k, None, id=f"{t}-{p}-{k}")
        for t, p, k in itertools.product(TRUNKS, POOLS, KINDS)
    ),
    *(
        pytest.param("joint", "mean", k, f, id=f"joint-{f}-{k}")
        for f in FUSIONS[1:]
        for k in ("sincos", "rotary")
    ),
]
EVERY = pytest.mark.parametrize("trunk, pool, positions, fusion", KINDS_OF_ENCODER)
TABLE = {"image": [3, None, 5, 1, None, 3], "text": [2, 7, None, 1, None, 1]}


def encoder_of(
    trunk="separate", pool="mean", positions="sincos", fusion=None, *, fields=FIELDS, **options
):
    torch.manual_seed(0)
    encoder = Encoder(fields, size="nano", trunk=trunk, pool=pool, positions=positions, **options)
    return (encoder.fuse(2, fusion) if fusion else encoder).double().eval()


def batch(table=TABLE):
    return batch_of(table, dtype=torch.float64)


def close(a, b):
    same(a, b, rtol=1e-9, atol=1e-10)


def row_of(b, row):
    return {key: v for key, v in b.items() if key[0] == row}


@EVERY
def test_one_vector_for_each_field_from_its_row_alone(trunk, pool, positions, fusion):
    encoder = encoder_of(trunk, pool, positions, fusion).align(5, fused=True)
    encoder.double()
    whole = batch()
    z = vectors(encoder(whole))
    there = {(r, n) for n, cells in TABLE.items() for r, c in enumerate(cells) if c}
    fused = {(r, FUSED) for r, _ in there} if trunk == "joint" else set()
    assert z.keys() == there | fused and all(
        v.shape == (5,) and v.isfinite().all() for v in z.values()
    )
    for row in range(
        whole.size
    ):  # what else is in the batch does not matter, nor which sources its rows lack
        alone = vectors(encoder(whole.between(row, row + 1)))
        close({(row, s): v for (_, s), v in alone.items()}, row_of(z, row))
    order = [4, 2, 5, 0, 3, 1]
    moved = vectors(encoder(reorder(whole, order)))
    close({(order[r], s): v for (r, s), v in moved.items()}, z)


@EVERY
def test_every_parameter_learns_and_an_absent_field_costs_no_parameter(
    trunk, pool, positions, fusion
):
    """Every rank touches every tower: parameters of a field that no row has get a gradient of
    zeros, not none at all."""
    encoder = encoder_of(trunk, pool, positions, fusion).align(5, hidden=7, fused=True).double()
    for table in (
        TABLE,
        {"image": [None, None], "text": [3, 1]},
        {"image": [None], "text": [None]},
    ):
        encoder.zero_grad()
        z = encoder(batch(table))
        assert {"image", "text"} <= set(z)
        sum(c.values.square().sum() for c in z.columns.values()).backward()
        without = [n for n, p in encoder.named_parameters() if p.grad is None]
        assert not without
        assert all(p.grad.isfinite().all() for p in encoder.parameters())
        if any(table["image"]):
            assert encoder.tokenizers["image"].project.weight.grad.any()


@pytest.mark.parametrize(
    "trunk, fusion",
    [("separate", None), ("shared", None), ("joint", None), *(("joint", f) for f in FUSIONS[1:])],
)
@quick
@given(data=st.data())
def test_a_field_is_encoded_alone_whatever_the_row_has(trunk, fusion, data):
    cell = st.none() | st.integers(1, 4)
    size = data.draw(st.integers(1, 5))
    table = {
        n: data.draw(st.lists(cell, min_size=size, max_size=size))
        for n in ("image", "text", "image:2")
    }
    encoder, whole = encoder_of(trunk, fusion=fusion), batch(table)
    z = vectors(encoder.features(whole))
    for source in table:
        alone = vectors(encoder.features(whole.only(source)))
        close(*({k: v for k, v in found.items() if k[1] == source} for found in (z, alone)))


def test_fused_vectors_depend_on_the_fields_a_row_has():
    for fusion in FUSIONS:
        encoder, whole = encoder_of("joint", fusion=fusion), batch()
        both, image = encoder.features(whole)[FUSED], encoder.features(whole.only("image"))[FUSED]
        assert both.rows.tolist() == [0, 1, 2, 3, 5] and image.rows.tolist() == [0, 2, 3, 5]
        torch.testing.assert_close(both.values[2], image.values[1])  # row 2 has an image alone
        assert not torch.allclose(both.values[0], image.values[0])


def test_views_of_a_field_share_its_parameters():
    for trunk in TRUNKS:
        encoder = encoder_of(trunk)
        one = batch({"image": [2, 4]})
        views = Batch(2, {"image:1": one["image"], "image:2": one["image"]}, one.keys, one.seeds)
        z = encoder.features(views)
        torch.testing.assert_close(z["image:1"].values, z["image:2"].values)
        torch.testing.assert_close(z["image:1"].values, encoder.features(one)["image"].values)


def test_position_and_field_are_distinguished():
    one = batch({"image": [4]})
    column = one["image"]
    backwards = Column(Ragged(column.values.flat.flip(0), column.values.lengths), column.rows)
    three = Batch(1, {"image": column, "image:2": backwards, "text": column}, one.keys, one.seeds)
    for positions in KINDS:
        encoder = encoder_of("shared", positions=positions)
        encoder.tokenizers["text"] = encoder.tokenizers["image"]
        if encoder.relative is not None:  # begins at zero
            torch.nn.init.normal_(encoder.relative.line)
        z = {s: c.values for s, c in encoder.features(three).columns.items()}
        assert not torch.allclose(z["image"], z["text"])
        # a line backwards has the same distances
        alike = positions in ("none", "alibi")
        assert torch.allclose(z["image"], z["image:2"]) == alike


class Contextual(ToyTokenizer):
    contextual = True


def test_a_backbone_takes_the_place_of_tokeniser_trunk_and_position():
    backbone = Contextual(64)
    encoder = encoder_of(backbones={"image": backbone})
    assert encoder.tokenizers["image"] is backbone and list(encoder.trunks) == ["text"]
    assert encoder.contextual("image") and not encoder.contextual("text")
    whole = batch()
    bag = encoder.patchify(whole)["image"]
    torch.testing.assert_close(
        encoder.features(whole)["image"].values,
        bag.with_x(bag.x + encoder.field_token["image"]).pool().values,
    )
    assert list(encoder_of("joint", backbones={"image": Contextual(64)}).trunks) == ["all"]


def test_mistakes_are_named():
    for wrong, message in [
        (lambda: Encoder({}), "at least one field"),
        (
            lambda: Encoder(FIELDS, trunk="seperate"),
            "no trunk is called 'seperate'. Did you mean separate?",
        ),
        (lambda: Encoder(FIELDS, size="tinny"), "no size is called 'tinny'. Did you mean tiny?"),
        (lambda: Encoder(FIELDS, pool="clss"), "Did you mean cls?"),
        (lambda: Encoder(FIELDS, size="nano", positions="rotery"), "Did you mean rotary?"),
        (
            lambda: Encoder(FIELDS, backbones={"imgae": Contextual(64)}),
            "no field is called 'imgae'. Did you mean image?",
        ),
        (lambda: encoder_of().fuse(), 'fusion tokens need trunk="joint"'),
        (lambda: encoder_of("joint").fuse(2, "pur"), "Did you mean pure?"),
        (
            lambda: encoder_of()(batch({"imgae": [1]})),
            "no field of this encoder is called 'imgae'. Did you mean image?",
        ),
        *(
            (lambda n=n: Encoder({n: Toy()}), "a field cannot be called")
            for n in (FUSED, "a.b", "a:1", "type", "values")
        ),
    ]:
        with pytest.raises(AmodalError, match=re.escape(message)):
            wrong()


@EVERY
def test_a_saved_encoder_is_the_same_encoder(trunk, pool, positions, fusion, tmp_path):
    encoder = encoder_of(trunk, pool, positions, fusion).align(5, fused=True).double()
    save_file(encoder.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    other = Encoder(FIELDS, size="nano", trunk=trunk, pool=pool, positions=positions).double()
    other = (other.fuse(2, fusion) if fusion else other).align(5, fused=True).double()
    assert list(other.state_dict()) == list(encoder.state_dict())
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        for (key, a), b in zip(vectors(encoder(batch())).items(), vectors(other(batch())).values()):
            assert torch.equal(a, b), key


def test_the_names_of_the_weights_are_a_promise():
    """Checkpoints of today must load tomorrow."""
    names = list(encoder_of("joint", "cls", "learned", "pure").align(5, fused=True).state_dict())
    block = [
        "norm1.weight",
        "norm1.bias",
        "attention.qkv.weight",
        "attention.qkv.bias",
        "attention.out.weight",
        "attention.out.bias",
    ]
    block += ["norm2.weight", "norm2.bias", "up.weight", "up.bias", "down.weight", "down.bias"]
    fields = ("image", "text")
    want = [*(f"tokenizers.{f}.project.{p}" for f in fields for p in ("weight", "bias"))]
    want += [f"field_token.{f}" for f in fields] + ["position.table"]
    want += [f"trunks.all.blocks.{i}.{p}" for i in range(2) for p in block] + [
        "trunks.all.norm.weight",
        "trunks.all.norm.bias",
    ]
    want += ["routing.fusion_tokens"]
    want += [f"pools.{f}.token" for f in fields] + [f"heads.{n}.weight" for n in (*fields, FUSED)]
    assert sorted(names) == sorted(want)
    separate = {n.split(".")[1] for n in encoder_of().state_dict() if n.startswith("trunks")}
    assert separate == set(fields)


def test_towers_may_have_fewer_blocks_and_a_saved_encoder_has_them():
    torch.manual_seed(0)
    encoder = Encoder(bench.fields(("picture", "words")), size="tiny").set_depths({"words": 1})
    encoder.set_depths({"picture": 3})
    rebuilt = encoder_config.build(encoder.spec)
    for made in (encoder, rebuilt):
        assert {f: len(t.blocks) for f, t in made.trunks.items()} == {"picture": 3, "words": 1}
    rebuilt.load_state_dict(encoder.state_dict())
    rows = bench.batch(("plain",), sources=("picture", "words"))
    for s, column in encoder.features(rows).columns.items():
        torch.testing.assert_close(rebuilt.features(rows)[s].values, column.values)


@pytest.mark.parametrize(
    "depths, trunk, message",
    [
        ({"text": 0}, "separate", "has 2 blocks, and is to have 0"),
        ({"text": 3}, "separate", "has 2 blocks, and is to have 3"),
        ({"txt": 1}, "separate", "has no blocks"),
        ({"text": 1}, "joint", "one tower can be shortened"),
    ],
)
def test_depths_that_there_are_not_are_refused(depths, trunk, message):
    with pytest.raises(AmodalError, match=message):
        encoder_of(trunk).set_depths(depths)
