"""Open-set retrieval: classify a record by its nearest key, where some classes were not trained on
and have keys only.

The protocol of BIOSCAN-5M (Gharaee et al., NeurIPS 2024, arXiv:2406.12723) and BIOSCAN-CLIP
(arXiv:2405.17537). Keys are the training records whose class is known and some held-out records of
every unseen class. Queries are the other held-out records. The prediction is the class of the
nearest key by cosine in the aligned space, for every field of the query and of the key. Measured is
accuracy on queries of seen and of unseen classes, averaged by record (micro) and by class (macro),
and their harmonic mean. Row 28 of the catalogue.

The data set's other two tasks by verbs: masked barcodes (`amodal pretrain mae --fields BARCODE
--method.ratio 0.5`, `amodal adapt` for species) and clusters without labels (the protocol
`cluster`). How its table is read, and all commands: docs/evaluating.md.

Differs:

- data: the 5 million specimens are not bundled. `amodal init` reads their table: pictures by path,
  barcodes as sequences in words of four letters without overlap, ranks as labels. Names of its
  split have to be mapped to train, valid and test, as docs/evaluating.md shows.
- contrast: `clip` with a ViT-B (`timm:vit_base_patch16_224@pretrained`), BERT (`transformers:DIR`)
  and this library's transformer over words, trained whole (`--train-backbones`); the authors tune
  all three by LoRA of rank 4. Their recipe: Adam at 1e-3 for 4 epochs in batches of 400, 768 wide,
  temperature 0.07 and fixed (`--lr 1e-3 --weight-decay 0 --epochs 4 --batch-size 400 --schedule
  constant --method.width 768`; here the temperature is learned).
- masked barcodes: hidden words are left out and filled in by a decoder (as in the authors' later
  BarcodeMAE, arXiv:2502.18405), where BarcodeBERT has a mask token.
- clusters: Ward's, without UMAP before.
- the authors also average or join the vectors of picture and barcode, search keys of all fields at
  once, and count the 3 and 5 nearest; here it is each field, and the nearest.
- keys of seen classes are all training records with a label; their evaluation has a part for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Column
from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.base_and_new import harmonic_mean
from amodal.evaluate.labels import NotApplicable, classes_of, codes, is_number
from amodal.evaluate.needed_records import labelled
from amodal.evaluate.needs import LABEL
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row
from amodal.inference.embed import Embedded, known

MAX_SIMILARITIES = 2**23
"""Computed at once."""

Means = tuple[float, float]
"""Over records, and over classes."""


def open_set(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    by: str = "",
    role: str = "",
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Result:
    """Measure open-set retrieval.

    Records without `by` or `label` are neither keys nor queries.

    Args:
        train: Training records.
        test: Held-out records.
        label: What is predicted.
        by: The label that says which classes were seen in training, `label` unless set. For ranks
            of a taxonomy it is the lowest rank.
        role: A label that is "key" for the held-out records that are keys. Unless set, every second
            record of an unseen class is, in the order of a hash of its key.
        pairs: (query, key) fields, all unless set.

    Raises:
        NotApplicable: If a label is a number, or there are no unseen classes, keys or queries.
    """
    by = by or label
    if is_number(test.label(label)) or is_number(test.label(by)):
        raise NotApplicable("open_set names records, and a number is no name")
    seen = set(classes_of(train.labels[by]))
    train_labelled, labelled = (known(e.labels[label]) & known(e.labels[by]) for e in (train, test))
    unseen = np.array([v is not None and v not in seen for v in test.labels[by]])
    if not (unseen & labelled).any():
        raise NotApplicable(
            f"every class of {by!r} among the test records was in training; "
            "this is about those that were not"
        )
    marked = (
        test.label(role) == "key"
        if role
        else _every_second(test.keys, test.labels[by], unseen & labelled)
    )
    is_key = [train_labelled, labelled & unseen & marked]
    queries = {"seen": labelled & ~unseen & ~marked, "unseen": labelled & unseen & ~marked}
    names = classes_of(np.concatenate([train.labels[label], test.labels[label]]))
    truth = [codes(e.labels[label], names) for e in (train, test)]
    rows: list[Row] = []
    for a, b in pairs or [(a, b) for a in test.sources for b in test.sources]:
        parts = [_where(e.aligned[b], chosen) for e, chosen in zip((train, test), is_key)]
        keys = torch.cat([vectors_of(p) for p in parts])
        key_names = np.concatenate([t[p.rows.numpy()] for t, p in zip(truth, parts)])
        groups = {group: _where(test.aligned[a], chosen) for group, chosen in queries.items()}
        if not len(keys) or not all(len(c) for c in groups.values()):
            continue
        share = np.bincount(key_names, minlength=len(names)) / len(key_names)
        scores = {}
        for group, column in groups.items():
            wanted = truth[1][column.rows.numpy()]
            right = key_names[nearest(vectors_of(column), keys, test.abs_cosine).numpy()] == wanted
            scores[group] = (_means(right, wanted), _means(share[wanted], wanted), len(wanted))
        rows += [{"source": a, "target": b, **row} for row in _rows(scores)]
    if not rows:
        raise NotApplicable("no field has keys, and queries of seen and of unseen classes")
    spec = {"label": label, "kind": "category", "by": by, "role": role, "space": "aligned"}
    return Result("open_set", spec | {"train": len(train), "test": len(test)}, rows)


def nearest(query_MD: Tensor, key_ND: Tensor, abs_cosine: bool = False) -> Tensor:
    """The nearest key of each query.

    Args:
        query_MD: Queries.
        key_ND: Keys.
        abs_cosine: Whether to compare by |cosine|.

    Returns:
        (M,) int64.
    """
    unit = normalize(key_ND.float(), dim=1)
    step = max(1, MAX_SIMILARITIES // max(len(unit), 1))
    parts = torch.split(normalize(query_MD.float(), dim=1), step)
    return torch.cat([((q @ unit.T).abs() if abs_cosine else q @ unit.T).argmax(1) for q in parts])


def _where(column: Column, chosen: np.ndarray) -> Column:
    """The rows of a column that are chosen."""
    return column.at(torch.from_numpy(chosen[column.rows.numpy()]))


def _every_second(keys: Sequence[str], classes: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(N,) bool: the first, third, … record of each class, but never the last, as one has to be a
    query."""

    def digest(i: int) -> bytes:
        return hashlib.blake2b(keys[i].encode(), digest_size=8).digest()

    marked = np.zeros(len(keys), dtype=bool)
    by_class: dict[str, list[int]] = {}
    for i in sorted(np.flatnonzero(among).tolist(), key=digest):
        by_class.setdefault(classes[i], []).append(i)
    for members in by_class.values():
        marked[members[: len(members) // 2 * 2 : 2]] = True
    return marked


def _means(score_N: np.ndarray, class_N: np.ndarray) -> Means:
    """The mean over records, and over classes."""
    total, count = np.bincount(class_N, score_N.astype(float)), np.bincount(class_N)
    return float(score_N.mean()), float((total[count > 0] / count[count > 0]).mean())


def _rows(scores: dict[str, tuple[Means, Means, int]]) -> list[Row]:
    """Rows of one pair of fields. scores: group -> values, chance, number of queries."""
    rows: list[Row] = []
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
        seen, unseen = scores["seen"], scores["unseen"]
        rows.append(
            {
                "metric": f"{kind}, harmonic mean",
                "value": harmonic_mean(seen[0][number], unseen[0][number]),
                "chance": harmonic_mean(seen[1][number], unseen[1][number]),
                "n": seen[2] + unseen[2],
            }
        )
    return rows


class OpenSet(Protocol):
    """Names of records of seen and of unseen classes."""

    name, needs, needed = "open_set", (LABEL,), (labelled, labelled)
    rank = 100
    measure = staticmethod(open_set)


PROTOCOL = OpenSet()
