"""SSMA, Valada, Mohan and Burgard 2020, arXiv:1808.03833, sections 3.3, 3.4 and 4, and the authors'
code: eASPP of each field, the SSMA block (equations 8 to 11), a decoder that weighs its skips
(equations 12 and 13), deep supervision; experts alone, then together, then with encoders fixed."""

import dataclasses

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d, interpolate

from amodal import methods, modalities
from amodal.core import Column
from amodal.methods.fusion.ssma import columns_of
from amodal.nn.encoder import Encoder
from tests.golden import harness
from tests.golden.harness import Reference, batch_norm, defaults, golden
from tests.methods.bench import batch, exact, fields, method

RATES = (3, 6, 12)
PATCHES = 2
"""Of a picture of the bench, on a side."""
EXPERTS = ("network.pyramids.", "network.unfolds.", "network.heads.")


class Ssma(Reference):
    stage, width, skip, squeeze, skip_squeeze, gated = 0, 16, 6, 16, 6, True
    coarse, fine, classes, dense = 0.5, 0.6, 3, False

    def __init__(self, page):
        page.on_stage_start(self.stage)
        super().__init__(page)
        self.stages = page.stages
        self.fields = list(self.encoder.fields)

    def check_start(self):
        n, width, skips = len(self.fields), self.width, self.skip
        fixed = self.stage == 2
        if self.gated:
            narrow, thin = n * width // self.squeeze, n * skips // self.skip_squeeze
            assert self.w["network.fuse.gate.0.weight"].shape == (narrow, n * width, 3, 3)
            assert self.w["network.fuse_skips.1.gate.2.weight"].shape == (n * skips, thin, 3, 3)
        else:
            assert not any(".gate." in name for name in self.w)
        assert self.w["network.fuse.mix.0.weight"].shape == (width, n * width, 1, 1)
        assert self.w["network.fuse_skips.0.mix.weight"].shape == (skips, n * skips, 3, 3)
        assert self.w["network.decoder.last.weight"].shape == (self.classes, width, 1, 1)
        assert all(p.requires_grad != fixed for p in self.encoder.parameters())
        for name, value in self.w.items():
            if value.is_floating_point() and "running" not in name:
                still = fixed and name.startswith(EXPERTS)
                assert value.requires_grad != still, name

    def losses(self, batch):
        if self.dense:
            truth = self.classes_of_pixels(batch)
        else:
            label = batch.labels["kind"]
            truth = dict(zip(label.rows.tolist(), label.values))
        maps = self.maps(batch)
        if self.stage == 0:
            terms = {}
            for f in self.fields:
                rows = list(maps["deep"][f])
                scores = self.head(f, self.pyramid(f, self.stack(maps["deep"][f], rows)))
                terms[f"alone/{f}"] = self.cross_entropy(scores, rows, truth) / len(self.fields)
            return terms
        rows = [r for r in sorted(truth) if any(r in maps["deep"][f] for f in self.fields)]
        deep, skips = [], [[], []]
        for f in self.fields:
            present = list(maps["deep"][f])
            deep.append(
                self.spread(self.pyramid(f, self.stack(maps["deep"][f], present)), present, rows)
            )
            for k, part in enumerate(skips):
                early = self.unfold(f, k, self.stack(maps["early"][f], present))
                part.append(self.spread(early, present, rows))
        x = self.fuse("network.fuse", deep)
        x = self.norm("network.fuse.mix.1", conv2d(x, self.w["network.fuse.mix.0.weight"]))
        weights, terms = (self.coarse, self.fine), []
        for k, part in enumerate(skips):
            x, before = self.up(k, x, self.skips(k, part))
            name = f"network.decoder.deep.{k}"
            aux = self.norm(f"{name}.1", conv2d(before, self.w[f"{name}.0.weight"]))
            terms.append(weights[k] * self.cross_entropy(aux, rows, truth))
        scores = self.conv("network.decoder.last", x)
        return {"together": self.cross_entropy(scores, rows, truth) + sum(terms)}

    def classes_of_pixels(self, batch):
        """Numbers beyond the classes are nobody's."""
        column, truth = batch["areas"], {}
        for r, values in zip(column.rows.tolist(), column.values):
            number = (values[0] * 255).round().long()
            truth[r] = torch.where(number < self.classes, number, -1)
        return truth

    def maps(self, batch):
        """Before and after the trunk: row -> (D, side, side); what is no picture has one mean."""
        columns = {f: batch[f] for f in self.fields}
        early = self.encoder.tokenize(dataclasses.replace(batch, columns=columns))
        deep = self.encoder.encode(early)
        side = PATCHES if "picture" in self.fields else 1
        made = {"early": {}, "deep": {}}
        for level, tokens in (("early", early), ("deep", deep)):
            for f in self.fields:
                made[level][f] = {}
                for r in tokens[f].row.unique().tolist() if f in tokens else ():
                    x = tokens[f].x[tokens[f].row == r]
                    if f != "picture":
                        x = x.mean(0, keepdim=True).expand(side * side, -1)
                    made[level][f][r] = x.T.reshape(-1, side, side)
        return made

    def stack(self, maps, rows):
        side = PATCHES if "picture" in self.fields else 1
        if not rows:
            return torch.zeros(0, self.encoder.width, side, side, dtype=torch.float64)
        return torch.stack([maps[r] for r in rows])

    def spread(self, values, present, rows):
        """Zeros for rows that lack the field."""
        made = [
            values[present.index(r)] if r in present else values.new_zeros(values.shape[1:])
            for r in rows
        ]
        return torch.stack(made) if made else values.new_zeros(0, *values.shape[1:])

    def norm(self, name, x):
        n, c, h, w = x.shape
        flat = x.permute(0, 2, 3, 1).reshape(-1, c)
        if self.fixed(name):
            mean, var = self.w[f"{name}.running_mean"], self.w[f"{name}.running_var"]
            flat = (flat - mean) / (var + 1e-5).sqrt() * self.w[f"{name}.weight"]
            flat = flat + self.w[f"{name}.bias"]
        else:
            flat = batch_norm(self.w, name, flat)
        return flat.reshape(n, h, w, c).permute(0, 3, 1, 2)

    def fixed(self, name):
        """In the last stage encoders keep their statistics too."""
        return self.stage == 2 and name.startswith(EXPERTS)

    def conv(self, name, x, padding=0, dilation=1):
        bias = self.w.get(f"{name}.bias")
        return conv2d(x, self.w[f"{name}.weight"], bias, padding=padding, dilation=dilation)

    def conv_norm(self, name, x, padding=0, dilation=1):
        return self.norm(f"{name}.1", self.conv(f"{name}.0", x, padding, dilation))

    def pyramid(self, field, x):
        """Section 3.3: a 1x1 convolution, cascades of two dilated ones, the mean of the map."""
        name = f"network.pyramids.{field}"
        parts = [self.conv_norm(f"{name}.branches.0", x).relu()]
        for i, rate in enumerate(RATES, 1):
            y = self.conv_norm(f"{name}.branches.{i}.0", x).relu()
            y = self.conv_norm(f"{name}.branches.{i}.1", y, rate, rate).relu()
            y = self.conv_norm(f"{name}.branches.{i}.2", y, rate, rate).relu()
            parts.append(self.conv_norm(f"{name}.branches.{i}.3", y).relu())
        mean = x.mean((2, 3), keepdim=True)
        mean = self.conv_norm(f"{name}.whole", mean).relu()
        parts.append(mean.expand(-1, -1, *x.shape[2:]))
        return self.conv_norm(f"{name}.mix", torch.cat(parts, 1))

    def head(self, field, x):
        return self.conv(f"network.heads.{field}", x)

    def unfold(self, field, k, x):
        """A token becomes a map of 2 x 2 or 4 x 4."""
        name, t = f"network.unfolds.{field}.{k}.net", 2 ** (k + 1)
        y = self.conv(f"{name}.0", x)
        n, _, h, w = y.shape
        y = y.reshape(n, self.skip, t, t, h, w).permute(0, 1, 4, 2, 5, 3)
        return self.norm(f"{name}.2", y.reshape(n, self.skip, h * t, w * t))

    def fuse(self, name, maps):
        """Equations 8 to 10: all maps, gated by a bottleneck that sees all of them."""
        x = torch.cat(maps, 1)
        if not self.gated:
            return x
        narrow = self.conv(f"{name}.gate.0", x, 1).relu()
        return x * self.conv(f"{name}.gate.2", narrow, 1).sigmoid()

    def skips(self, k, maps):
        """Of skips the last convolution is 3 x 3 and without BatchNorm."""
        name = f"network.fuse_skips.{k}"
        return self.conv(f"{name}.mix", self.fuse(name, maps), 1)

    def up(self, k, x, skip):
        """Equations 12 and 13: channels of the skip are weighed by the mean of the map."""
        name = f"network.decoder.stages.{k}"
        x = conv_transpose2d(x, self.w[f"{name}.up.0.weight"], stride=2, padding=1)
        x = self.norm(f"{name}.up.1", x)
        weight = self.conv_norm(f"{name}.skip_gate", x.mean((2, 3), keepdim=True)).relu()
        y = torch.cat([x, weight * skip], 1)
        for i in (0, 1):
            y = self.conv_norm(f"{name}.mix.{i}", y, 1).relu()
        return y, x

    def cross_entropy(self, scores, rows, truth):
        total, n = 0 * scores.sum(), 0
        for r, of_row in zip(rows, scores):
            if r not in truth:
                continue
            if not self.dense:
                y = of_row.mean((1, 2))
                total, n = total + y.logsumexp(0) - y[truth[r]], n + 1
                continue
            size = tuple(truth[r].shape)
            y = interpolate(of_row[None], size, mode="bilinear", align_corners=False)[0]
            for i in range(size[0]):
                for j in range(size[1]):
                    if truth[r][i, j] >= 0:
                        total = total + y[:, i, j].logsumexp(0) - y[truth[r][i, j], i, j]
                        n += 1
        return total / max(n, 1)


