"""What records are, and how named classes fare on them: rows of `zero_shot`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal.core import AmodalError, Column
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.evaluate.base_and_new import harmonic_mean
from amodal.evaluate.labels import NotApplicable, classification_rows, codes, is_number
from amodal.evaluate.protocols.knn import knn
from amodal.evaluate.row import Row
from amodal.inference.class_prompts import Classes, spaced
from amodal.inference.classify import Likeness
from amodal.inference.embed import Embedded, known
from amodal.inference.knowledge_prompts import plain
from amodal.inference.simple_features import FieldValues, original_values
from amodal.modalities import BadValue, NoSimpleFeatures
from amodal.stats.auroc import auroc
from amodal.stats.paired_bootstrap import Averaged, MeanAuroc

YES, NO = frozenset({"yes", "true", "1", "1.0"}), frozenset({"no", "false", "0", "0.0"})
"""Cells of a label that says whether a record has a class."""
BETWEEN = ";"
"""Between the classes of a label that has any number of them."""
MEAN_AUROC = "AUROC, mean of classes"
ONE_LABEL = "balanced accuracy, 1 label"
MAX_FITTED = 5000
"""Texts that the simple features of class names are fitted on."""


def single_rows(
    truth: np.ndarray, scores: np.ndarray, likeness: Likeness, who: np.ndarray
) -> list[Row]:
    """Rows of classes of which a record has one.

    Args:
        truth: (N,) codes of classes.
        scores: (N, C) cosines or logits.
        likeness: What scores mean.
        who: (N,) numbers of the records.

    Returns:
        A row for each metric. No label was seen, so chance is a blind guess and not the most
        frequent class.
    """
    classes = scores.shape[1]
    shares = np.unique(truth, return_counts=True)[1] / len(truth)
    blind = {"macro F1": float(np.mean(2 * shares / (classes * shares + 1))), "AUROC": 0.5}
    rows = classification_rows(truth, scores.argmax(1), 0, likeness.probabilities(scores), who=who)
    return [row | {"chance": blind.get(row["metric"], 1 / classes)} for row in rows]


def seen_rows(truth: np.ndarray, scores: np.ndarray, is_seen: np.ndarray) -> list[Row]:
    """Accuracy among all classes, of records of seen and of unseen ones, each a mean over classes,
    and the harmonic mean (Xian et al., arXiv:1707.00600, 5).

    Args:
        truth: (N,) codes of classes.
        scores: (N, C).
        is_seen: (C,) bool.

    Returns:
        Nothing where either half has no record.
    """
    right, means = scores.argmax(1) == truth, []
    for half in (is_seen, ~is_seen):
        present = [c for c in np.unique(truth) if half[c]]
        if not present:
            return []
        means.append(float(np.mean([right[truth == c].mean() for c in present])))
    counts = [int(half[truth].sum()) for half in (is_seen, ~is_seen)]
    chance, rows = 1 / scores.shape[1], []
    for name, value, n in (
        ("seen", means[0], counts[0]),
        ("unseen", means[1], counts[1]),
        ("harmonic mean", harmonic_mean(*means), len(truth)),
    ):
        rows.append({"metric": f"macro top-1, {name}", "value": value, "chance": chance, "n": n})
    return rows


def multi_rows(
    truth: np.ndarray, scores: np.ndarray, names: Sequence[str], who: np.ndarray
) -> list[Row]:
    """Rows of classes of which a record has any number: areas under the ROC curve, of each class
    and their mean.

    Args:
        truth: (N, C) bool.
        scores: (N, C).
        names: Of the classes.
        who: (N,) numbers of the records.

    Returns:
        Nothing where no class has records with and without it.
    """
    both = [c for c in range(len(names)) if 0 < truth[:, c].sum() < len(truth)]
    if not both:
        return []
    areas = [auroc(scores[:, c], truth[:, c]) for c in both]
    parts = [
        MeanAuroc(
            who, truth[:, c].astype(np.int64), np.stack([-scores[:, c], scores[:, c]], 1), [1]
        )
        for c in both
    ]
    shared = {"chance": 0.5, "n": len(truth)}
    first = {"metric": MEAN_AUROC, "value": float(np.mean(areas)), "outcome": Averaged(who, parts)}
    rows = [
        {"target": names[c], "metric": "AUROC", "value": area, "outcome": part}
        for c, area, part in zip(both, areas, parts)
    ]
    return [row | shared for row in [first, *rows]]


def multi_truth(
    labels: Mapping[str, np.ndarray], label: str | None, classes: Classes
) -> np.ndarray:
    """Which classes records have.

    Args:
        labels: Label -> (N,). Either there is a label of yes and no (or 1 and 0) for each class,
            under its name, or `label` lists the classes of a record with ";" between.
        label: See `labels`.
        classes: C classes.

    Returns:
        (N, C) float64: 1 for a class that a record has, 0 for one that it lacks, NaN where it is
        not known.

    Raises:
        NotApplicable: If there are neither.
    """
    have = {plain(name): values for name, values in labels.items()}
    own = [have.get(plain(name)) for name in classes.names]
    if all(column is not None for column in own):
        return np.stack([_yes_or_no(column) for column in own if column is not None], 1)
    if label is None or label not in labels or is_number(labels[label]):
        lacking = [name for name, column in zip(classes.names, own) if column is None]
        raise NotApplicable(
            f"there is no label of yes and no for the class {lacking[0]!r}, and no label that "
            f"lists the classes of a record with {BETWEEN!r} between them"
        )
    truth = np.full((len(labels[label]), len(classes)), np.nan)
    column = {plain(name): c for c, name in enumerate(classes.names)}
    for row, cell in enumerate(labels[label]):
        if cell is not None:
            truth[row] = 0.0
            for part in cell.split(BETWEEN):
                if (c := column.get(plain(part))) is not None:
                    truth[row, c] = 1.0
    return truth


def listed_classes(labels: Sequence[str | None]) -> list[str]:
    """The classes that a label lists with ";" between."""
    cells = [cell for cell in labels if cell is not None]
    return sorted({part.strip() for cell in cells for part in cell.split(BETWEEN) if part.strip()})


def _yes_or_no(values: np.ndarray) -> np.ndarray:
    words = [None if not here else str(v).lower() for v, here in zip(values, known(values))]
    for word in words:
        if word is not None and word not in YES | NO:
            raise NotApplicable(f"a label of yes and no is needed, and a record has {word!r}")
    return np.array([np.nan if w is None else float(w in YES) for w in words])


def check_found(classes: Classes, labels: Sequence[str], label: str) -> None:
    """Raise an AmodalError if none of the classes is a class of the label."""
    if not {*map(plain, classes.names)} & {*map(plain, labels)}:
        raise AmodalError(
            f"none of the classes {', '.join(classes.names[:5])} is a class of {label!r}, which "
            f"has {', '.join(map(spaced, labels[:5]))}. Names are compared in lower case; a file "
            "may have what to call a class under `name`"
        )


def by_simple_text(
    dataset: Dataset,
    by: str,
    train: Embedded,
    test: Embedded,
    prompts: Mapping[str, Sequence[str]],
) -> Column | None:
    """The simple way to classify by names: cosines of the simple features (tf-idf) of a record's
    own text and of the class's sentences.

    Args:
        dataset: Where the records are.
        by: The text.
        train: Training records, on whose texts features are fitted.
        test: Test records.
        prompts: Class -> its sentences.

    Returns:
        (n, C) of the test records with a text; None where fewer than two have one.
    """
    if by not in test.aligned or len(test.aligned[by]) < 2:
        return None
    number = {key: i for i, key in enumerate(dataset.keys)}
    fitted = np.array([number[key] for key in train.keys], dtype=np.int64)
    fitted = fitted[dataset.present(by)[fitted]]
    fitted = fitted[np.linspace(0, len(fitted) - 1, min(len(fitted), MAX_FITTED)).astype(int)]
    rows = test.aligned[by].rows
    whole = original_values(dataset, by)
    tested = np.array([number[test.keys[i]] for i in rows.tolist()], dtype=np.int64)
    sentences = [sentence for of_class in prompts.values() for sentence in of_class]
    try:
        transform = whole.fields[by].simple_features(FieldValues(whole, by, fitted))
        words = normalize(torch.from_numpy(transform(sentences)).float(), dim=1)
        own = normalize(torch.from_numpy(transform(FieldValues(whole, by, tested))).float(), dim=1)
    except (BadValue, NoSimpleFeatures):
        return None
    parts = words.split([len(of_class) for of_class in prompts.values()])
    return Column(own @ normalize(torch.stack([p.mean(0) for p in parts]), dim=1).T, rows)


def labelled_scores(
    column: Column, labels: np.ndarray, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the records with a label: (n,) codes, (n, C) scores, and (n,) their numbers."""
    who = column.rows.numpy()[known(labels)[column.rows.numpy()]]
    inside = torch.from_numpy(known(labels)[column.rows.numpy()])
    return codes(labels, classes)[who], vectors_of(column)[inside].numpy(), who


def one_label_rows(
    train: Embedded,
    test: Embedded,
    label: str | None,
    sources: Sequence[str],
    draws: int,
    seed: int,
) -> list[Row]:
    """What one label a class gives, by the nearest of the labelled vectors.

    Args:
        train: Training records, some of which have vectors.
        test: Test records.
        label: The classes.
        sources: The fields that are classified.
        draws: Of the labels.
        seed: Of the draws.
    """
    probed = [s for s in sources if s in train.probed() and s in test.probed()]
    if label is None or not probed or is_number(train.labels.get(label, np.zeros(0))):
        return []
    result = knn(train, test, label=label, k=1, few=1, draws=draws, seed=seed, sources=probed)
    return [
        row | {"metric": ONE_LABEL} | ({} if outcome is None else {"outcome": outcome})
        for row, outcome in zip(result.rows, result.outcomes)
        if row["metric"] == "balanced accuracy"
    ]
