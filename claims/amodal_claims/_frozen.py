"""Emoji and stamps as frozen models see them: what claims about pairs train small heads on.

EfficientNet-lite0's vectors of pictures and WordLlama's of names (the set `frozen_pairs`) go to the
heads as they are, through an encoder that copies them. Pictures and captions from scratch, at the
size that two cores allow, find each other less well than simple features do, and a comparison
between such arms says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache, lru_cache
from statistics import mean

import numpy as np
import torch
from torch import nn

from amodal import data
from amodal.core import Column, Embeddings
from amodal.data import Dataset, sets
from amodal.evaluate import Embedded
from amodal.evaluate.pair_maps import pair_maps
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.modalities import Modality
from amodal.modalities.image import Image
from amodal.nn.encoder import Encoder

DATA = "frozen_pairs"
FIELDS = ("image", "words")
EMOJI, STAMPS = "openmoji", "tuxpaint"
ORIGINALS = {EMOJI: ("image", "annotation"), STAMPS: ("image", "caption")}
"""Set -> its picture and its text."""
GROUPS = (
    "activities", "animals-nature", "flags", "food-drink", "objects", "people-body", "smileys-emotion", "symbols", "travel-places",
)  # fmt: skip
"""Of emoji, in Unicode."""
WIDTH = "small"
"""384, which holds the 128 and the 256 dimensions."""


def vectors(dataset: Dataset) -> Dataset:
    """All records with their two vectors as they are: the models' own scale says how much a direction
    matters."""
    two = dataset.select(FIELDS)
    return two.with_fields({f: replace(two.fields[f], mean=(), std=()) for f in FIELDS})


def of_source(dataset: Dataset, source: str) -> np.ndarray:
    """The numbers of the records of a set."""
    return np.flatnonzero(dataset.label("source") == source)


def copying(fields: Mapping[str, Modality]) -> Encoder:
    """An encoder whose features are the vectors that it is given."""
    with torch.random.fork_rng():  # or the first arm of a process begins elsewhere than the others
        return deepcopy(_copying(tuple(fields.items())))


@lru_cache(1)
def _copying(fields: tuple[tuple[str, Modality], ...]) -> Encoder:
    one = Encoder(dict(fields), size=WIDTH, positions="none")
    for field, _ in fields:
        one.trunks[field].blocks = one.trunks[field].blocks[:0]
        project = one.tokenizers[field].project
        assert isinstance(project, nn.Linear)
        nn.init.zeros_(project.bias)
        nn.init.zeros_(one.field_token[field])
        with torch.no_grad():  # the second half of the inputs says which values exist
            project.weight.copy_(torch.eye(*project.weight.shape))
            project.weight[:, project.in_features // 2 :] = 0
    return one


@cache
def _home(source: str) -> tuple[Dataset, dict[str, int]]:
    sets.ensure(source)
    home = data.open(source)
    return home, {key: i for i, key in enumerate(home.reader.keys)}


def originals(dataset: Dataset, rows: Sequence[int] | np.ndarray) -> Dataset:
    """The same records as they are, a picture and a name, in the order of `rows`."""
    sources = dataset.label("source")
    pictures = []
    for i in rows:
        source = str(sources[i])
        home, number = _home(source)
        key = dataset.reader.keys[i].removeprefix(f"{source}-")
        pictures.append(home.raw(number[key], ORIGINALS[source][0]))
    columns = {
        "picture": pictures,
        "name": [dataset.raw(int(i), "name") for i in rows],
    }
    picture = Image.infer(pictures[:100], size=32, channels=3, patch=8, flip=False)
    return data.open(columns, fields={"picture": picture, "name": dataset.fields["name"]})


def cca(
    two: Dataset, few: Sequence[int] | np.ndarray, galleries: Sequence[np.ndarray], k: int = 10
) -> float:
    """Recall@k by a regularised CCA of the same vectors, mean of both directions and of galleries.

    Args:
        two: see `vectors`.
        few: pairs that it is fitted on.
        galleries: records that are searched, and searched for.
        k: of Recall@k.
    """
    maps = pair_maps(*(_values(two, few, f) for f in FIELDS))
    each = []
    for rows in galleries:
        at = torch.arange(len(rows))
        mapped = {f: Column(m(_values(two, rows, f)), at) for f, m in zip(FIELDS, maps)}
        space = Embeddings(mapped, len(rows))
        ranked = retrieval(None, Embedded([str(i) for i in rows], space, space), recall_at=(k,))
        each += [row["value"] for row in ranked.rows if row["metric"] == f"recall@{k}"]
    return mean(each)


def _values(two: Dataset, rows: Sequence[int] | np.ndarray, field: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([two.value(int(i), field)[0] for i in rows]))
