"""UDA-COPE, Lee et al. 2022, arXiv:2111.12580: a teacher's coordinates are filtered against the points
in both directions before they teach. Coordinates are bins, Wang et al. 2019, arXiv:1901.02970; poses
are those of Umeyama 1991 within RANSAC, Fischler and Bolles 1981."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from amodal import methods, modalities
from amodal.core import Batch, Column
from amodal.nn.encoder import Encoder
from tests.golden import harness
from tests.golden.harness import Reference, defaults, golden
from tests.golden.naive import uniform
from tests.golden.transformers import gelu, linear, norm
from tests.methods.bench import exact, fields

SIDE, TILE, BINS, HIDDEN, DRAWS, PIXELS = 2, 4, 4, 6, 5, 64
NAMES = ("points", "coordinates")
HEADS = ("coordinate_head.", "teacher.1.")
SMALL = {"bins": BINS, "hidden": HIDDEN, "iterations": 7}


def rotations(n, rng):
    q = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
    return q * np.sign(np.linalg.det(q))[:, None, None]


def objects(*_, size=6, seed=0, labelled=False, names=NAMES, **__):
    """Points of objects in random poses; part of each picture is empty. Four objects have known
    coordinates, but of some points; the first has no points."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(size, PIXELS, 3))
    seen = rng.uniform(0.5, 2, (size, 1, 1)) * x @ rotations(size, rng)
    seen += rng.normal(size=(size, 1, 3)) + rng.normal(scale=0.02, size=seen.shape)
    x[:, :9], x[:, 9:12, 0], seen[:, 12:15, 1] = 0, 0, 0
    for i in range(size):
        seen[i, rng.choice(PIXELS, 10 + 5 * i, replace=False)] = 0
    maps = [torch.from_numpy(v.transpose(0, 2, 1).reshape(size, 3, 8, 8)) for v in (x, seen)]
    columns = {
        "picture": Column(
            torch.from_numpy(rng.random((size - 1, 3, 16, 16))), torch.arange(1, size)
        ),
        names[0]: Column(maps[1][1:], torch.arange(1, size)),
        names[1]: Column(maps[0][:4], torch.arange(4)),
        "signal": Column(
            fields()["signal"].collate([rng.normal(size=(9, 2)).astype("f") for _ in range(2)]),
            torch.tensor([2, 5]),
        ),
    }
    made = exact(Batch.of(size, columns, [f"{seed}-{i}" for i in range(size)]))
    known = torch.tensor([1, 4] if labelled else [], dtype=torch.int64)
    return dataclasses.replace(made, labels={"rendered": Column(known * 0, known)})