def steps(fields=("picture", "words"), rows=6, **changed):
    reference = type("Ssma", (Ssma,), changed)
    options = {n: v for n, v in changed.items() if n not in ("stage", "dense", "classes")}
    golden("ssma", reference, views=("plain",), fields=fields, rows=rows, **options)


def test_defaults():
    """Widths, eta, and weights of deep supervision: section 4.1, and the authors' code."""
    assert defaults("ssma") == {
        "label": "",
        "classes": 0,
        "width": 256,
        "skip": 24,
        "squeeze": 16,
        "skip_squeeze": 6,
        "gated": True,
        "alone": 0.5,
        "fixed": 0.17,
        "coarse": 0.5,
        "fine": 0.6,
    }
    page = method("ssma", sources=("picture", "words"), width=256, skip=24)
    type("Ssma", (Ssma,), {"width": 256, "skip": 24})(page).check_start()
    assert page.network.fuse.gate[0].out_channels == 32  # 512 -> 32 and 48 -> 8 in their code
    assert page.network.fuse_skips[0].gate[0].out_channels == 8


def test_predictions_are_logarithms_of_probabilities_without_infinity():
    page = exact(method("ssma", sources=("picture", "words"))).eval()
    rows = exact(batch(("plain",), sources=("picture", "words")))
    log = page.predict(rows).values
    torch.testing.assert_close(log.exp(), page.probabilities(rows).values)
    with torch.no_grad():
        page.network.decoder.last.bias += torch.tensor([0.0, 0.0, 1e4]).double()
    certain = page.predict(rows).values
    torch.testing.assert_close(certain[:, 2], torch.zeros(len(certain)).double())
    torch.testing.assert_close(certain[:, 0].exp(), torch.full((len(certain),), 1e-12).double())


