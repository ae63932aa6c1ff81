"""Cross-task alignment for test-time training, Barbeau et al. 2025, arXiv:2507.05221: two encoders of the
same data, one of which learned without labels and holds the other in place. NT-Xent: Chen et al. 2020,
arXiv:2002.05709."""

import copy

import pytest
import torch

from tests.golden.harness import Reference, assert_same, defaults, golden, projector, unit
from tests.golden.transformers import linear
from tests.methods.bench import batch, exact, method


def nt_xent(first, second, temperature):
    z, n = unit(torch.cat([first, second])), len(first)
    total = 0 * z.sum()
    for i in range(2 * n if n > 1 else 0):
        logits = z @ z[i] / temperature
        others = [k for k in range(2 * n) if k != i]
        total = total + (logits[others].logsumexp(0) - logits[(i + n) % (2 * n)]) / (2 * n)
    return total


class CrossTask(Reference):
    alone, weight, anchor, joint = 0.5, 1.0, 0.0, False
    width, temperature, align_temperature = 8, 0.5, 0.1

    def __init__(self, page):
        super().__init__(page)
        self.frozen = self.add_network("frozen")
        two = self.alone > 0 and not self.joint
        assert page.stages == ((self.alone, 1.0) if two else (1.0,))
        self.first = two

    def check_start(self):
        d, fields = self.encoder.width, list(self.encoder.fields)
        self.assert_shapes(head__net__0__weight=(3, d * len(fields)))
        for f in fields:
            assert not self.w[f"head.absent.{f}"].any()
            for heads in ("view_heads", "student_heads", "frozen_heads"):
                assert self.w[f"{heads}.{f}.0.weight"].shape == (d, d)
                assert self.w[f"{heads}.{f}.3.weight"].shape == (self.width, d)
        for name, value in self.frozen.state_dict().items():
            assert torch.equal(value, self.encoder.state_dict()[name]), name
        assert self.min_batch_size == 2

    def losses(self, batch):
        z = self.encoder.features(batch).columns
        if self.first:
            return self.views(z, "view_heads")
        terms = {"predict/kind": self.supervised(batch, z)}
        if self.joint:
            views = self.views(z, "student_heads")
            return terms | {name: self.weight * loss for name, loss in views.items()}
        with torch.no_grad():
            seen = self.frozen.features(batch).columns
        return terms | self.aligned(z, seen, self.weight)

    def views(self, z, heads):
        """Two views of a value and a projector."""
        fields = list(self.encoder.fields)
        terms = {}
        for f in fields:
            pair = [projector(self.w, f"{heads}.{f}", z[f"{f}:{v}"].values) for v in (1, 2)]
            terms[f"nt_xent/{f}"] = nt_xent(*pair, self.temperature) / len(fields)
        return terms

    def aligned(self, z, seen, weight):
        """Both directions of InfoNCE, between the two encoders and the two views."""
        fields, terms = list(self.encoder.fields), {}
        for f in fields:
            u = unit(projector(self.w, f"student_heads.{f}", z[f"{f}:1"].values))
            v = unit(projector(self.w, f"frozen_heads.{f}", seen[f"{f}:2"].values))
            logits, n = u @ v.T / self.align_temperature, len(u)
            loss = 0 * (u.sum() + v.sum())
            for i in range(n if n > 1 else 0):
                both = logits[i].logsumexp(0) + logits[:, i].logsumexp(0)
                loss = loss + (both / 2 - logits[i, i]) / n
            terms[f"align/{f}"] = weight * loss / len(fields)
        return terms

    def supervised(self, batch, z):
        """Of the first views, all fields side by side."""
        fields = sorted(self.encoder.fields)
        rows = {f: dict(zip(z[f"{f}:1"].rows.tolist(), z[f"{f}:1"].values)) for f in fields}
        labels, losses = batch.labels["kind"], []
        for r, y in zip(labels.rows.tolist(), labels.values.tolist()):
            if any(r in rows[f] for f in fields):
                x = torch.cat([rows[f].get(r, self.w[f"head.absent.{f}"]) for f in fields])
                logits = linear(self.w, "head.net.0", x)
                losses.append(logits.logsumexp(0) - logits[y])
        nothing = 0 * self.w["head.net.0.bias"].sum()
        return sum(losses) / len(losses) if losses else nothing

    def at_test(self, batch):
        """Views through the aligned path, without labels."""
        z = self.encoder.features(batch).columns
        total = sum(self.views(z, "student_heads").values())
        if self.anchor and not self.joint:
            with torch.no_grad():
                seen = self.frozen.features(batch).columns
            total = total + sum(self.aligned(z, seen, self.anchor).values())
        return total


def hold(fields=("picture", "words"), rows=6, view="strong", **options):
    options = {"width": 8, "alone": 0.0} | options
    reference = type("CrossTask", (CrossTask,), options)
    also = {"view": view}
    golden("cta_ttt", reference, views=(view, view), fields=fields, rows=rows, also=also, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": 0.3, "align_temperature": 0.4},
        {"alone": 0.5},
        {"alone": 0.2, "temperature": 0.2, "view": "weak"},
        {"joint": True, "alone": 0.5, "weight": 0.4},
    ],
)
def test_two_steps(options):
    hold(**options)


def test_two_steps_of_one_field_and_of_three():
    hold(("picture",))
    hold(("words", "picture", "facts"), rows=8)


@pytest.mark.parametrize("rows", [2, 3])
def test_few_rows(rows):
    hold(rows=rows)
    hold(rows=rows, alone=0.5)


def page_of(**options):
    fields = ("picture", "words")
    page = exact(method("cta_ttt", sources=fields, width=8, **options))
    with torch.no_grad():
        for p in page.parameters():
            p += 0.02 * torch.randn_like(p)
    return page.train()


@pytest.mark.parametrize("anchor, joint", [(0.0, False), (0.7, False), (0.7, True)])
def test_at_test_time(anchor, joint):
    """A joint network has no other encoder to hold it."""
    options = {"alone": 0.0, "anchor": anchor, "joint": joint}
    page = page_of(**options)
    reference = type("CrossTask", (CrossTask,), options)(page)
    some = exact(batch(page.views, size=6, sources=("picture", "words")))
    loss, wanted = page.at_test(some), reference.at_test(some)
    assert_same({"loss": loss}, {"loss": wanted}, "loss")
    loss.backward()
    wanted.backward()
    for name, p in page.encoder.named_parameters():
        other = dict(reference.encoder.named_parameters())[name].grad
        assert_same({name: p.grad}, {name: other}, "gradient")


def test_what_was_learned_without_labels_is_frozen_and_the_other_begins_anew():
    page = page_of(alone=0.5)
    assert not page.refresh_first
    learned, begin = (copy.deepcopy(m.state_dict()) for m in (page.encoder, page.frozen))
    page.refresh(1, lambda: None)
    assert_same(dict(page.frozen.state_dict()), learned, "frozen")
    assert_same(dict(page.encoder.state_dict()), begin, "anew")
    page.on_stage_start(1)
    reference = type("CrossTask", (CrossTask,), {"alone": 0.5})(page)
    reference.first = False
    some = exact(batch(page.views, size=6, sources=("picture", "words")))
    assert_same(page.losses(page.features(some)), reference.losses(some), "loss")


def test_defaults():
    """Temperature of NT-Xent: SimCLR."""
    assert defaults("cta_ttt") == {
        "label": "",
        "targets": (),
        "alone": 0.5,
        "weight": 1.0,
        "anchor": 0.0,
        "joint": False,
        "view": "strong",
        "width": 128,
        "temperature": 0.5,
        "align_temperature": 0.1,
    }
