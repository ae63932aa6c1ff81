"""GRACE (row 159): pictures learnt by heart under paths of a cluster tree are found by words,
without an index. Li et al., ACL 2024, arXiv:2402.10805. Tux Paint's stamps: all pictures are the
gallery and are memorised; a quarter of the captions, drawn by the seed, are kept for the test and
never seen. From no weights, so first a third of the steps of contrast between picture and caption,
of which identifiers are made; all arms have the same steps, batch and rate. A hit is a record with
the very caption that asks. Beside it the cosine of the same encoder as a dual encoder, which looks
at all pictures. The number of steps was set by what that one gives on another seed.

Time is of single queries to untrained networks of the same size: ten beams under identifiers of
digits, against the products with all vectors, for galleries of a thousand and of a hundred
thousand."""

import time
from functools import partial
from statistics import median

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal import data, methods
from amodal.core import Ragged
from amodal.data import Loader
from amodal.evaluate import embed_records
from amodal.nn.generation.identifiers import IdentifierWriter, numeric
from amodal.nn.generation.trie import Trie
from amodal_claims import Comparison, _stamps
from amodal_claims._arms import Budget, trained
from amodal_claims._stamps import IMAGE, TEXT

CLAIM = (
    "Held-out captions write the identifier of their picture into the first ten more often with paths of a cluster tree than with random "
    "strings of digits, and with pictures memorised than without that step; and from a thousand to a hundred thousand records the time of "
    "a query grows by a smaller factor than that of products with all vectors."
)
DATA = _stamps.DATA
SEEDS = 5
BUDGET = Budget(steps=400, batch=64, rates=(4e-3,))
ARMS = {
    "structured": {},
    "string": {"kind": "string"},
    "not memorised": {"memorise": False},
}
METRIC, GROWTH = (
    "Recall@10, held-out captions, all stamps as gallery",
    "factor from 1,000 to 100,000 records",
)
COMPARISONS = (
    Comparison(
        "cluster paths against random strings", METRIC, "recall@10: structured", "recall@10: string"
    ),
    Comparison(
        "memorised against not", METRIC, "recall@10: structured", "recall@10: not memorised"
    ),
    Comparison(
        "time of a query: products against identifiers",
        GROWTH,
        "growth: products",
        "growth: identifiers",
    ),
)


def gallery(dataset, seed):
    """The stamps with a picture and a caption; the same with the captions of a quarter of them left
    out; and which those are."""
    whole = _stamps.stamps(dataset)
    rows = np.flatnonzero(whole.present(IMAGE) & whole.present(TEXT))
    test = np.sort(np.random.default_rng([seed, 159]).permutation(len(rows))[: len(rows) // 4])
    columns = {s: [whole.raw(int(i), s) for i in rows] for s in (IMAGE, TEXT)}
    left = [None if i in set(test.tolist()) else text for i, text in enumerate(columns[TEXT])]
    opened = (
        data.open(
            columns | texts, fields={s: whole.fields[s] for s in (IMAGE, TEXT)}, name="stamps"
        )
        for texts in ({}, {TEXT: left})
    )
    return *opened, test


def recalls(found_NK, captions, test):
    """Of the records that were found for each test caption, whether one among the first and the
    first ten has it."""
    hit = np.array(
        [
            [k >= 0 and captions[k] == captions[i] for k in row]
            for i, row in zip(test, found_NK.tolist())
        ]
    )
    return {f"recall@{k}": float(hit[:, :k].any(1).mean()) for k in (1, 10)}


def arm(options, described, seed, budget=BUDGET):
    make = partial(methods.build, "grace", width=64, capacity=1024, **options)
    return trained(described, range(len(described)), make, budget, seed, budget.rates[0])


def by_cosine(method, whole, test):
    """Ten records with the nearest pictures to each test caption."""
    z = embed_records(method.encoder, whole, range(len(whole)), labels=False).aligned
    pictures, words = (normalize(z[s].values.float(), dim=1) for s in (IMAGE, TEXT))
    return (words[test] @ pictures.T).topk(10, dim=1).indices


@torch.no_grad()
def seconds(count, seed, times=7):
    """(under identifiers, by products): the median time of a query."""
    torch.manual_seed(seed)
    writer, read = (
        IdentifierWriter(64, 10, depth=2, heads=2).eval(),
        Ragged(torch.randn(12, 64), torch.tensor([12])),
    )
    trie, vectors, query = (
        Trie(numeric(count, 10)),
        normalize(torch.randn(count, 64), dim=1),
        torch.randn(64),
    )

    def clock(ask):
        taken = []
        for _ in range(times):
            begun = time.perf_counter()
            ask()
            taken.append(time.perf_counter() - begun)
        return median(taken)

    return clock(lambda: writer.find(read, trie, beams=10)), clock(
        lambda: (vectors @ query).topk(10)
    )


def measure(seed, dataset):
    whole, described, test = gallery(dataset, seed)
    captions, found = [whole.raw(i, TEXT) for i in range(len(whole))], {}
    asked = next(iter(Loader(whole, test, batch=len(test), shuffle=False)))
    for name, options in ARMS.items():
        method = arm(options, described, seed)
        results = {name: method.find(asked, beams=10).values}
        if name == "structured":
            results["cosine"] = by_cosine(method, whole, test)
        for answer, numbers in results.items():
            found |= {f"{k}: {answer}": v for k, v in recalls(numbers, captions, test).items()}
    small, large = (seconds(count, seed) for count in (1_000, 100_000))
    kinds = ("identifiers", "products")
    found |= {f"growth: {kind}": b / a for kind, a, b in zip(kinds, small, large)}
    return found | {f"ms at 100,000: {kind}": 1000 * b for kind, b in zip(kinds, large)}
