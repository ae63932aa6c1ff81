"""What is known of an encoder that was trained by a loop of the user's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.core import AmodalError
from amodal.data import Dataset
from amodal.modalities.shared.formatting import shortened
from amodal.nn.encoder import Encoder
from amodal.train.run_dir import Hashes, hash_keys, path_of, versions

NAME = "own loop"


def config_of(
    encoder: Encoder, dataset: Dataset, rows: npt.ArrayLike | None
) -> tuple[dict[str, Any], Hashes]:
    """The configuration of such a run, as far as there is one, and hashes of the keys that it was
    trained on.

    Args:
        encoder: What was trained.
        dataset: The records.
        rows: Numbers of those that were trained on, None for all.

    Raises:
        AmodalError: For numbers that no record has, and fields that the encoder lacks or the data.
    """
    if not isinstance(encoder, Encoder):
        inside = isinstance(getattr(encoder, "encoder", None), Encoder)
        raise AmodalError(
            f"Model.of takes the encoder that was trained, not an object of type "
            f"{type(encoder).__name__}" + ("; give its .encoder" if inside else "")
        )
    dataset.with_fields(encoder.fields)
    chosen = np.arange(len(dataset)) if rows is None else np.asarray(rows)
    if chosen.dtype == bool and chosen.shape == (len(dataset),):
        chosen = np.flatnonzero(chosen)
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise AmodalError(
            "rows are the numbers of the records that were trained on, such as "
            f'dataset.split("train"), or true for each of them; got {shortened(str(rows))}'
        )
    chosen = np.unique(chosen).astype(np.int64)
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(dataset):
        raise AmodalError(
            f"rows are numbers of the {len(dataset)} records that were trained on, from 0; got "
            f"{chosen.min()} to {chosen.max()}"
        )
    config = {
        "method": NAME,
        "options": {},
        "encoder": encoder.spec,
        "data": {
            "name": dataset.name,
            "path": path_of(dataset),
            "fingerprint": dataset.fingerprint,
            "records": len(dataset),
            "train": len(chosen),
        },
        "seed": 0,
        "schedule": {"train_backbones": True},
        "versions": versions(),
    }
    return config, hash_keys([dataset.keys[i] for i in chosen.tolist()])
