"""Tokens of the single bands of `Raster`, which are known by their wavelengths."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import nn
from torch.nn.functional import relu

from amodal.core import Column, Ragged, Tokens
from amodal.core.tokens import DATE, METRES, WAVELENGTH
from amodal.modalities.shared import raster_patches as _patches

if TYPE_CHECKING:
    from amodal.modalities.raster import Raster


class BandTokenizer(nn.Module):
    """A perceptron of the pixels of a patch of one band, the same for all bands of a field.

    So it reads bands that it has never seen. It adds neither position nor wavelength, which are
    attributes of its tokens: what lies behind it does. A missing pixel counts as the mean of its
    band. The tied patch embedding of LESS ViT (Si et al. 2025, arXiv:2503.12843).

    Args:
        raster: the modality, `by_wavelength`.
        width: D of the tokens; the hidden layer is twice as wide.
    """

    positioned = True
    """No position, and no vector of its field, is added by the encoder."""

    def __init__(self, raster: Raster, width: int):
        super().__init__()
        self.up, self.down = nn.Linear(raster.tile**2, 2 * width), nn.Linear(2 * width, width)
        for linear in (self.up, self.down):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Tokens of rasters, at the positions (month, row, column of the patch).

        Their attributes are `DATE`, `METRES`, NaN where not known, and `WAVELENGTH`.
        """
        values = cast(Ragged, column.values)
        flat = values.flat
        pixels, _ = _patches.pixels_of(flat, _patches.OF_BAND)
        x_TD = self.down(relu(self.up(pixels)))
        known = {
            attribute: flat[:, _patches.POSITION + i]
            for i, attribute in enumerate((DATE, METRES, WAVELENGTH))
        }
        place = flat[:, : _patches.POSITION]
        return Tokens.of(x_TD, column.rows, values.lengths, place, name, size, known)