def test_gates_of_a_place_are_means_over_channels():
    page = exact(method("ssma", sources=("picture", "words"))).train()
    reference = type("Ssma", (Ssma,), {"stage": 1})(page)
    rows = exact(batch(("plain",), patchy=False, sources=("picture", "words")))
    maps, every = reference.maps(rows)["deep"], list(range(8))
    deep = [reference.pyramid(f, reference.stack(maps[f], every)) for f in reference.fields]
    narrow = reference.conv("network.fuse.gate.0", torch.cat(deep, 1), 1).relu()
    gate = reference.conv("network.fuse.gate.2", narrow, 1).sigmoid()
    wanted = torch.stack([g.mean(1) for g in gate.chunk(2, 1)], 1)
    found = page.network.gates(columns_of(page.maps(rows)), torch.arange(8))
    torch.testing.assert_close(found, wanted)
    plain = exact(method("ssma", sources=("picture", "words"), gated=False))
    assert (plain.network.gates(columns_of(plain.maps(rows)), torch.arange(8)) == 1).all()


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "signal", "facts")])
def test_two_steps(fields, stage):
    steps(fields, stage=stage)


@pytest.mark.parametrize(
    "options",
    [
        {"gated": False},
        {"coarse": 0.2, "fine": 0.9, "squeeze": 4, "skip_squeeze": 3},
        {"width": 8, "skip": 4, "squeeze": 2, "skip_squeeze": 2},
    ],
)
def test_two_steps_with_other_options(options):
    steps(stage=1, **options)


