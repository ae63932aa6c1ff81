"""Corruption of decoded values, by one measure of severity for every modality.

exchange: so large a share of the parts of a value come from another record; drop: so large a share
of them are gone; noise: normal noise of so many standard deviations of the field on what is
continuous. See `Modality.corrupt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core.embeddings import FUSED
from amodal.evaluate.missing_modalities import FieldVectors
from amodal.inference.forward_passes import Change
from amodal.modalities import Modality
from amodal.modalities.shared.corruption import CORRUPTIONS as KINDS


def change(kind: str, severity: float) -> Change:
    return lambda modality, value, other, rng: modality.corrupt(value, kind, severity, rng, other)


def damaged(
    seen: FieldVectors, severities: Sequence[float]
) -> Iterator[tuple[tuple[str, str, float], Tensor]]:
    """((kind, source, severity), (N, D) the fused vectors of all that a record has), where the
    encoder can be run again."""
    again = seen.embedded.changed
    for number, source in enumerate(seen.names if again is not None else ()):
        for kind in (k for k in KINDS if applies(k, again.fields[source])):
            for severity in severities:
                found = again(source, change(kind, severity), seen.rows.tolist())
                if FUSED in found:
                    yield (kind, source, severity), found[FUSED].values
                    continue
                x = seen.x.clone()
                x[found[source].rows, number] = normalize(found[source].values, dim=1)
                yield (kind, source, severity), replace(seen, x=x).fused(seen.there)


def applies(kind: str, modality: Modality) -> bool:
    """Symbols and categories take no noise."""
    return kind != "noise" or bool(np.any(modality.deviation(np.ones(1, dtype=np.float32))))
