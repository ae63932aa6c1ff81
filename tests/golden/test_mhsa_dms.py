"""Masked self-attention for driver monitoring, Ma et al. 2023, arXiv:2304.06370, section 3, and the
authors' code: fusions of tokens, supervised contrast with a queue of keys, a classifier with focal
loss. Plain fusions: squeeze and excitation, Hu et al. 2018; attentional, Dai et al. 2021."""

import pytest
import torch

from amodal.core import name_code
from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.random import random_keep
from amodal.methods.fusion.mhsa_dms import PAPER_RECIPE
from tests.golden.harness import (
    Reference,
    assert_same,
    defaults,
    descend,
    golden,
    gradients,
    unit,
)
from tests.golden.transformers import attend, linear, mlp, norm
from tests.methods.bench import batch, exact, method

HEADS, DEPTH = 8, 2


class FusedContrast(Reference):
    fuse, ratio, dropout, groups = "attention", 0.5, 0.0, ""
    width, temperature, queue, momentum, classifier_share = 8, 0.07, 7, 0.999, 0.2
    with_label = True

    def __init__(self, page):
        super().__init__(page)
        self.key_encoder = self.add_network("key_branch.encoder")
        self.page_stages = page.stages

    def check_start(self):
        """The branch of keys begins as that of queries, and gets no gradient; the queue is empty."""
        d, w = self.encoder.width, self.w
        for name, value in self.key_encoder.state_dict().items():
            assert torch.equal(value, self.encoder.state_dict()[name]), name
        for name, value in w.items():
            if name.startswith("key_branch."):
                assert torch.equal(value, w[name.removeprefix("key_branch.")]), name
                assert not value.requires_grad, name
        self.assert_shapes(head__0__weight=(d, d), head__2__weight=(self.width, d))
        if self.with_label:
            self.assert_shapes(classifier__0__weight=(d, d), classifier__2__weight=(3, d))
        else:
            assert not any(n.startswith("classifier.") for n in w)
        share = self.classifier_share
        assert self.page_stages == ((1 - share, 1.0) if self.with_label else (1.0,))
        self.assert_shapes(queue__vectors__queue_all=(self.queue, self.width))
        assert not w["queue.vectors.count"].any() and not w["queue.groups.count"].any()
        if self.fuse == "attention":
            sets = len(self.sets())
            assert f"fusion.chains.{sets + (sets > 1) - 1}.{DEPTH - 1}.up.weight" in w
            assert f"fusion.chains.{sets + (sets > 1)}.0.up.weight" not in w
            assert f"fusion.chains.0.{DEPTH}.up.weight" not in w
            self.assert_shapes(fusion__chains__0__0__up__weight=(2 * d, d))
            for f in self.encoder.fields:
                assert 0.01 < w[f"fusion.source.{f}"].std() < 0.03
        if self.fuse in ("se", "aff"):
            wide = d * len(self.encoder.fields)
            name = "gate" if self.fuse == "se" else "local"
            self.assert_shapes(**{f"fusion__{name}__0__weight": (wide // 4, wide)})
        assert self.min_batch_size == 2

    def losses(self, batch):
        """Section 3.3: the positives of a query are its own key and those of its label."""
        queries = self.fused(self.encoder, "", batch, 1, batch.seeds)
        with torch.no_grad():
            bits = hash_bits(batch.seeds, 1)  # so that other tokens are left out
            keys = self.fused(self.key_encoder, "key_branch.", batch, 2, bits)
            self.keys = {r: unit(self.head("key_branch.", x)) for r, x in keys.items()}
        label = {}
        if self.with_label:
            known = batch.labels["kind"]
            label = dict(zip(known.rows.tolist(), known.values.tolist()))
        self.label = {r: label.get(r, -1) for r in self.keys}
        rows, (vectors, groups) = list(queries), self.earlier()
        every = [self.keys[r] for r in rows] + list(vectors)
        kinds = [self.label[r] for r in rows] + groups
        total = 0 * self.w["head.2.bias"].sum()
        for i, r in enumerate(rows):
            q = unit(self.head("", queries[r]))
            logits = torch.stack([q @ k for k in every]) / self.temperature
            log_p = logits - logits.logsumexp(0)
            same = [j for j, kind in enumerate(kinds) if j == i or (kind == kinds[i] >= 0)]
            total = total - log_p[same].mean() / len(rows)
        return {"contrast": total}

    def earlier(self):
        n = min(int(self.w["queue.vectors.count"]), self.queue)
        groups = self.w["queue.groups.queue_all"][self.queue - n :, 0]
        return self.w["queue.vectors.queue_all"][self.queue - n :], [int(g) for g in groups]

    def head(self, branch, x):
        return linear(self.w, f"{branch}head.2", linear(self.w, f"{branch}head.0", x).relu())

    def fused(self, encoder, branch, batch, view, seeds):
        """Row -> unit vector of all fields, of one view; seeds are None at test time."""
        sources = [s for s in batch.columns if s.endswith(f":{view}")]
        contexts = encoder.encode(encoder.tokenize(batch.only(*sources)))
        self.branch, found = branch, {}
        for r in range(batch.size):
            present = {
                s.split(":")[0]: (t.x[t.row == r], t.position[t.row == r])
                for s, t in contexts.items()
            }
            present = {f: x for f, x in present.items() if len(x[0])}
            if present:
                seed = None if seeds is None else seeds[r]
                found[r] = unit(getattr(self, self.fuse)(present, seed))
        return found

    # fusions of one row: field -> tokens and their positions

    def sets(self):
        fields = list(self.encoder.fields)
        groups = self.groups.split(",") if self.groups else ["+".join(fields)]
        return [[f.strip() for f in group.split("+")] for group in groups]

    def attention(self, present, seed):
        """Positions of each source, some tokens left out while training, blocks, and a sum."""
        shown = []
        for number, fields in enumerate(self.sets()):
            x = [self.placed(f, *present[f]) for f in fields if f in present]
            x = torch.cat(x) if x else torch.zeros(0, self.encoder.width).double()
            if seed is not None and len(x):
                bits = hash_bits(seed[None], name_code("fused tokens"), number).expand(len(x))
                row, order = torch.zeros(len(x), dtype=torch.int64), torch.arange(len(x))
                x = x[random_keep(row, bits, order, self.ratio)]
            shown.append(self.chain(number, x, seed))
        x = shown[0]
        if len(shown) > 1:
            x = self.chain(len(shown), torch.cat(shown), seed)
        return x.sum(0)

    def placed(self, f, x, position):
        """Linear interpolation in a table for each axis."""
        table = self.w[f"{self.branch}fusion.positions.{f}.table"]
        made = x + self.w[f"{self.branch}fusion.source.{f}"]
        for axis in range(3):
            place = position[:, axis].double().clamp(0, 255)
            low = place.floor().long().clamp(max=254)
            share = (place - low)[:, None]
            made = made + (1 - share) * table[axis, low] + share * table[axis, low + 1]
        return made

    def chain(self, number, x, seed):
        for i in range(DEPTH if len(x) else 0):
            name = f"{self.branch}fusion.chains.{number}.{i}"
            z = linear(self.w, f"{name}.attention.qkv", norm(self.w, f"{name}.norm1", x))
            z = linear(self.w, f"{name}.attention.out", attend(*z.chunk(3, 1), HEADS))
            x = x + self.dropped(z, seed, number, 2 * i)
            z = mlp(self.w, name, norm(self.w, f"{name}.norm2", x))
            x = x + self.dropped(z, seed, number, 2 * i + 1)
        return x

    def dropped(self, x, seed, number, stream):
        if seed is None or not self.dropout:
            return x
        bits = hash_bits(seed[None], name_code("fusion"), number).expand(len(x))
        bits = hash_bits(bits, torch.arange(len(x)))
        stays = uniform(bits[:, None], stream, torch.arange(x.shape[1])) >= self.dropout
        return x * stays / (1 - self.dropout)

    def means(self, present):
        zero = torch.zeros(self.encoder.width).double()
        return [present[f][0].mean(0) if f in present else zero for f in self.encoder.fields]

    def sum(self, present, seed):
        return sum(self.means(present))

    def conv(self, present, seed):
        return linear(self.w, f"{self.branch}fusion.linear", torch.cat(self.means(present)))

    def bottleneck(self, name, x):
        name = f"{self.branch}fusion.{name}"
        return linear(self.w, f"{name}.2", linear(self.w, f"{name}.0", x).relu())

    def se(self, present, seed):
        x = torch.cat(self.means(present))
        return (x * self.bottleneck("gate", x).sigmoid()).view(-1, self.encoder.width).sum(0)

    def aff(self, present, seed):
        """A token meets that of another field which is as far along."""
        whole, fields, total = (
            self.bottleneck("whole", torch.cat(self.means(present))),
            list(self.encoder.fields),
            0,
        )
        zero, d = torch.zeros(self.encoder.width).double(), self.encoder.width
        for number, f in enumerate(fields):
            n = len(present[f][0]) if f in present else 0
            for i in range(n):
                local = []
                for other in fields:
                    m = len(present[other][0]) if other in present else 0
                    local.append(present[other][0][int((i + 0.5) * m / n)] if m else zero)
                weight = (self.bottleneck("local", torch.cat(local)) + whole).sigmoid()
                total = total + weight[number * d : (number + 1) * d] * present[f][0][i] / n
        return total

    # the classifier

    def classified(self, batch):
        """Focal loss, of vectors without a gradient and with all tokens."""
        with torch.no_grad():
            vectors = self.fused(self.encoder, "", batch, 1, None)
        known, losses = batch.labels["kind"], []
        for r, y in zip(known.rows.tolist(), known.values.tolist()):
            if r in vectors:
                x = linear(self.w, "classifier.0", vectors[r]).relu()
                p = torch.softmax(linear(self.w, "classifier.2", x), 0)[y]
                losses.append(-((1 - p) ** 2) * p.log())
        return {"supervised": sum(losses) / len(losses)}

    def after_step(self, step, steps):
        """The branch of keys follows, and keys enter the queue."""
        m, w = self.momentum, self.w
        with torch.no_grad():
            for k, q in zip(self.key_encoder.parameters(), self.encoder.parameters()):
                k.copy_(m * k + (1 - m) * q)
            for name in [n for n in w if n.startswith("key_branch.")]:
                w[name] = m * w[name] + (1 - m) * w[name.removeprefix("key_branch.")]
        new = torch.stack(list(self.keys.values()))
        kinds = torch.tensor(list(self.label.values()))[:, None].double()
        for name, value in (("vectors", new), ("groups", kinds)):
            queue = torch.cat([w[f"queue.{name}.queue_all"], value])
            w[f"queue.{name}.queue_all"] = queue[len(value) :]
            w[f"queue.{name}.count"] = w[f"queue.{name}.count"] + len(value)


def hold(fields=("picture", "words"), rows=6, **options):
    options = {"dropout": 0.0, "width": 8, "queue": 7} | options
    reference = type("FusedContrast", (FusedContrast,), options)
    golden("mhsa_dms", reference, views=("strong",) * 2, fields=fields, rows=rows, **options)


@pytest.mark.parametrize("fuse", ["attention", "sum", "conv", "se", "aff"])
def test_two_steps(fuse):
    hold(fuse=fuse)


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.4, "ratio": 0.3},
        {"ratio": 0.0, "temperature": 0.5, "momentum": 0.6, "queue": 30, "width": 6},
        {"classifier_share": 0.4, "queue": 3},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


def test_two_steps_of_groups_of_fields():
    hold(("picture", "words", "facts"), rows=4, groups="picture + facts, words", dropout=0.2)


def test_two_steps_without_a_label():
    options = {"dropout": 0.0, "width": 8, "queue": 7}
    reference = type("FusedContrast", (FusedContrast,), {"with_label": False} | options)
    also = {"label": "", "classes": 0}
    golden("mhsa_dms", reference, views=("strong",) * 2, rows=4, also=also, **options)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    hold(rows=rows)


@pytest.mark.parametrize("dropout", [0.5])
def test_the_classifier(dropout):
    """Nothing else learns, and neither queue nor keys move."""
    fields, options = ("picture", "words"), {"width": 8, "queue": 7, "dropout": dropout}
    page = exact(method("mhsa_dms", sources=fields, **options)).train()
    page.on_stage_start(1)
    expected = type("FusedContrast", (FusedContrast,), options)(page)
    for step in (1, 2):
        some = exact(batch(page.views, size=6, seed=step, sources=fields))
        terms, wanted = page.losses(page.features(some)), expected.classified(some)
        assert_same(terms, wanted, "loss")
        terms["supervised"].backward()
        wanted["supervised"].backward()
        trained = {n: p for n, p in page.named_parameters() if p.requires_grad}
        assert all(n.startswith("classifier.") for n in trained)
        assert_same(gradients(trained), gradients(expected.parameters()), "gradient")
        descend(trained)
        descend(expected.parameters())
        page.on_step_end(None)
        assert_same(dict(page.state_dict()), expected.state(), "after a step")


def test_defaults():
    """The authors' configuration, but for the share of tokens left out, which they try out."""
    assert defaults("mhsa_dms") == {
        "label": "",
        "classes": 0,
        "fuse": "attention",
        "ratio": 0.5,
        "dropout": 0.5,
        "groups": "",
        "width": 128,
        "temperature": 0.07,
        "queue": 16384,
        "momentum": 0.999,
        "classifier_share": 0.2,
    }
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-3, 1e-3, (0.9, 0.999))
    assert (r.schedule, r.warmup, r.clip) == ("cosine", 0.0, 0.0)
    assert (r.batch_size, r.epochs, r.resolution) == (32, 100.0, 112)