def test_fields_without_a_grid():
    steps(("words", "facts"), stage=1)


@pytest.mark.parametrize(("stage", "rows"), [(0, 1), (0, 2), (1, 2)])
def test_few_rows(stage, rows):
    steps(stage=stage, rows=rows)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_field_that_no_row_has(stage, monkeypatch):
    def without(*args, **options):
        return batch(*args, absent=("picture",), **options)

    monkeypatch.setattr(harness, "batch", without)
    steps(stage=stage)


@pytest.mark.parametrize("stage", [0, 1])
def test_no_row_has_a_label(stage, monkeypatch):
    def unlabelled(*args, **options):
        made = batch(*args, **options)
        nothing = {"kind": made.labels["kind"].at(made.labels["kind"].rows < 0)}
        return dataclasses.replace(made, labels=nothing)

    monkeypatch.setattr(harness, "batch", unlabelled)
    steps(stage=stage)


@pytest.mark.parametrize("stage", [0, 1])
def test_two_steps_of_pixels(stage, monkeypatch):
    """Classes of pixels, of which some are unknown, and of one row all."""

    def dense(name, *, sources, size, **options):
        torch.manual_seed(0)
        areas = {"areas": modalities.make("image", size=16, channels=1, patch=8)}
        encoder = Encoder(fields(sources) | areas, size=size)
        return methods.build(name, encoder, label="areas", classes=4, **options)

    def with_areas(views, *, size, seed, sources):
        made = batch(views, size=size, seed=seed, sources=sources)
        rows = [0, 1, 2, 4]
        numbers = torch.randint(0, 6, (4, 1, 16, 16), generator=torch.Generator().manual_seed(seed))
        numbers[0, :, 5:] = 255
        numbers[3] = 254
        areas = Column(numbers.float() / 255, torch.tensor(rows))
        return dataclasses.replace(made, columns=made.columns | {"areas": areas}, labels={})

    monkeypatch.setattr(harness, "method", dense)
    monkeypatch.setattr(harness, "batch", with_areas)
    steps(stage=stage, dense=True, classes=4, width=16, skip=6)


@pytest.mark.parametrize(
    ("shares", "stages"),
    [
        ({}, (0.5, 0.83, 1.0)),
        ({"alone": 0.0, "fixed": 0.25}, (0.75, 1.0)),
        ({"alone": 0.4, "fixed": 0.0}, (0.4, 1.0)),
        ({"alone": 0.0, "fixed": 0.0}, (1.0,)),
        ({"alone": 0.7, "fixed": 0.3}, (0.7, 1.0)),  # 1 - 0.7 - 0.3 is not 0 in floating point
    ],
)
def test_stages(shares, stages):
    """Section 5.2: 150,000, 100,000 and 50,000 steps."""
    page = method("ssma", sources=("picture", "words"), **shares)
    assert page.stages == pytest.approx(stages)
    for stage in range(len(stages)):
        page.train().on_stage_start(stage)
        terms = set(page.losses(page.features(batch(("plain",), sources=("picture", "words")))))
        alone = stage == 0 and shares.get("alone", 0.5) > 0
        assert terms == ({"alone/picture", "alone/words"} if alone else {"together"})
        fixed = stage == len(stages) - 1 and shares.get("fixed", 0.17) > 0
        assert page.encoder.training != fixed and page.network.fuse.training
        assert any(p.requires_grad for p in page.encoder.parameters()) != fixed
