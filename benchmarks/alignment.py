"""Forward and backward of the losses between fields against pytorch-metric-learning, lightly, or
the published formula as one would write it in torch ("plain torch"), with the whole matrix of
similarities. float32, gradients to all inputs; products of both sides by the library that the
training loop uses (`amodal.core.matmul`)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.objectives.balance import balanced_info_nce
from amodal.objectives.focal_info_nce import focal_info_nce
from amodal.objectives.gram_volume import gram_info_nce
from amodal.objectives.hard_negative import hard_negative_nce
from amodal.objectives.margin import contrastive_margin, ranking_hinge, triplet_margin
from amodal.objectives.multi_view import multi_positive, mv_dhel, mv_info_nce
from amodal.objectives.negative_cosine import negative_cosine
from amodal.objectives.sinkhorn import sinkhorn
from amodal.objectives.smoothed_info_nce import smoothed_info_nce
from amodal.objectives.soft_info_nce import SparseTargets, soft_info_nce
from amodal.objectives.structure import structure_loss
from amodal.objectives.sup_con import sup_con
from amodal.objectives.swalip import swalip
from amodal.objectives.tensor_clip import multi_barlow_twins, tensor_clip
from benchmarks._timing import Row
from benchmarks.losses import DEVICE, _inputs, _row

PLAIN = "plain torch"


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def plain_clip(
    a: Tensor,
    b: Tensor,
    *,
    temperature: float,
    smoothing: float = 0.0,
    targets: Tensor | None = None,
) -> Tensor:
    logits = cosines(a, b) / temperature
    own = torch.arange(len(a), device=a.device)
    there, back = (own, own) if targets is None else (targets, targets.T)
    one, other = (
        F.cross_entropy(logits, there, label_smoothing=smoothing),
        F.cross_entropy(logits.T, back, label_smoothing=smoothing),
    )
    return (one + other) / 2


def plain_hard_negative(
    a: Tensor, b: Tensor, *, temperature: float = 0.5, beta: float = 1.0, prior: float = 0.1
) -> Tensor:
    n, z = len(a), F.normalize(torch.cat([a, b]), dim=1)
    similar = (z @ z.T / temperature).exp()
    own = torch.eye(n, dtype=torch.bool, device=a.device).repeat(2, 2)
    positive = (z[:n] * z[n:]).sum(1).div(temperature).exp().repeat(2)
    negative = similar[~own].view(2 * n, -1)
    weight = negative.log().mul(beta).exp()
    hard = (weight * negative).sum(1) / weight.mean(1)
    count = 2 * n - 2
    ng = ((-prior * count * positive + hard) / (1 - prior)).clamp(
        min=count * math.exp(-1 / temperature)
    )
    return -(positive / (positive + ng)).log().mean()


def plain_balanced(a: Tensor, b: Tensor, *, temperature: float) -> Tensor:
    logits = cosines(a, b) / temperature
    one, other = logits.log_softmax(1).log_softmax(0), logits.log_softmax(0).log_softmax(1)
    return -(one.diagonal() + other.diagonal()).mean() / 2


def plain_gram(
    anchor: Tensor, *others: Tensor, temperature: float, smoothing: float = 0.1
) -> Tensor:
    """As the paper has it: an N x N table of Gram matrices, and a determinant of each."""
    n, vectors = len(anchor), [F.normalize(o, dim=1) for o in others]
    a, k = F.normalize(anchor, dim=1), len(others) + 1
    gram = torch.empty(n, n, k, k, device=a.device)
    rows = [[a.new_ones(n, n), *(a @ v.T for v in vectors)]]
    for i, v in enumerate(vectors):
        rows.append([rows[0][i + 1], *((v * w).sum(1).expand(n, n) for w in vectors)])
    gram = torch.stack([torch.stack(row, -1) for row in rows], -2)
    logits = -torch.linalg.det(gram).clamp(min=1e-6).sqrt() / temperature
    own = torch.arange(n, device=a.device)
    return (
        F.cross_entropy(logits, own, label_smoothing=smoothing)
        + F.cross_entropy(logits.T, own, label_smoothing=smoothing)
    ) / 2


def plain_mv_info_nce(*views: Tensor, temperature: float) -> Tensor:
    n, v = len(views[0]), len(views)
    z = F.normalize(torch.stack(views, 1), dim=2).flatten(0, 1)
    e = (z @ z.T / temperature).exp()
    e = e.masked_fill(torch.eye(n * v, dtype=torch.bool, device=z.device), 0)
    above = e.view(n, v, n, v).diagonal(dim1=0, dim2=2).sum((0, 1))
    return -(above / e.sum(1).view(n, v).sum(1)).log().mean()


def plain_mv_dhel(*views: Tensor, temperature: float) -> Tensor:
    unit = [F.normalize(v, dim=1) for v in views]
    above = sum(
        ((unit[i] * unit[j]).sum(1) / temperature).exp()
        for i in range(len(unit))
        for j in range(i + 1, len(unit))
    )
    off = ~torch.eye(len(unit[0]), dtype=torch.bool, device=unit[0].device)
    below = sum((((u @ u.T / temperature).exp() * off).sum(1)).log() for u in unit)
    return (below - above.log()).mean()


def plain_structure(x: Tensor, y: Tensor, *, temperature: float = 0.05) -> Tensor:
    def neighbours(z: Tensor) -> Tensor:
        z = F.normalize(z, dim=1)
        z = z - z.mean(0)
        return (z @ z.T / temperature).softmax(1)

    p, q = neighbours(x.detach()), neighbours(y)
    m = (p + q) / 2
    tiny = torch.finfo(p.dtype).tiny
    apart = lambda one: (one * (one.clamp_min(tiny).log() - m.clamp_min(tiny).log())).sum(1)  # noqa: E731
    return (apart(p) + apart(q)).mean() / 2


def plain_hinge(a: Tensor, b: Tensor, *, margin: float) -> Tensor:
    scores = cosines(a, b)
    own = scores.diagonal()
    off = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    one = ((margin - own[:, None] + scores).relu() * off).sum() + (
        (margin - own[None] + scores).relu() * off
    ).sum()
    return one / len(a)


def plain_focal(a: Tensor, b: Tensor, *, temperature: float, gamma: float = 2.0) -> Tensor:
    own = (cosines(a, b) / temperature).log_softmax(1).diagonal()
    return -((1 - own.exp()) ** gamma * own).mean()


def plain_tensor_clip(*fields: Tensor, temperature: float) -> Tensor:
    a, b, c = (F.normalize(s, dim=1) for s in fields)
    logits = torch.einsum("id,jd,kd->ijk", a, b, c) / temperature
    n = len(a)
    own = torch.arange(n, device=a.device) * (n + 1)
    return sum(F.cross_entropy(logits.movedim(w, 0).flatten(1), own) for w in range(3)) / 3


def plain_barlow_ways(*fields: Tensor, off_diagonal: float = 5.1e-3) -> Tensor:
    a, b, c = (F.batch_norm(s, None, None, training=True, eps=1e-5) for s in fields)
    cube = torch.einsum("ij,ik,il->jkl", a, b, c) / len(a)
    index = torch.arange(cube.shape[0], device=cube.device)
    diagonal = cube[index, index, index]
    return (1 - diagonal).square().sum() + off_diagonal * (
        cube.square().sum() - diagonal.square().sum()
    )


def plain_swalip(a: Tensor, b: Tensor, *, temperature: float, epsilon: float = 0.05) -> Tensor:
    with torch.no_grad():
        scores = cosines(a, b)
        there, back = (plain_sinkhorn(s, epsilon=epsilon) for s in (scores, scores.T))
    logits = cosines(a, b) / temperature
    return (F.cross_entropy(logits, there) + F.cross_entropy(logits.T, back)) / 2


def plain_sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    q = (scores / epsilon).exp()
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True)
        q = q / q.sum(1, keepdim=True)
    return q


def table(*views: Tensor) -> tuple[Tensor, Tensor]:
    return torch.stack(views, 1), torch.ones(
        len(views[0]), len(views), dtype=torch.bool, device=views[0].device
    )


def run() -> list[Row]:
    from lightly.loss import NegativeCosineSimilarity
    from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import SupConLoss, TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner
    from pytorch_metric_learning.reducers import MeanReducer

    n, d, t = 2048, 256, 0.1
    pair = _inputs(2, n, d)
    partner = torch.arange(n - 1, -1, -1, device=DEVICE)
    shares = torch.linspace(0.5, 1, n, device=DEVICE)
    mixed = torch.zeros(n, n, device=DEVICE).scatter_add_(
        1, partner[:, None], (1 - shares)[:, None]
    )
    mixed.diagonal().add_(shares)
    group = torch.arange(n, device=DEVICE) // 4
    metric = "pytorch-metric-learning"
    by_distance = LpDistance(normalize_embeddings=True, p=2, power=1)
    hardest, triplets = (
        BatchHardMiner(distance=by_distance),
        TripletMarginLoss(margin=0.2, distance=by_distance, reducer=MeanReducer()),
    )
    supcon = SupConLoss(temperature=t)
    three, few, cube = _inputs(3, n, d), _inputs(3, 128, d), _inputs(3, 512, 128)
    scores = _inputs(1, n, 4096)[0].detach().requires_grad_(False).div(20)

    def ours_sinkhorn(*_: Tensor) -> Tensor:
        return sinkhorn(scores, epsilon=0.05, iterations=3).sum() + 0 * _[0].sum()

    def peer_sinkhorn(*_: Tensor) -> Tensor:
        return (
            lightly_sinkhorn(scores, epsilon=0.05, iterations=3, gather_distributed=False).sum()
            + 0 * _[0].sum()
        )

    def by_group(loss):
        return lambda z: loss(z, group)

    lines = [
        (f"smoothed InfoNCE N {n}", pair, lambda a, b: smoothed_info_nce(a, b, temperature=t), PLAIN,
         lambda a, b: plain_clip(a, b, temperature=t, smoothing=0.1)),
        (f"soft InfoNCE, two positives, N {n}", pair, lambda a, b: soft_info_nce(a, b, SparseTargets.mixup(partner, shares), temperature=t),
         PLAIN, lambda a, b: plain_clip(a, b, temperature=t, targets=mixed)),
        (f"hard negatives N {n}", pair, lambda a, b: hard_negative_nce(a, b), PLAIN, plain_hard_negative),
        (f"balanced InfoNCE, 2 steps, N {n}", pair, lambda a, b: balanced_info_nce(a, b, temperature=t), PLAIN,
         lambda a, b: plain_balanced(a, b, temperature=t)),
        (f"SwALIP N {n}", pair, lambda a, b: swalip(a, b, a.detach(), b.detach(), temperature=t), PLAIN,
         lambda a, b: plain_swalip(a, b, temperature=t)),
        (f"ranking hinge N {n}", pair, lambda a, b: ranking_hinge(a, b, margin=0.2), PLAIN, lambda a, b: plain_hinge(a, b, margin=0.2)),
        (f"STRUCTURE N {n}", pair, structure_loss, PLAIN, plain_structure),
        (f"negative cosine N {n}", pair, negative_cosine, "lightly", lambda a, b: 2 + 2 * NegativeCosineSimilarity()(a, b.detach())),
        (f"Sinkhorn N {n} K 4096", _inputs(1, 2, 2), ours_sinkhorn, "lightly", peer_sinkhorn),
        (f"contrastive margin, all pairs, N {n}", pair[:1], by_group(lambda z, g: contrastive_margin(z, g, margin=0.5, hardest=0)),
         PLAIN, by_group(lambda z, g: plain_contrastive(z, g, margin=0.5))),
        (f"triplets, batch hard, N {n}", pair[:1], by_group(lambda z, g: triplet_margin(z, g, margin=0.2)), metric,
         by_group(lambda z, g: triplets(z, g, hardest(z, g)))),
        (f"multi-positive NT-Xent, 4 views, N {n // 4}", _inputs(4, n // 4, d),
         lambda *v: multi_positive(*table(*v), temperature=t), metric,
         lambda *v: supcon(torch.cat(v), torch.arange(n // 4, device=DEVICE).repeat(4))),
        (f"SupCon N {n}", pair[:1], by_group(lambda z, g: sup_con(z, g, temperature=t)), metric, by_group(supcon)),
        (f"focal InfoNCE N {n}", pair, lambda a, b: focal_info_nce(a, b, temperature=t), PLAIN,
         lambda a, b: plain_focal(a, b, temperature=t)),
        (f"MV-InfoNCE, 3 views, N {n // 2}", _inputs(3, n // 2, d), lambda *v: mv_info_nce(*table(*v), temperature=t), PLAIN,
         lambda *v: plain_mv_info_nce(*v, temperature=t)),
        (f"MV-DHEL, 3 views, N {n}", three, lambda *v: mv_dhel(*table(*v), temperature=t), PLAIN,
         lambda *v: plain_mv_dhel(*v, temperature=t)),
        (f"GRAM, 3 fields, N {n}", three, lambda a, *o: gram_info_nce(a, o, temperature=t), PLAIN,
         lambda a, *o: plain_gram(a, *o, temperature=t)),
        ("TensorCLIP, 3 fields, N 128", few, lambda *v: tensor_clip(v, temperature=t), PLAIN,
         lambda *v: plain_tensor_clip(*v, temperature=t)),
        ("TensorCLIP, 3 fields, 4 blocks of 128", _inputs(3, 512, d), lambda *v: tensor_clip(v, temperature=t), PLAIN,
         lambda *v: sum(plain_tensor_clip(*b, temperature=t) for b in zip(*(x.split(128) for x in v))) / 4),
        ("Barlow of 3 fields, N 512 D 128", cube, lambda *v: multi_barlow_twins(v), PLAIN, plain_barlow_ways),
    ]  # fmt: skip
    return [_row(*line) for line in lines]


def plain_contrastive(z: Tensor, group: Tensor, *, margin: float) -> Tensor:
    z = F.normalize(z, dim=1)
    apart = (2 - 2 * z @ z.T).clamp(min=1e-12).sqrt()
    upper = torch.ones_like(apart, dtype=torch.bool).triu(1)
    same = group[:, None] == group
    return (
        apart[same & upper].square().sum() + (margin - apart[~same & upper]).relu().square().sum()
    ) / len(z)
