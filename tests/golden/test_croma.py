"""CROMA, Fuller et al. 2023, arXiv:2311.00566, section 3, with the weights and normalisation of the
authors' program: two encoders that see a quarter of their patches, 2D-ALiBi and X-ALiBi, a contrast,
and a decoder of the hidden patches."""

import itertools
import math

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError, Recipe, name_code
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.nn.encoder import Encoder
from tests.golden import naive
from tests.golden.harness import Reference, common, defaults, golden, unit
from tests.golden.transformers import block, gelu, linear, mlp, norm
from tests.methods.bench import fields, method

STEPS = {"thermal": 2.0}
"""Of tokens, in those of the finest sensor: pixels of 20 m, and of 10 m."""
GRIDS = ("optical", "radar", "thermal", "picture")


class Croma(Reference):
    deep, ratio, width, blocks, fusion_depth, shallow_depth = "optical", 0.75, 64, 2, 1, 1
    decoder_width, decoder_depth, decoder_heads, temperature, max_scale = 32, 1, 1, 0.07, 100.0
    contrast_weight = reconstruct_weight = 1.0
    biased = True

    def __init__(self, page):
        super().__init__(page)
        self.e = dict(self.encoder.named_parameters())
        self.names = list(self.encoder.fields)
        self.heads = self.encoder.num_heads

    def check_start(self):
        """The deep encoder has all blocks, the others and the fusion half."""
        d = self.encoder.width
        assert self.min_batch_size == 2
        for f in self.names:
            last = self.blocks if f == self.deep else self.shallow_depth
            assert f"trunks.{f}.blocks.{last - 1}.up.weight" in self.e
            assert f"trunks.{f}.blocks.{last}.up.weight" not in self.e
            assert self.e[f"pools.{f}.up.weight"].shape == (4 * d, d)
            assert self.e[f"heads.{f}.weight"].shape == (self.width, d)
            assert self.e[f"heads.{f}.bias"].shape == (self.width,)
        assert f"pools.fused.cross.blocks.{self.fusion_depth - 1}.up.weight" in self.e
        assert f"pools.fused.cross.blocks.{self.fusion_depth}.up.weight" not in self.e
        assert f"decoder.trunk.blocks.{self.decoder_depth - 1}.up.weight" in self.w
        assert f"decoder.trunk.blocks.{self.decoder_depth}.up.weight" not in self.w
        self.assert_shapes(decoder__in_proj__weight=(self.decoder_width, d))
        start = self.w["scale.log"].detach()
        assert torch.isclose(start, -torch.tensor(self.temperature).double().log(), rtol=1e-6)
        learned = [v for k, v in self.w.items() if k.split(".")[1] in ("mask", "field")]
        assert all(0.01 < v.std() < 0.03 for v in learned)

    def losses(self, batch):
        tokens = self.encoder.tokenize(batch)
        seen = {
            s: random_keep(
                t.row, hash_bits(batch.seeds, name_code(s))[t.row], t.within(), self.ratio
            )
            for s, t in tokens.items()
        }
        place = {s: self.places(s, t) for s, t in tokens.items()}
        centre = {s: self.centres(s, p) for s, p in place.items()}
        states = {s: [None] * batch.size for s in tokens}
        vectors, decoded = {s: [] for s in tokens}, {s: {} for s in tokens}
        for r in range(batch.size):
            present = {s: (t.row == r).nonzero()[:, 0] for s, t in tokens.items()}
            present = {s: at for s, at in present.items() if len(at)}
            shown = {s: at[seen[s][at]] for s, at in present.items()}
            for s, at in shown.items():
                states[s][r] = self.encode(s, tokens[s].x[at], centre[s][at])
                vectors[s].append(self.vector(s, states[s][r]))
            if present:
                guesses = self.reconstruct(states, place, centre, present, shown, r)
                for s, guess in guesses.items():
                    decoded[s][r] = guess
        columns = {
            s: type(batch[s])(
                torch.stack(v) if v else self.e[f"heads.{s}.weight"][:0],
                torch.tensor(sorted(set(tokens[s].row.tolist())), dtype=torch.int64),
            )
            for s, v in vectors.items()
        }
        return self.contrast(columns) | self.hidden_losses(batch, tokens, seen, decoded)

    def places(self, source, tokens):
        """Space, then the date since the first one of the row (sensors have one date, of an unknown
        month), row and column of the corner, in steps of the finest sensor; what is not on a grid
        has a space of its own."""
        made = tokens.position.clone()
        for r in set(tokens.row.tolist()):
            made[tokens.row == r, 0] -= made[tokens.row == r, 0].min()
        made[:, 1:] *= STEPS.get(source, 1.0)
        space = 0 if source in GRIDS else 1 + self.names.index(source)
        return torch.cat([torch.full_like(made[:, :1], space), made], 1)

    def centres(self, source, place):
        """The same of the middle of a patch: half a step of its own further, less half of one of
        the finest sensor, whose places are unchanged."""
        half = (STEPS.get(source, 1.0) - 1) / 2
        return place + torch.tensor([0, 0, half, half])

    # encoders

    def bias(self, one, other):
        """-slope |distance| of every two tokens, for each head: slopes 2^(-8 k / heads)."""
        if not self.biased:
            return torch.zeros(self.heads, len(one), len(other)).double()
        table = torch.zeros(self.heads, len(one), len(other), dtype=one.dtype)
        for h, i, j in itertools.product(*map(range, table.shape)):
            if one[i, 0] == other[j, 0]:
                distance = ((one[i, 1:] - other[j, 1:]) ** 2).sum().sqrt()
                table[h, i, j] = -(2 ** (-8 * (h + 1) / self.heads)) * distance
        return table.double()

    def attention(self, q, k, v, bias):
        made = []
        for h, (a, b, c) in enumerate(zip(*(x.chunk(self.heads, 1) for x in (q, k, v)))):
            made.append(torch.softmax(a @ b.T / math.sqrt(a.shape[1]) + bias[h], 1) @ c)
        return torch.cat(made, 1)

    def encode(self, source, x, place):
        """A transformer with 2D-ALiBi over the visible patches."""
        bias, e = self.bias(place, place), self.e
        for i in range(self.blocks if source == self.deep else self.shallow_depth):
            name = f"trunks.{source}.blocks.{i}"
            q, k, v = linear(e, f"{name}.attention.qkv", norm(e, f"{name}.norm1", x)).chunk(3, 1)
            x = x + linear(e, f"{name}.attention.out", self.attention(q, k, v, bias))
            x = x + mlp(e, name, norm(e, f"{name}.norm2", x))
        return norm(e, f"trunks.{source}.norm", x)

    def vector(self, source, x):
        """The mean patch through a perceptron, then a linear map."""
        name = f"pools.{source}"
        z = norm(self.e, f"{name}.norm", x.mean(0, keepdim=True))
        z = linear(self.e, f"{name}.down", gelu(linear(self.e, f"{name}.up", z)))
        return linear(self.e, f"heads.{source}", z)[0]

    def fuse(self, x, place, y, place_y):
        """Self-attention, attention to the deep sensor with X-ALiBi, and a perceptron."""
        root, e = "pools.fused.cross", self.e
        among, across = self.bias(place, place), self.bias(place, place_y)
        y = norm(e, f"{root}.norm_keys", y) if len(y) else y
        for i in range(self.fusion_depth):
            name = f"{root}.blocks.{i}"
            x = x + self.read(f"{name}.self_attention", norm(e, f"{name}.norm1", x), None, among)
            if len(y):
                z = norm(e, f"{name}.norm2", x)
                x = x + self.read(f"{name}.cross_attention", z, y, across)
            else:  # it reads nothing, and the bias of the last map is left
                x = x + e[f"{name}.cross_attention.out.bias"]
            x = x + mlp(e, name, norm(e, f"{name}.norm3", x))
        return norm(e, f"{root}.norm", x)

    def read(self, name, x, y, bias):
        q = linear(self.e, f"{name}.query", x)
        k, v = linear(self.e, f"{name}.key_value", x if y is None else y).chunk(2, 1)
        return linear(self.e, f"{name}.out", self.attention(q, k, v, bias))

    # decoder

    def reconstruct(self, states, place, centre, present, shown, r):
        """Source -> what the decoder makes of each of its patches in one row."""
        others = [s for s in present if s != self.deep]
        queries = others or list(present)
        keys = [s for s in present if s == self.deep and others]
        x, y = (
            torch.cat([states[s][r] for s in some] or [states[queries[0]][r][:0]])
            for some in (queries, keys)
        )
        (at, _), (middle, middle_y) = (
            [
                torch.cat([where[s][shown[s]] for s in some] or [where[queries[0]][:0]])
                for some in (queries, keys)
            ]
            for where in (place, centre)
        )
        joint, slots = linear(self.w, "decoder.in_proj", self.fuse(x, middle, y, middle_y)), {}
        for s, index in present.items():
            for p in place[s][index].tolist():
                slots.setdefault(tuple(p), [])
        for p, token in zip(at.tolist(), joint):
            slots[tuple(p)].append(token)
        mask = self.w["decoder.mask"]
        tokens = torch.stack([sum(t) / len(t) if t else mask for t in slots.values()])
        where = torch.tensor(list(slots), dtype=at.dtype)
        tokens = tokens + naive.positions(where[:, 1:], self.decoder_width)
        tokens = torch.stack(
            [
                t + self.w[f"decoder.field.{self.names[int(p[0]) - 1]}"] if p[0] else t
                for t, p in zip(tokens, where)
            ]
        )
        for i in range(self.decoder_depth):
            tokens = block(self.w, f"decoder.trunk.blocks.{i}", tokens, self.decoder_heads)
        tokens = norm(self.w, "decoder.trunk.norm", tokens)
        number = {p: i for i, p in enumerate(slots)}
        return {
            s: tokens[[number[tuple(p)] for p in place[s][index].tolist()]]
            for s, index in present.items()
        }

    def hidden_losses(self, batch, tokens, seen, decoded):
        """Of each sensor the mean over its own hidden patches; sensors are added up."""
        terms = {}
        for s, t in tokens.items():
            total, count = 0 * self.w["decoder.mask"].sum(), 0
            targets = self.targets(s, batch[s])
            for r, x in decoded[s].items():
                at = (t.row == r).nonzero()[:, 0]
                guess = linear(self.w, f"predictors.{s}", x)
                for i, number in enumerate(at.tolist()):
                    if not seen[s][number]:
                        total, count = total + self.error(s, guess[i], targets[number]), count + 1
            terms[f"reconstruct/{s}"] = self.reconstruct_weight * total / max(count, 1)
        return terms

    def targets(self, source, column):
        if source == "picture":
            pixels = (column.values.double() - 0.5) / 0.25
            return torch.stack(
                [
                    image[:, i : i + 8, j : j + 8].flatten()
                    for image in pixels
                    for i in range(0, image.shape[1], 8)
                    for j in range(0, image.shape[2], 8)
                ]
            )
        if source == "signal":
            return self.samples(column)
        return column.values.flat[:, 4:]  # behind place and month; bands are not scaled here

    def samples(self, column):
        series, made = self.encoder.fields["signal"], []
        mean, std = (torch.tensor(v).double() for v in series.scale())
        for value in column.values.split():
            x = (value.double() - mean) / std
            x = torch.nn.functional.pad(x, (0, 0, 0, -len(x) % series.patch), value=math.nan)
            made.append(x.reshape(-1, series.patch * x.shape[1]))
        return torch.cat(made)

    def error(self, source, guess, target):
        """Squared error, of pixels that are normalised within their patch and exist."""
        real = ~target.isnan()
        guess, target = guess[real], target[real]
        if source in GRIDS:
            count = max(len(target) - 1, 1)
            var = ((target - target.mean()) ** 2).sum() / count
            target = (target - target.mean()) / (var + 1e-6).sqrt()
        return ((guess - target) ** 2).mean()

    # contrast

    def contrast(self, columns):
        """Symmetric InfoNCE of every two sensors, over the rows that have both."""
        pairs, terms = list(itertools.combinations(columns, 2)), {}
        scale = self.w["scale.log"].exp()
        if scale > self.max_scale:
            scale = scale * (self.max_scale / scale).detach()
        for a, b in pairs:
            one, other = (unit(z) for z in common(columns, a, b))
            logits = scale * one @ other.T
            each = logits.logsumexp(1) + logits.logsumexp(0) - 2 * logits.diagonal()
            loss = each.mean() / 2 if len(one) > 1 else 0 * logits.sum()
            terms[f"info_nce/{a}~{b}"] = self.contrast_weight * loss / len(pairs)
        return terms