class UdaCope(Reference):
    stage, share, bins, momentum, pseudo, geometry, filtered = 1, 0.5, BINS, 0.99, 1.0, 1.0, True
    inlier_distance, filter_distance, iterations, labelled = 0.1, 0.1, 7, ""
    names = NAMES

    def __init__(self, page):
        super().__init__(page)
        self.teacher = self.add_network("teacher.0")
        assert list(self.encoder.fields) == ["picture", "signal", self.names[0]]
        assert page.labels == ((self.labelled,) if self.labelled else ())
        assert page.stages == ((self.share, 1.0) if 0 < self.share < 1 else (1.0,))

    def check_start(self):
        for name, value in self.w.items():
            if name.startswith("teacher.1."):
                own = f"coordinate_head.{name.removeprefix('teacher.1.')}"
                assert torch.equal(value, self.w[own]) and not value.requires_grad
        for a, b in zip(self.teacher.parameters(), self.encoder.parameters()):
            assert torch.equal(a, b)
        assert self.w["coordinate_head.head.net.1.weight"].shape == (HIDDEN, 3 * self.encoder.width)
        out = TILE * TILE * 3 * self.bins
        assert self.w["coordinate_head.head.net.3.weight"].shape == (out, HIDDEN)
        assert self.min_batch_size == 1

    def logits(self, encoder, head, batch):
        """Row -> (axes, bins, points), of rows that have points: a perceptron of the tokens of all
        fields that are at a place, zeros where there is none."""
        tokens = encoder.encode(encoder.tokenize(batch.only(*self.encoder.fields)))
        found = {}
        for r in batch[self.names[0]].rows.tolist():
            x = []
            for f in self.encoder.fields:
                own = tokens[f].x[tokens[f].row == r]
                if not len(own):
                    own = own.new_zeros(1, encoder.width)
                x.append(own if len(own) == SIDE**2 else own.mean(0).expand(SIDE**2, -1))
            x = norm(self.w, f"{head}.head.net.0", torch.cat(x, 1))
            x = linear(self.w, f"{head}.head.net.3", gelu(linear(self.w, f"{head}.head.net.1", x)))
            whole = x.new_zeros(3, self.bins, SIDE * TILE, SIDE * TILE)
            for place, patch in enumerate(x.view(-1, 3, self.bins, TILE, TILE)):
                i, j = place // SIDE * TILE, place % SIDE * TILE
                whole[:, :, i : i + TILE, j : j + TILE] += patch
            found[r] = whole.flatten(2)
        return found

    def losses(self, batch):
        logits = self.logits(self.encoder, "coordinate_head", batch)
        points = {
            r: v.flatten(1).T
            for r, v in zip(batch[self.names[0]].rows.tolist(), batch[self.names[0]].values)
        }
        wanted = dict(zip(batch[self.names[1]].rows.tolist(), batch[self.names[1]].values))
        source = batch.labels[self.labelled].rows.tolist() if self.labelled else wanted
        supervised = [r for r in logits if r in wanted and r in source]
        zero = 0 * sum(x.sum() for x in logits.values())
        total, n = zero, 0
        for r in supervised:
            aim = wanted[r].flatten(1).T
            held = [p for p in range(PIXELS) if points[r][p].any() and aim[p].any()]
            total = total + self.cross_entropy(logits[r], aim, held)
            n += len(held)
        terms = {"coordinates": total / max(n, 1)}
        if self.stage:
            terms |= self.taught(batch, logits, points, source, zero)
        return terms

    def taught(self, batch, logits, points, source, zero):
        with torch.no_grad():
            teacher = self.logits(self.teacher, "teacher.1", batch)
        total, distance, n = zero, zero, 0
        for r in logits:
            if r in source:
                continue
            x = ((teacher[r].argmax(1).double() + 0.5) / self.bins).T.numpy()
            y, seed = points[r].numpy(), int(batch.seeds[r])
            valid = [p for p in range(PIXELS) if y[p].any()]
            if self.filtered:
                fit, held = self.filter_both_ways(x, y, valid, seed)
            else:
                (fit, _), held = self.ransac(x, y, valid, seed), valid
            clean = torch.from_numpy(inverse(fit, y).clip(0, 1))
            aim = clean if self.filtered else torch.from_numpy(x)
            total = total + self.cross_entropy(logits[r], aim, held)
            centres = (torch.arange(self.bins) + 0.5) / self.bins
            mean = (logits[r].softmax(1) * centres[:, None]).sum(1).T
            distance = distance + (mean[held] - clean[held]).abs().sum()
            n += len(held)
        n = max(n, 1)
        return {"pseudo": self.pseudo * total / n, "geometry": self.geometry * distance / n}

    def cross_entropy(self, logits, aim, held):
        """Summed over points, the mean over axes; what is outside goes to the outermost bins."""
        log, wanted = logits.log_softmax(1), torch.zeros_like(logits)
        for p in held:
            for axis in range(3):
                b = min(max(math.floor(float(aim[p, axis]) * self.bins), 0), self.bins - 1)
                wanted[axis, b, p] = 1 / 3
        return -(wanted * log).sum()

    def ransac(self, x, y, valid, seed):
        best = []
        for attempt in range(self.iterations):
            draws = range(attempt * DRAWS, (attempt + 1) * DRAWS)
            chosen = [valid[int(uniform(seed, k) * len(valid))] for k in draws] if valid else []
            off = np.linalg.norm(inverse(umeyama(x[chosen], y[chosen]), y) - x, axis=1)
            agree = [p for p in valid if off[p] <= self.inlier_distance]
            if len(agree) > len(best):
                best = agree
        if len(best) < 4:
            return umeyama(x[valid], y[valid]), []
        return umeyama(x[best], y[best]), best

    def filter_both_ways(self, x, y, valid, seed):
        """Points that are far from all coordinates, and coordinates that are far from all points."""
        first, _ = self.ransac(x, y, valid, seed)
        seen, left = inverse(first, y), []
        for p in valid:
            of_point = np.linalg.norm(seen[p] - x[valid], axis=1).min()
            of_coordinate = np.linalg.norm(seen[valid] - x[p], axis=1).min()
            if of_point <= self.inlier_distance and of_coordinate <= self.filter_distance:
                left.append(p)
        if len(left) < 4:
            return first, []
        return self.ransac(x, y, left, seed)[0], left

    def after_step(self, step, steps):
        momentum = self.momentum if self.stage else 0
        with torch.no_grad():
            for a, b in zip(self.teacher.parameters(), self.encoder.parameters()):
                a.copy_(momentum * a + (1 - momentum) * b)
            for name in self.w:
                if name.startswith("teacher.1."):
                    b = self.w[f"coordinate_head.{name.removeprefix('teacher.1.')}"].detach()
                    self.w[name] = momentum * self.w[name] + (1 - momentum) * b


