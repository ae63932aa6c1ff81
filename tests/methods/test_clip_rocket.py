"""CLIPRocket's total against the published losses written out, for two fields that every row has,
and every loss it may add."""

import pytest
import torch
import torch.nn.functional as F

from amodal import methods
from amodal.methods.contract import Clock
from amodal.nn.encoder import Encoder
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, fields

SMALL = {"width": 8, "hidden": 8, "added_width": 6, "added_hidden": 8}
ADDED = ("none", "barlip", "siamlip", "byolip", "swalip")


def made(**options):
    torch.manual_seed(0)
    two = {f: fields()[f] for f in ("picture", "words")}
    return exact(methods.build("clip_rocket", Encoder(two, size="nano"), **(SMALL | options)))


def two_fields(m, size=7):
    return exact(batch(m.views, size, patchy=False)).only(
        *[s for s in batch(m.views, 2).sources if s.startswith(("picture", "words"))]
    )


def cross_entropy(a, b, scale, smoothing=0.0):
    logits, own = scale * F.normalize(a, dim=1) @ F.normalize(b, dim=1).T, torch.arange(len(a))
    return [F.cross_entropy(x, own, label_smoothing=smoothing) for x in (logits, logits.T)]


def sinkhorn_knopp(scores):
    q = (scores / 0.05).exp()
    for _ in range(3):
        q = q / q.sum(0, keepdim=True)
        q = q / q.sum(1, keepdim=True)
    return q


def written_out(m, z, add, smoothing):
    """The losses of the paper's code, view by view."""
    image, text = ([z.pooled[f"{f}:{i}"].values for i in (1, 2, 3)] for f in ("picture", "words"))
    scale, local_scale = (s() for s in m.scales)
    whole = sum(cross_entropy(z.aligned["picture"].values, z.aligned["words"].values, scale)) / 2
    h_image, h_text = (
        [m.local["picture"](x) for x in image[1:]],
        [m.local["words"](x) for x in text[1:]],
    )
    local = [sum(cross_entropy(a, b, local_scale, smoothing)) / 2 for a in h_image for b in h_text]
    total = (whole + 2 * sum(local) / 4) / 3
    pairs = [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    if add == "barlip":
        v_image, v_text = (
            [m.added["picture"](x) for x in image],
            [m.added["words"](x) for x in text],
        )
        for i, j in pairs:
            a, b = (
                (v - v.mean(0)) / (v.var(0, unbiased=False) + 1e-5).sqrt()
                for v in (v_image[i], v_text[j])
            )
            c = a.T @ b / len(a)
            off = c.square().sum() - c.diagonal().square().sum()
            total = total + 0.025 * ((c.diagonal() - 1).square().sum() + 0.005 * off) / 5
    elif add in ("siamlip", "byolip"):
        v_image, v_text = (
            [m.added["picture"](x) for x in image],
            [m.added["words"](x) for x in text],
        )
        t_image, t_text = v_image, v_text
        if add == "byolip":
            t_image, t_text = (
                [m.ema_added[f](z.teacher[f"{f}:{i}"].values) for i in (1, 2, 3)]
                for f in ("picture", "words")
            )
        for i, j in pairs:
            p, q = m.predictors["picture"](v_image[i]), m.predictors["words"](v_text[j])
            for x, y in ((p, t_text[j]), (q, t_image[i])):
                total = total + (2 - 2 * F.cosine_similarity(x, y.detach()).mean()) / 10
    elif add == "swalip":
        unit_image, unit_text = ([F.normalize(x, dim=1) for x in h] for h in (h_image, h_text))
        for i in range(2):
            for j in range(2):
                other = (unit_image[1 - i] @ unit_text[1 - j].T).detach()
                logits = unit_image[i] @ unit_text[j].T * local_scale
                for target, x in (
                    (sinkhorn_knopp(other), logits),
                    (sinkhorn_knopp(other.T), logits.T),
                ):
                    total = total - 0.2 * (target * x.log_softmax(1)).sum(1).mean() / 8
    return total


@pytest.mark.parametrize("add", ADDED)
def test_the_total_is_the_paper(add):
    m = made(add=add)
    z = m.features(two_fields(m))
    expected = written_out(m, z, add, 0.0 if add == "swalip" else 0.1)
    total = sum(m.losses(z).values())
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-9)
    learnt = [p for p in m.parameters() if p.requires_grad]
    ours, theirs = (
        torch.autograd.grad(x, learnt, retain_graph=True, allow_unused=True)
        for x in (total, expected)
    )
    for a, b in zip(ours, theirs):
        a, b = (torch.zeros(()) if g is None else g for g in (a, b))
        assert (a - b).abs().max() < 1e-8


@pytest.mark.parametrize("views", [0, 1])
@pytest.mark.parametrize("add", ADDED)
def test_fewer_views_and_micro_batches(add, views):
    whole, pieces = made(add=add, local_views=views), made(add=add, local_views=views)
    values, accumulated = (
        gradients(whole, two_fields(whole)),
        gradients(pieces, two_fields(pieces), micro=3),
    )
    assert len(values) == 1 + (views > 0) + (add != "none")
    for name in values:
        torch.testing.assert_close(values[name], accumulated[name], rtol=1e-9, atol=1e-9)


def test_each_of_three_views_has_its_targets_from_another_view_of_both_fields():
    m = made(add="swalip", local_views=3)
    z = m.features(two_fields(m))
    a, b = (
        [F.normalize(m.local[f](z.pooled[f"{f}:{i}"].values), dim=1) for i in (2, 3, 4)]
        for f in ("picture", "words")
    )
    total = 0.0
    for i in range(3):
        for j in range(3):
            other, logits = (
                (a[(i + 1) % 3] @ b[(j + 1) % 3].T).detach(),
                a[i] @ b[j].T * m.scales[-1](),
            )
            for target, x in ((sinkhorn_knopp(other), logits), (sinkhorn_knopp(other.T), logits.T)):
                total = total - 0.2 * (target * x.log_softmax(1)).sum(1).mean() / 18
    torch.testing.assert_close(m.losses(z)["swalip/picture~words"], total, rtol=1e-9, atol=1e-9)


def test_the_ema_copy_follows_and_an_unknown_loss_is_named():
    m = made(add="byolip", momentum=0.9)
    student, teacher = m.added["picture"][0].weight, m.ema_added["picture"][0].weight
    with torch.no_grad():
        student.add_(1.0)
    before = teacher.clone()
    m.on_step_end(Clock(1, 10))
    torch.testing.assert_close(teacher, before + 0.1)
    assert not teacher.requires_grad
    with pytest.raises(ValueError, match="Did you mean barlip"):
        made(add="barlib")
