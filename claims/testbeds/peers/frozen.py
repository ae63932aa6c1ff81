"""Vectors of frozen pretrained encoders, for peers that fit heads on what a run's heads read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from amodal_claims.sets import frozen_pairs

from amodal.core import AmodalError
from amodal.data.fetch import download
from amodal.train.packaged import EFFICIENTNET, resolve_specs
from testbeds.peers.features import Describe
from testbeds.testbed import Records

BATCH = 64
VECTORS: dict[tuple[str, str], np.ndarray] = {}
"""(fingerprint of the data, field) -> (N, d): of all records, as every peer reads the same ones."""


def frozen_features(train: Records, fields: Sequence[str]) -> Describe:
    """Pictures by EfficientNet-lite0 (ImageNet), texts by MiniLM; nothing is fitted."""
    embed: dict[str, Callable[[Records, str], np.ndarray]] = {"image": _seen, "text": _read}

    def describe(records: Records) -> np.ndarray:
        return np.hstack([_vectors(records, f, embed)[records.rows] for f in fields])

    return describe


def _vectors(
    records: Records, field: str, embed: dict[str, Callable[[Records, str], np.ndarray]]
) -> np.ndarray:
    data = records.dataset
    identity = (data.fingerprint, field)
    if identity not in VECTORS:
        if not data.present(field).all():
            raise AmodalError(f"{field} is missing in some records; frozen peers need all of them")
        every = Records(data, np.arange(len(data)))
        VECTORS[identity] = embed[data.fields[field].kind](every, field)
    return VECTORS[identity]


def _seen(records: Records, field: str) -> np.ndarray:
    return frozen_pairs.see(records.raw(field), download(EFFICIENTNET))


def _read(records: Records, field: str) -> np.ndarray:
    """(n, 384): the mean of the vectors of a text's tokens."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    spec = resolve_specs({field: "package:minilm"})[field]
    folder = Path(str(spec).partition(":")[2])
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    texts, done = [str(text) for text in records.raw(field)], []
    with torch.no_grad():
        for start in range(0, len(texts), BATCH):
            tokens = tokenizer(
                texts[start : start + BATCH], padding=True, truncation=True, return_tensors="pt"
            )
            mask = tokens["attention_mask"][..., None]
            hidden = model.eval()(**tokens).last_hidden_state
            done.append((hidden * mask).sum(1) / mask.sum(1))
    return np.asarray(torch.cat(done).numpy())
