"""in_domain: texts that are like those of a domain, or records near those of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.core.embeddings import vectors as vectors_of
from amodal.curate.in_domain import ByteModel
from amodal.data import Dataset
from amodal.data import open as open_data
from amodal.selection.chunks import Columns, Rows
from amodal.selection.pairs import embedded
from amodal.selection.pool import Pool, Scores, text_of

MAX_GENERAL = 20_000
"""Texts that the model of all texts counts."""
TILE = 1024


def in_domain(pool: Pool) -> Scores:
    """How much likelier a text is under a model of the domain's texts than under one of all texts
    (Moore and Lewis, ACL 2010). With a run: the cosine to the nearest record of the domain.

    Raises:
        AmodalError: Without texts or data of the domain.
    """
    if pool.settings.like is None or not len(pool.settings.like):
        raise AmodalError(
            "in_domain needs examples of the domain: --like FILE.txt with a text a line, or data "
            "with the same field"
        )
    return _nearest(pool) if pool.model is not None else _moore_lewis(pool)


def _moore_lewis(pool: Pool) -> Scores:
    field = pool.text_field("in_domain")
    like = texts_like(pool.settings.like, field)
    present = np.flatnonzero(pool.dataset.present(field)[pool.rows])
    drawn = np.random.default_rng(pool.settings.seed).permutation(present)[:MAX_GENERAL]
    general = [t for t in pool.texts(field, pool.rows[np.sort(drawn)]) if t is not None]
    domain_model, general_model = ByteModel(like), ByteModel(general)

    def make(rows: Rows) -> Columns:
        texts = pool.texts(field, rows)
        gain = [
            np.nan
            if text is None
            else general_model.cross_entropy(text) - domain_model.cross_entropy(text)
            for text in texts
        ]
        return {"gain": np.array(gain)}

    return Scores(
        score=pool.chunks.each("in_domain", pool.rows, make)["gain"],
        fields=(field,),
        meaning=f"nats a byte by which {field} is likelier in the domain",
        lacking=field,
    )


def texts_like(like: Any, field: str) -> list[str]:
    """The texts of a domain.

    Args:
        like: Texts, a .txt file with a text a line, or whatever `amodal.open` takes.
        field: Of that data.

    Raises:
        AmodalError: There is no text.
    """
    if isinstance(like, Sequence) and not isinstance(like, str):
        texts = [str(text) for text in like]
    elif _is_text_file(like):
        texts = Path(like).read_text(encoding="utf-8").splitlines()
    else:
        data = _domain(like, field)
        rows = np.flatnonzero(data.present(field)).tolist()
        texts = [t for t in (text_of(data, i, field) for i in rows) if t]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise AmodalError("there is no text of the domain: --like has none")
    return texts


def _is_text_file(like: Any) -> bool:
    return isinstance(like, str | Path) and Path(like).suffix == ".txt" and Path(like).is_file()


def _domain(like: Any, field: str) -> Dataset:
    data: Dataset = open_data(like)
    data.present(field)  # raises for a field that is none
    return data


def _nearest(pool: Pool) -> Scores:
    model, decoded = pool.run("in_domain"), pool.decoded
    field = pool.settings.field or next(iter(model.fields))
    like = pool.settings.like
    if _is_text_file(like):
        like = {field: texts_like(like, field)}
    elif isinstance(like, Sequence) and not isinstance(like, str | Mapping):
        like = {field: list(like)}
    domain = model.with_features(model.read(like)).select([field])
    near = embedded(model, domain, np.arange(len(domain)))
    if field not in near.aligned or not len(near.aligned[field]):
        raise AmodalError(f"none of the records of --like has a {field} that could be read")
    keys_MD = normalize(vectors_of(near.aligned[field]).float(), dim=1)

    def make(rows: Rows) -> Columns:
        z = embedded(model, decoded.select([field]), rows)
        score = np.full(len(rows), np.nan)
        if field in z.aligned:
            column = z.aligned[field]
            score[column.rows.numpy()] = _most(vectors_of(column), keys_MD).numpy()
        return {"cosine": score}

    return Scores(
        score=pool.chunks.each("in_domain", pool.rows, make)["cosine"],
        fields=(field,),
        meaning=f"cosine of {field} to the nearest of {len(keys_MD):,} records of the domain",
        lacking=field,
    )


def _most(z_ND: Tensor, keys_MD: Tensor) -> Tensor:
    """(N,) the highest cosine of each row to any key."""
    parts = torch.split(normalize(z_ND.float(), dim=1), TILE)
    return torch.cat([(part @ keys_MD.T).amax(1) for part in parts]) if len(z_ND) else z_ND[:, 0]
