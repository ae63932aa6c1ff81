"""Lists of descriptors, made shorter by an autoencoder before they see each other.

As BioFusionNet (Mondal et al. 2024, arXiv:2402.10717) reads the patches of a slide: descriptors of
frozen networks stand side by side, an autoencoder makes one short vector of each patch, and one
layer of attention lets patches see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Column, Ragged, Tokens
from amodal.core.part import Part
from amodal.modalities import Modality
from amodal.modalities.shared.ragged import index_in_value
from amodal.nn.attention.cross import PaddedAttention, PaddedLayout
from amodal.nn.backbones.body import Body
from amodal.nn.generation.autoencoder import Autoencoder


@runtime_checkable
class Descriptors(Protocol):
    """A field of lists of vectors."""

    @property
    def channels(self) -> Sequence[str]: ...
    @property
    def patch(self) -> int: ...
    def patches(self, series: Ragged) -> tuple[Tensor, Tensor]: ...


class DescriptorBody(Body):
    """Standardised descriptors -> means of an autoencoder's latent -> attention with one head.

    Args:
        modality: Of the field.
        latent: L, dimensions of the latent.

    Raises:
        AmodalError: For values that are no lists of vectors, and for tokens of more than one.
    """

    is_scratch = True

    def __init__(self, modality: Modality, latent: int):
        super().__init__()
        if modality.layout != "signal" or not isinstance(modality, Descriptors):
            raise AmodalError(
                f"descriptors are lists of vectors, and this field is {modality.kind}: write them "
                "to .npy files of (patches, dimensions), a field of kind series"
            )
        if modality.patch != 1:
            raise AmodalError(
                f"a token of this field joins {modality.patch} descriptors; set patch = 1 for it"
            )
        self.modality, self.width = modality, latent
        self.autoencoder = Autoencoder(len(modality.channels), 2 * latent, latent, compresses=False)
        self.attention = PaddedAttention(latent, 1)

    def example(self) -> Ragged:
        """A list of one descriptor."""
        return Ragged(torch.zeros(1, len(self.modality.channels)), torch.ones(1, dtype=torch.int64))

    def read(self, values: Ragged) -> tuple[Tensor, Tensor]:
        """Standardised descriptors (T, C), 0 where a number is missing, and their number (N,)."""
        x_TC, counts = self.modality.patches(values)
        return x_TC.nan_to_num(), counts

    def forward(self, values: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """See `Body.forward`."""
        x_TC, counts = self.read(values)
        means = self.autoencoder.means(x_TC)
        layout = PaddedLayout(counts)
        mixed, _ = self.attention(means, means, layout, layout)
        place = index_in_value(counts).to(mixed.dtype)
        return mixed, counts, nn.functional.pad(place[:, None], (0, 2))


class DescriptorTokens(Part):
    """The tokens of a field whose values are lists of descriptors.

    Args:
        modality: Of the field.
        width: Of the tokens.
        latent: Dimensions of the autoencoder's latent.
    """

    contextual, frozen, name, report = True, False, "an autoencoder of descriptors", None

    def __init__(self, modality: Modality, width: int, *, latent: int):
        super().__init__()
        self.body = DescriptorBody(modality, latent)
        self.project = nn.Linear(latent, width)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """N lists -> tokens, x (T, width)."""
        x_TL, lengths, position = self.body(cast(Ragged, column.values))
        return Tokens.of(self.project(x_TL), column.rows, lengths, position, name, size)

    def elbo(self, column: Column, name: str, seeds: Tensor) -> Tokens:
        """The losses of the autoencoder, as tokens with x (T,).

        Args:
            column: N lists.
            name: Of the source.
            seeds: (B,) int64 of the rows, from which the noise follows.
        """
        x_TC, counts = self.body.read(cast(Ragged, column.values))
        place = torch.zeros(len(x_TC), 3, device=x_TC.device)
        tokens = Tokens.of(x_TC, column.rows, counts, place, name, len(seeds))
        return tokens.with_x(self.body.autoencoder.losses(tokens, seeds)[1])
