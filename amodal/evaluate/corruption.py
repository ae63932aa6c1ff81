"""Corruption of decoded values, with one measure of severity for every modality.

- exchange: this share of the parts of a value come from another record;
- drop: this share of the parts are removed;
- noise: normal noise of this many standard deviations of the field, on what is continuous.

See `Modality.corrupt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.missing_modalities import FieldVectors
from amodal.inference.forward_passes import Perturbation
from amodal.modalities import Modality
from amodal.modalities.shared.corruption import CORRUPTIONS as CORRUPTIONS


def corruption(kind: str, severity: float) -> Perturbation:
    """The perturbation that corrupts values in one way.

    Args:
        kind: One of `CORRUPTIONS`.
        severity: See above.
    """
    return lambda modality, value, other, rng: modality.corrupt(value, kind, severity, rng, other)


def corrupted(
    records: FieldVectors, severities: Sequence[float]
) -> Iterator[tuple[tuple[str, str, float], Tensor]]:
    """Fuse records with one field corrupted, in every way, at every severity.

    Args:
        records: N records. Without an encoder to embed them anew nothing is yielded.
        severities: See above.

    Yields:
        ((kind, source, severity), (N, D) fused vectors of all fields that a record has).
    """
    forward = records.embedded.perturbed_forward
    if forward is None:
        return
    for number, source in enumerate(records.names):
        for kind in (k for k in CORRUPTIONS if applies(k, forward.fields[source])):
            for severity in severities:
                z = forward(source, corruption(kind, severity), records.rows.tolist())
                if FUSED in z:
                    yield (kind, source, severity), vectors_of(z[FUSED])
                    continue
                x = records.x.clone()
                x[z[source].rows, number] = normalize(vectors_of(z[source]), dim=1)
                yield (kind, source, severity), replace(records, x=x).fused(records.present)


def applies(kind: str, modality: Modality) -> bool:
    """Whether a corruption changes values of a modality: symbols and categories take no noise."""
    return kind != "noise" or bool(np.any(modality.deviation(np.ones(1, dtype=np.float32))))