def umeyama(x, y):
    """Scale, rotation and translation of least squared error, from x to y."""
    if not len(x):
        return 1e-9, np.eye(3), np.zeros(3)
    a, b = x - x.mean(0), y - y.mean(0)
    u, d, v = np.linalg.svd(b.T @ a)
    turn = np.diag([1, 1, 1 if np.linalg.det(u @ v) > 0 else -1])
    rotation = u @ turn @ v
    scale = max((d * np.diag(turn)).sum() / max((a**2).sum(), 1e-12), 1e-9)
    return scale, rotation, y.mean(0) - scale * rotation @ x.mean(0)


def inverse(fit, y):
    scale, rotation, shift = fit
    return (y - shift) @ rotation / scale


def uda_cope(**options):
    return type("UdaCope", (UdaCope,), options)


@pytest.fixture
def small(monkeypatch):
    """The page on objects, in a stage."""

    def use(stage=1, labelled=False, names=NAMES):
        def method(_, **options):
            torch.manual_seed(0)
            kind = modalities.make("image", size=8, channels=3, patch=TILE)
            xyz = dict.fromkeys(names, kind)
            encoder = Encoder(fields(("picture", "signal")) | xyz, size="nano")
            options = {k: v for k, v in options.items() if k not in ("sources", "size")}
            page = methods.build("uda_cope", encoder, **(SMALL | options))
            # coordinates that coincide leave a rotation open, which processors then choose
            with torch.no_grad():
                for name, weight in page.named_parameters():
                    if name.startswith(HEADS) and weight.dim() > 1:
                        weight *= 30
            page.on_stage_start(stage)
            return page

        monkeypatch.setattr(harness, "method", method)
        rows = lambda *a, **k: objects(*a, **k, labelled=labelled, names=names)  # noqa: E731
        monkeypatch.setattr(harness, "batch", rows)

    return use


WIDE = {"inlier_distance": 0.45, "filter_distance": 0.2}


@pytest.mark.parametrize(
    "options",
    [
        WIDE,
        {**WIDE, "pseudo": 0.3, "geometry": 0.6, "momentum": 0.7},
        {**WIDE, "filtered": False, "iterations": 3},
        {"inlier_distance": 0.2, "filter_distance": 0.5},
    ],
)
def test_two_steps_with_a_teacher(small, options):
    small()
    golden("uda_cope", uda_cope(**options), views=("plain",), **options)


def test_two_steps_with_labels_of_a_part(small):
    small(labelled=True)
    options = {"labelled": "rendered", **WIDE}
    golden("uda_cope", uda_cope(**options), views=("plain",), **options)


def test_two_steps_with_other_names(small):
    names = ("seen", "place")
    small(names=names)
    options = {"points": "seen", "coordinates": "place", **WIDE}
    golden("uda_cope", uda_cope(names=names, **WIDE), views=("plain",), **options)


@pytest.mark.parametrize("source", [0.5, 1.0])
def test_two_steps_of_the_source_alone(small, source):
    small(stage=0)
    golden("uda_cope", uda_cope(stage=0, share=source), views=("plain",), source=source)


def test_defaults():
    found = defaults("uda_cope")
    assert found == {
        "points": "points",
        "coordinates": "coordinates",
        "labelled": "",
        "bins": 32,
        "hidden": 256,
        "source": 0.5,
        "momentum": 0.99,
        "pseudo": 1.0,
        "geometry": 1.0,
        "filtered": True,
        "inlier_distance": 0.1,
        "filter_distance": 0.1,
        "iterations": 100,
    }