def croma(**options):
    return type("Croma", (Croma,), options)


SENSORS = ("optical", "radar")
TURNED = {"views": ("turned",), "fields": SENSORS}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ratio": 0.5, "contrast_weight": 0.3, "reconstruct_weight": 1.7, "fusion_depth": 2},
        {"deep": "radar", "shallow_depth": 2, "temperature": 0.2, "max_scale": 4.0},
    ],
)
def test_two_steps(options):
    """Two sensors of one grid with missing patches and pixels; some rows have one of them."""
    golden("croma", croma(**options), **TURNED, **options)


def test_two_steps_with_another_decoder_and_space():
    options = {"decoder_width": 128, "decoder_depth": 2}
    reference = croma(decoder_heads=2, width=16, **options)
    golden("croma", reference, also={"width": 16}, **TURNED, **options)


def test_two_steps_of_a_deeper_encoder():
    """Four blocks, two, two, and a decoder of half of 128."""
    reference = croma(blocks=4, shallow_depth=2, fusion_depth=2, width=128, decoder_width=64)
    golden("croma", reference, size="tiny", rows=4, **TURNED)


def test_two_steps_of_sensors_with_other_patches_on_the_ground():
    """The one reads a token of two steps; places of both are those of the union of their grids."""
    fields = ("thermal", "optical", "radar")
    golden("croma", croma(), views=("turned",), fields=fields, rows=5, deep="optical")


