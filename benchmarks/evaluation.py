"""The tuned linear probe against scikit-learn's, and retrieval metrics against the plain matrix of
all similarities.

`benchmarks.probes` compares single fits and neighbours. Here the penalty is chosen on both sides,
for 50,000 correlated features of 384 numbers: by scikit-learn among our six penalties by three
folds of 8,192 records and then a fit on all, which is what our probe does (its LogisticRegressionCV
on all records takes longer than a benchmark may). The accuracy of both stands in the name.
Retrieval: ranks of 20,000 queries among 20,000, where the peer makes the whole matrix, as most
evaluation scripts do; both must give the same metrics. Memory is of tensors, which does not see
what scikit-learn allocates.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import normalize

from amodal.evaluate.protocols.linear import fit
from amodal.evaluate.protocols.retrieval import ranked
from amodal.stats.logistic import PENALTIES, TUNED_ON
from benchmarks._timing import Row, compare
from benchmarks.probes import GOAL, Split, correlated, judged

QUERIES, WIDTH = 20_000, 256
ITERATIONS = 100  # scikit-learn's default, at which it warns
PEERS = ("scikit-learn",)


def run() -> list[Row]:
    data = correlated()
    what = f"linear probe, {len(data[0])}x{data[0].shape[1]}"
    peer = "sklearn LogisticRegressionCV on 8,192, then a fit"
    return [replace(judged(what, probes(data, tuned), peer, data, 1), goal=GOAL), retrieval()]


def probes(data: Split, peer: Callable) -> tuple[Callable[[], Tensor], Callable[[], object]]:
    """Ours, penalty chosen, and a scikit-learn model on standardised features."""
    x, y, q, _ = data

    def theirs() -> object:
        scale = StandardScaler().fit(x.numpy())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it stops at max_iter and says so
            return peer(scale.transform(x.numpy()), y.numpy()).predict(scale.transform(q.numpy()))

    return lambda: fit(x, y, 10)(q), theirs


def tuned(x, y) -> LogisticRegression:
    strengths = [1 / penalty for penalty in PENALTIES]
    some = LogisticRegressionCV(Cs=strengths, cv=3, scoring="neg_log_loss", max_iter=ITERATIONS)
    best = some.fit(x[:TUNED_ON], y[:TUNED_ON]).C_[0]
    return LogisticRegression(C=best, max_iter=ITERATIONS).fit(x, y)


def retrieval() -> Row:
    """Pairs that are near each other, as after training: recall@10 is neither 0 nor 1."""
    g = torch.Generator().manual_seed(0)
    gallery = torch.randn(QUERIES, WIDTH, generator=g)
    query = gallery + 3 * torch.randn(QUERIES, WIDTH, generator=g)

    def ours() -> dict[str, float]:
        return {row["metric"]: row["value"] for row in ranked(query, gallery)}

    mine, theirs = ours(), plain_metrics(query, gallery)
    for name, value in theirs.items():
        if abs(value - mine[name]) > 1e-3 * max(1, abs(value)):
            raise RuntimeError(f"{name}: {mine[name]} here, {value} by the plain matrix")
    what = f"retrieval metrics {QUERIES}x{QUERIES}, recall@10 {mine['recall@10']:.3f}"
    return compare(
        what, ours, "the whole matrix in torch", lambda: plain_metrics(query, gallery), repeat=1
    )


def plain_metrics(query: Tensor, gallery: Tensor) -> dict[str, float]:
    """Recall, mean reciprocal and median rank from a matrix of all similarities."""
    similarity = normalize(query, dim=1) @ normalize(gallery, dim=1).T
    rank = 1 + (similarity > similarity.diagonal()[:, None]).sum(1)
    recall = {f"recall@{k}": float((rank <= k).float().mean()) for k in (1, 5, 10)}
    return recall | {"MRR": float((1 / rank).mean()), "median rank": float(rank.float().median())}
