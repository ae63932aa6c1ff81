"""Codes of tokens, as targets of masked models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from torch import nn

from amodal.core import AmodalError, Batch
from amodal.modalities import Modality
from amodal.modalities.shared.protocols import Grid
from amodal.nn.codebook import Codebook, TokenSample
from amodal.nn.image_codes import ImageCodes


def image_codes(fields: Mapping[str, Modality], named: str, method: str) -> dict[str, ImageCodes]:
    """Field -> the codebook of its images, of the fields with square ones of three channels.

    Args:
        fields: Name -> modality.
        named: Folder of the codebook, see `ImageCodes`.
        method: For messages.

    Raises:
        AmodalError: Without such a field, and for a folder without a codebook.
    """
    squares = {
        f: cast(Grid, m)
        for f, m in fields.items()
        if m.layout == "grid" and getattr(m.collate([]), "shape", ())[1:2] == (3,)
    }
    if not squares:
        raise AmodalError(
            f"{method}.codebook is of square images with three channels, and none of the fields "
            f"{', '.join(fields)} has such; leave it out"
        )
    return {f: ImageCodes(named, m.tile) for f, m in squares.items()}


def code_width(modality: Modality) -> int:
    """Numbers of a token of an image or a signal, 0 for what is predicted as its modality says."""
    if modality.layout == "tokens":
        return 0
    targets = modality.targets(modality.collate([]))
    real = targets.dim() == 2 and targets.is_floating_point()
    return targets.shape[1] if real else 0


def codebook_options(books: nn.ModuleDict) -> dict[str, object]:
    """What a run stores in place of the folder of a codebook of images: it and its number of codes,
    so that the run opens when the folder is gone.

    Args:
        books: Field -> what gives codes to its tokens.
    """
    named = {b.named for b in books.values() if isinstance(b, ImageCodes)}
    return {"codebook": named.pop()} if named else {}


def fit_codebooks(
    books: nn.ModuleDict, fields: Mapping[str, Modality], records: Iterable[Batch]
) -> None:
    """Fit the centres of each `Codebook` to a sample of the tokens of its field in all records.

    Args:
        books: Field -> what gives codes to its tokens.
        fields: Name -> modality.
        records: All records, in batches.
    """
    samples = {f: TokenSample() for f, book in books.items() if isinstance(book, Codebook)}
    for batch in records:
        for f in (f for f in samples if f in batch.columns):
            samples[f].add(fields[f].targets(batch[f].values))
    for f, drawn in samples.items():
        cast(Codebook, books[f]).fit(drawn.tokens)
