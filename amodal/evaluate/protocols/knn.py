"""Weighted nearest neighbours: the k most similar training records vote for a class.

Wu et al. 2018 (arXiv:1805.01978, section 3.4), as used by DINO: cosine similarity s, votes exp(s /
T), k = 20, T = 0.07.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.core.matmul import fast_products
from amodal.evaluate.labels import Predict, measure_sources
from amodal.evaluate.needed_records import drawn, labelled
from amodal.evaluate.needs import LABEL
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded

MAX_SIMILARITIES = 2**23
"""Computed at once."""


def knn(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    k: int = 20,
    temperature: float = 0.07,
    few: int | None = None,
    draws: int = 5,
    seed: int = 0,
    sources: Sequence[str] | None = None,
    prefilter: bool = False,
) -> Result:
    """Classify by nearest neighbours, on the features of each field and on the fused vectors.

    Where the label is a number, the prediction is the weighted mean.

    Args:
        train: Training records.
        test: Test records.
        label: What is predicted.
        k: Neighbours.
        temperature: Of the votes.
        few: See `measure`.
        draws: See `measure`.
        seed: See `measure`.
        sources: All unless set.
        prefilter: Look for neighbours in bfloat16 first. It is faster where the processor has
            bfloat16, and may miss a neighbour on the margin.

    Raises:
        AmodalError: For fewer than one neighbour.
    """
    if k < 1:
        raise AmodalError(f"k = {k}: at least one neighbour has to vote")

    def fit(x: Tensor, y: Tensor, classes: int) -> Predict:
        return neighbours(x, y, classes, k=k, temperature=temperature, prefilter=prefilter)

    spec, rows = measure_sources(
        fit,
        train,
        test,
        label,
        sources=sources,
        few=few,
        draws=draws,
        seed=seed,
    )
    voting = {"k": k, "temperature": temperature, "prefilter": prefilter}
    return Result("knn", spec | voting, rows)


def neighbours(
    x_ND: Tensor,
    y_N: Tensor,
    classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
    prefilter: bool = False,
) -> Predict:
    """Make a predictor that votes among labelled vectors.

    Args:
        x_ND: Vectors.
        y_N: Classes by number, or numbers.
        classes: How many, 0 where `y_N` are numbers.
        k: Neighbours.
        temperature: Of the votes.
        prefilter: See `knn`.

    Returns:
        (M, D) -> (M,) classes or numbers.
    """
    bank = normalize(x_ND, dim=1)
    k = min(k, len(bank))
    rough = bank.bfloat16() if prefilter and len(bank) > 4 * k else None
    targets = (
        torch.nn.functional.one_hot(y_N, classes).float() if classes else y_N.float().unsqueeze(1)
    )

    @fast_products()
    def predict(x_MD: Tensor) -> Tensor:
        results = []
        for q in torch.split(normalize(x_MD, dim=1), max(1, MAX_SIMILARITIES // len(bank))):
            if rough is None:
                similarity, index = (q @ bank.T).topk(k, dim=1, sorted=False)
            else:
                wide = (q.bfloat16() @ rough.T).topk(4 * k, dim=1, sorted=False).indices
                similarity, within = torch.einsum("qd,qkd->qk", q, bank[wide]).topk(
                    k, dim=1, sorted=False
                )
                index = wide.gather(1, within)
            # minus 1: the largest weight is then at most 1, whatever the temperature
            weight = ((similarity - 1) / temperature).exp()
            votes = torch.einsum("qk,qkc->qc", weight, targets[index])
            results.append(
                votes.argmax(1) if classes else votes[:, 0] / weight.sum(1).clamp_min(1e-30)
            )
        return torch.cat(results) if results else torch.zeros(0)

    return predict


class Knn(Protocol):
    """Weighted nearest neighbours."""

    name, needs, needed = "knn", (LABEL,), (drawn, labelled)
    rank = 20
    yardstick = True
    measure = staticmethod(knn)


PROTOCOL = Knn()
