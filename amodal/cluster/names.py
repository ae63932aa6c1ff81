"""Names for clusters, chosen from words by the votes of their members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, Column, Embeddings
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.diagnose.volume import volume_of
from amodal.evaluate.diagnoses import ALIKE
from amodal.evaluate.self_labels import names_by_vote
from amodal.inference.embed import Embedded, embed_values

if TYPE_CHECKING:
    from amodal.model import Model

MIN_PAIRS = 20
"""Records with a text, by which a common space is recognised."""


def read_names(path: str | Path) -> list[str]:
    """Candidates for names, one a line; empty lines are left out.

    Raises:
        AmodalError: For a file that cannot be read, and for one without a name.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AmodalError(f"cannot read names from {path}: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise AmodalError(f"{path} has no name; write one a line")
    return names


def named(
    model: Model,
    embedded: Embedded,
    rows_n: Tensor,
    source: str,
    cluster_n: np.ndarray,
    words: Sequence[str],
) -> dict[int, str]:
    """Name clusters.

    Args:
        model: With a text field, in which the words are embedded.
        embedded: N records.
        rows_n: int64 rows of those that are clustered.
        source: What they are clustered by, a field or `fused`.
        cluster_n: Their clusters.
        words: To choose from.

    Returns:
        cluster -> the word that most of its members are nearest to.

    Raises:
        AmodalError: For a run that has no text field, or more than one, or none in the space of
            the clustered one.
    """
    texts = [name for name, modality in model.fields.items() if modality.takes_prompts]
    if len(texts) != 1:
        has = "none" if not texts else ", ".join(texts)
        raise AmodalError(
            f"names are chosen by the one text field of a run, and this run has {has}; without "
            "words, clusters are described by what sets them apart"
        )
    words_MD = embed_values(model.encoder, texts[0], list(words))
    aligned = embedded.fused() if source == FUSED else embedded.aligned[source]
    own_text = embedded.aligned[texts[0]] if texts[0] in embedded.aligned else None
    if vectors_of(aligned).shape[1] != words_MD.shape[1] or not _one_space(aligned, own_text):
        raise AmodalError(
            f"{source} and {texts[0]} have no common space in this run; names take a method that "
            "aligns them, such as clip"
        )
    here = torch.isin(aligned.rows, rows_n)
    return names_by_vote(cluster_n, vectors_of(aligned)[here].float(), words_MD, words)


def _one_space(aligned: Column, own_text: Column | None) -> bool:
    """Whether records are more like their own texts than like those of others, where they have any:
    methods that align nothing have vectors of one width too."""
    if own_text is None or own_text is aligned:
        return True
    size = int(max(aligned.rows.max(), own_text.rows.max())) + 1 if len(own_text) else 0
    both = Embeddings({"records": aligned, "texts": own_text}, size)
    row = volume_of(both, both.sources) if size else None
    return row is None or int(row["n"]) < MIN_PAIRS or float(row["auroc"]) >= ALIKE
