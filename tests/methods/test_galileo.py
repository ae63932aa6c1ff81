"""Galileo beyond the batches of its golden test: other trunks and poolings, and more than one
raster."""

import math

import pytest
import torch

from amodal import methods, modalities
from amodal.core import AmodalError
from amodal.core.tokens import METRES
from amodal.methods.masked.galileo import exit_depths
from amodal.nn.encoder import Encoder
from amodal.nn.positions import Ground
from amodal.objectives.patch_disc import patch_disc
from tests.methods.bench import batch, exact, fields, method

FIELDS = ("picture", "signal", "facts")
SMALL = fields(FIELDS)
OPTIONS = methods.encoder_options("galileo")


def built(size="nano", fields=SMALL, **options):
    chosen = {name: options.pop(name) for name in ("trunk", "pool", "mixer") if name in options}
    torch.manual_seed(0)
    return methods.build("galileo", Encoder(fields, size=size, **OPTIONS | chosen), **options)


@pytest.mark.parametrize("trunk", ["joint", "shared", "separate"])
def test_targets_are_states_of_the_teacher_at_their_exits(trunk):
    page = exact(built("tiny", trunk=trunk, half="picture", linear="facts")).eval()
    rows = exact(batch(("plain",), sources=FIELDS))
    deep, shallow = page.targets(rows).values()
    teacher = page.teacher
    whole = teacher.encode(teacher.tokenize(rows))
    torch.testing.assert_close(deep["signal"].x, whole["signal"].x)
    content = teacher.patchify(rows)
    for source in FIELDS:
        norm = teacher.trunks["all" if trunk != "separate" else source].norm
        torch.testing.assert_close(shallow[source].x, norm(content[source].x))
    assert torch.equal(deep["facts"].x, shallow["facts"].x)
    # half: the last two of four blocks add nothing to what is read before
    for stack in teacher.trunks.values():
        for block in stack.blocks[2:]:
            for layer in (block.attention.out, block.down):
                torch.nn.init.zeros_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
    half = teacher.encode(teacher.tokenize(rows))
    torch.testing.assert_close(deep["picture"].x, half["picture"].x)
    assert not deep["picture"].x.requires_grad


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_a_class_token_is_neither_seen_nor_predicted(pool):
    page = exact(built(pool=pool)).eval()
    rows, counts = exact(batch(("weak",), sources=FIELDS)), {}

    def count(task):
        def hook(module, inputs):
            counts[task] = [len(tokens) for tokens in inputs]

        return hook

    for task, predictor in page.predictors.items():
        predictor.register_forward_pre_hook(count(task))
    page.features(rows)
    for task, states in page.draw(page.encoder.tokenize(rows), rows.seeds).items():
        every = torch.cat(list(states.values()))
        assert counts[task] == [int((every == 0).sum()), int((every == 2).sum())]


@pytest.mark.parametrize("tile", [1, 2, 3, 5, 8, 50])
def test_patch_disc_compares_within_a_record_whatever_the_tile(tile):
    generator, lengths = torch.Generator().manual_seed(0), [3, 0, 1, 7, 2]
    made = [torch.randn(13, 4, generator=generator).double().requires_grad_() for _ in range(2)]
    loss = patch_disc(*made, torch.tensor(lengths), temperature=0.2, tile=tile)
    expected, start = [], 0
    for count in lengths:
        one, other = (x[start : start + count] for x in made)
        cosine = torch.nn.functional.cosine_similarity(one[:, None], other[None], dim=2)
        expected += [-0.4 * (row / 0.2).log_softmax(0)[i] for i, row in enumerate(cosine)]
        start += count
    torch.testing.assert_close(loss, torch.stack(expected))
    weight = torch.arange(13.0)
    slopes = [torch.autograd.grad((x * weight).sum(), made) for x in (loss, torch.stack(expected))]
    for a, b in zip(*slopes):
        torch.testing.assert_close(a, b)


def test_places_of_tokens_that_know_no_metres_count_ten_of_them():
    module, place = Ground(64), torch.tensor([[0.0, 2.0, 3.0]])
    expected = module(place)
    for metres in (math.nan, 10.0):
        torch.testing.assert_close(module(place, {METRES: torch.tensor([metres])}), expected)


def test_losses_of_a_record_do_not_depend_on_the_batch():
    page = exact(built()).eval()
    rows = exact(batch(("weak",), sources=FIELDS))
    whole = page.features(rows)
    assert whole.tasks["global"].rows.tolist() == whole.tasks["local"].rows.tolist()
    for row in range(rows.size):
        single = page.features(rows.between(row, row + 1))
        for task, column in whole.tasks.items():
            mine = column.flat[column.rows == row]
            torch.testing.assert_close(single.tasks[task].flat, mine)


def test_columns_of_a_table_and_tokens_of_a_text_are_no_dates():
    page = method("galileo", sources=("picture", "words", "signal", "facts"))
    tokens = page.encoder.tokenize(batch(("weak",)))
    assert not page.places(tokens["words"]).any() and not page.places(tokens["facts"]).any()
    signal = page.places(tokens["signal"])
    assert signal[:, 0].any() and not signal[:, 1:].any()
    assert page.places(tokens["picture"])[:, 1:].any()


def test_rasters_beside_each_other_are_turned_together():
    fine = modalities.make("raster", bands=("a", "b"), size=8, patch=4)
    still = modalities.make("raster", bands=("a",), size=8, patch=4, turn=False)
    words = fields(("words",))

    def views(**rasters):
        return built(fields=rasters | words).views

    assert views(fine=fine) == ("weak",)
    turned, plain, weak = ("turned",), ("plain",), ("weak",)
    assert views(fine=fine, coarse=fine) == {"fine": turned, "coarse": turned, "words": weak}
    for other in (still, fields(("picture",))["picture"]):
        assert views(fine=fine, coarse=other) == {"fine": plain, "coarse": plain, "words": weak}


def test_exits_of_groups_go_before_those_of_their_field():
    raster = modalities.make("raster", bands=("a", "b", "c"), groups={"ab": ["a", "b"]})
    encoder = Encoder({"sat": raster, **fields(("facts",))}, size="tiny", **OPTIONS)
    assert exit_depths(encoder, half="", linear="") == {"sat": [4, 4], "facts": [4]}
    assert exit_depths(encoder, half="sat, facts", linear="sat.c") == {"sat": [2, 0], "facts": [2]}
    with pytest.raises(AmodalError, match="Did you mean sat.ab"):
        exit_depths(encoder, half="sat.a", linear="")


@pytest.mark.parametrize("options, message", [
    ({"pool": "attention"}, "would stay random"),
    ({"trunk": "separate", "mixer": "gru"}, "states between the blocks"),
])  # fmt: skip
def test_encoders_that_do_not_suit(options, message):
    with pytest.raises(AmodalError, match=message):
        built(**options)


def test_patches_that_vary_are_refused_beside_another_grid():
    fields = {
        "s2": modalities.make("raster", bands=("a", "b"), size=16, patch=4, patches=(2, 4)),
        "dem": modalities.make("raster", bands=("h",), size=16, patch=4),
    }
    with pytest.raises(AmodalError, match="'s2' cannot vary beside another field on a grid .dem."):
        built(fields=fields)
    built(fields={"s2": fields["s2"]})
    for options in ({"temperature": 0.0}, {"momentum": 2.0}, {"final_momentum": -0.1}):
        with pytest.raises(AmodalError, match="galileo.temperature is above 0"):
            built(fields={"dem": fields["dem"]}, **options)