def test_two_steps_of_a_picture_and_a_signal():
    """What is on no grid has no distance to a picture, and places of its own."""
    fields = ("picture", "signal")  # the scale of a signal is in single precision
    golden("croma", croma(deep="picture"), views=("plain",), fields=fields, tolerance=1e-6)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    golden("croma", croma(), rows=rows, **TURNED)


def test_sines_in_place_of_distances(monkeypatch):
    """The paper's ablation."""
    monkeypatch.setattr(methods, "encoder_options", lambda name: {"positions": "sincos"})
    golden("croma", croma(biased=False), **TURNED)


def test_defaults():
    """Section 3 and the authors' program; 0 stands for a share of the encoder."""
    assert defaults("croma") == {
        "deep": "",
        "width": 0,
        "ratio": 0.75,
        "shallow_depth": 0,
        "fusion_depth": 0,
        "decoder_width": 0,
        "decoder_depth": 1,
        "temperature": 0.07,
        "max_scale": 100.0,
        "contrast_weight": 1.0,
        "reconstruct_weight": 1.0,
    }


def test_the_recipe_of_the_paper():
    assert methods.paper_recipe("croma") == Recipe(
        optimizer="adamw",
        lr=4e-6,
        lr_scaling="linear/256",
        weight_decay=0.01,
        betas=(0.9, 0.999),
        schedule="cosine",
        warmup=0.05,
        clip=0.0,
        batch_size=7200,
        epochs=300.0,
    )


