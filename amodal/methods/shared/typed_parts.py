"""Parts of an encoder by their types, which torch's containers and the schema do not carry."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from amodal.core import field_of
from amodal.modalities.shared.protocols import Grid
from amodal.modalities.table import Table
from amodal.modalities.text import Text
from amodal.nn.encoder import Encoder
from amodal.nn.pooling import Pool
from amodal.nn.scale import Scale


def field_pool(encoder: Encoder, source: str) -> Pool:
    """The pooling of the field of a source."""
    return cast(Pool, encoder.pools[field_of(source)])


def has_class_token(encoder: Encoder, field: str) -> bool:
    """Whether a field's backbone puts a token before the others that stands for the whole."""
    return encoder.prefix_tokens(field) > 0


def is_one_vector(encoder: Encoder, field: str) -> bool:
    """Whether a field's backbone makes one vector of a value."""
    return bool(getattr(_body(encoder, field), "is_one_vector", False))


def _body(encoder: Encoder, field: str) -> object:
    return getattr(encoder.tokenizers[field], "body", None)


def aligned_heads(encoder: Encoder) -> nn.ModuleDict:
    """field -> its head, of an encoder that has been aligned."""
    assert encoder.heads is not None
    return encoder.heads


def grid_modality(encoder: Encoder, field: str) -> Grid:
    """A field whose layout is a grid."""
    return cast(Grid, encoder.fields[field])


def table_modality(encoder: Encoder, field: str) -> Table:
    """A field whose values are rows of named cells (`is_row`)."""
    return cast(Table, encoder.fields[field])


def text_modality(encoder: Encoder, field: str) -> Text:
    """A field whose values are language (`takes_prompts`)."""
    return cast(Text, encoder.fields[field])


def bias_of(scale: Scale) -> Tensor:
    """The learned offset of a scale that was made with one."""
    assert scale.bias is not None
    return scale.bias
