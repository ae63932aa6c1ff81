"""Open-set retrieval: name a record after the nearest key, where some classes were never trained on
and are known from keys alone.

The protocol of BIOSCAN-5M (Gharaee et al., NeurIPS 2024, arXiv:2406.12723) and BIOSCAN-CLIP
(arXiv:2405.17537): keys are the training records whose class is known and some held-out records of
every unseen class; queries are the other held-out records; the name is that of the nearest of all
keys, by cosine in the aligned space, for every field of the query and of the key. Reported are the
shares of right names of queries of seen and of unseen classes, counted by record (micro) and by
class (macro), and their harmonic mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Column
from amodal.evaluate.base_and_new import harmonic_mean
from amodal.evaluate.labels import NotApplicable, classes_of, codes, is_number
from amodal.evaluate.needs import LABEL
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.inference.embed import Embedded, known

CELLS = 2**23
"""Similarities held at once."""


def open_set(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    by: str = "",
    role: str = "",
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Result:
    """label: what to name; by: the label that says which records are of a class that was seen in
    training (the same unless given: for ranks of a taxonomy, the lowest); role: a label that is
    "key" for the held-out records that are keys; unless given, every second record of an unseen
    class is, in the order of a hash of its key. pairs: (query, key) fields, all unless given.

    Records whose `by` or `label` is missing are neither keys nor queries.
    """
    by = by or label
    if is_number(test.label(label)) or is_number(test.label(by)):
        raise NotApplicable("open_set names records, and a number is no name")
    seen = set(classes_of(train.labels[by]))
    there = [known(e.labels[label]) & known(e.labels[by]) for e in (train, test)]
    unseen = np.array([v is not None and v not in seen for v in test.labels[by]])
    if not (unseen & there[1]).any():
        raise NotApplicable(
            f"every class of {by!r} among the test records was in training; this is about those that were not"
        )
    marked = (
        test.label(role) == "key"
        if role
        else _every_second(test.keys, test.labels[by], unseen & there[1])
    )
    is_key = [there[0], there[1] & unseen & marked]
    queries = {"seen": there[1] & ~unseen & ~marked, "unseen": there[1] & unseen & ~marked}
    names = classes_of(np.concatenate([train.labels[label], test.labels[label]]))
    truth = [codes(e.labels[label], names) for e in (train, test)]
    rows = []
    for a, b in pairs or [(a, b) for a in test.sources for b in test.sources]:
        parts = [_of(e.aligned[b], chosen) for e, chosen in zip((train, test), is_key)]
        keys = torch.cat([p.values for p in parts])
        key_names = np.concatenate([t[p.rows.numpy()] for t, p in zip(truth, parts)])
        asked = {group: _of(test.aligned[a], chosen) for group, chosen in queries.items()}
        if not len(keys) or not all(len(c) for c in asked.values()):
            continue
        share = np.bincount(key_names, minlength=len(names)) / len(key_names)
        scores = {}
        for group, column in asked.items():
            own = truth[1][column.rows.numpy()]
            right = key_names[nearest(column.values, keys, test.unsigned).numpy()] == own
            scores[group] = (_both(right, own), _both(share[own], own), len(own))
        rows += [{"source": a, "target": b, **row} for row in _rows(scores)]
    if not rows:
        raise NotApplicable("no field has keys, and queries of seen and of unseen classes")
    spec = {"label": label, "kind": "category", "by": by, "role": role, "space": "aligned"}
    return Result("open_set", spec | {"train": len(train), "test": len(test)}, rows)


def nearest(query_MD: Tensor, key_ND: Tensor, unsigned: bool = False) -> Tensor:
    """(M,) int64: the key with the largest cosine, or |cosine|."""
    unit = normalize(key_ND.float(), dim=1)
    parts = normalize(query_MD.float(), dim=1).split(max(1, CELLS // max(len(unit), 1)))
    return torch.cat([((q @ unit.T).abs() if unsigned else q @ unit.T).argmax(1) for q in parts])


def _of(column: Column, chosen: np.ndarray) -> Column:
    return column.at(torch.from_numpy(chosen[column.rows.numpy()]))


def _every_second(keys: Sequence[str], classes: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(N,) bool: of each class, the first, third, … record, but never the last: somebody has to
    ask."""
    hashed = sorted(
        np.flatnonzero(among),
        key=lambda i: hashlib.blake2b(keys[i].encode(), digest_size=8).digest(),
    )
    marked = np.zeros(len(keys), dtype=bool)
    of: dict[str, list[int]] = {}
    for i in hashed:
        of.setdefault(classes[i], []).append(i)
    for members in of.values():
        marked[members[: len(members) // 2 * 2 : 2]] = True
    return marked


def _both(score_N: np.ndarray, class_N: np.ndarray) -> tuple[float, float]:
    """The mean over records, and over classes."""
    each = np.bincount(class_N, score_N.astype(float)), np.bincount(class_N)
    return float(score_N.mean()), float((each[0][each[1] > 0] / each[1][each[1] > 0]).mean())


def _rows(scores: dict[str, tuple[tuple[float, float], tuple[float, float], int]]) -> list[dict]:
    rows = []
    for number, kind in enumerate(("top-1", "macro top-1")):
        for group, (value, chance, n) in scores.items():
            rows.append(
                {
                    "metric": f"{kind}, {group}",
                    "value": value[number],
                    "chance": chance[number],
                    "n": n,
                }
            )
        both = [harmonic_mean(*(scores[g][k][number] for g in ("seen", "unseen"))) for k in (0, 1)]
        n = sum(score[2] for score in scores.values())
        rows.append(
            {"metric": f"{kind}, harmonic mean", "value": both[0], "chance": both[1], "n": n}
        )
    return rows


class OpenSet(Protocol):
    """Names of records of seen and of unseen classes."""

    name, needs = "open_set", (LABEL,)
    rank = 100
    measure = staticmethod(open_set)


PROTOCOL = OpenSet()