@pytest.mark.parametrize("wrong, message", [
    ({"deep": "optica"}, "Did you mean optical"),
    ({"ratio": 1.0}, "ratio"),
    ({"ratio": -0.1}, "ratio"),
    ({"shallow_depth": 3}, "has 2 blocks, and is to have 3"),
    ({"shallow_depth": -1}, "has 2 blocks, and is to have -1"),
    ({"fusion_depth": -1}, "fusion_depth"),
    ({"decoder_depth": 0}, "decoder_depth"),
    ({"decoder_width": -1}, "decoder_width"),
    ({"width": -3}, "width"),
    ({"contrast_weight": -1.0}, "at least 0, not 0, -1.0 and 1.0"),
    ({"reconstruct_weight": -0.5}, "at least 0, not 0, 1.0 and -0.5"),
])  # fmt: skip
def test_wrong_numbers_are_refused(wrong, message):
    with pytest.raises(AmodalError, match=message):
        method("croma", sources=SENSORS, **wrong)


@pytest.mark.parametrize(
    "shape", [{"trunk": "joint"}, {"pool": "cls"}, {"mixer": "gru", "positions": "none"}]
)
def test_encoders_that_are_not_two_towers_of_attention_are_refused(shape):
    encoder = Encoder(fields(SENSORS), size="nano", **{"positions": "alibi"} | shape)
    with pytest.raises(AmodalError, match="croma has an encoder for each field"):
        methods.build("croma", encoder)
