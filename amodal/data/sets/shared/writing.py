"""Write a set: a table of records, its dataset.toml, and pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from amodal import modalities
from amodal.data import schema


def records(out: Path, columns: Mapping[str, Sequence[object] | pa.Array]) -> None:
    """Write records.parquet.

    Args:
        out: the folder.
        columns: name -> N values, None where missing.
    """
    pq.write_table(
        pa.table(dict(columns)), out / "records.parquet", compression="zstd", row_group_size=1 << 20
    )


def field(modality: str, **parameters: Any) -> schema.Field:
    """A field of the dataset.toml.

    Args:
        modality: its kind.
        parameters: of the modality. The others are measured when the set is built.
    """
    return schema.Field(modalities.make(modality, **parameters), declared=tuple(parameters))


def describe(
    out: Path, fields: dict[str, schema.Field], labels: Mapping[str, schema.Label | str], **top: str
) -> None:
    """Write dataset.toml.

    Args:
        out: the folder; its name is that of the dataset.
        fields: by name.
        labels: name -> "category", "number" or a Label.
        top: title, licence, split_by, split.
    """
    known = {
        name: schema.Label(kind) if isinstance(kind, str) else kind for name, kind in labels.items()
    }
    top = {"name": out.name, "key": "key"} | top
    whole = schema.Schema(fields, known, records=("records.parquet",), **top)
    (out / "dataset.toml").write_text(_declared_only(whole), encoding="utf-8")


def _declared_only(whole: schema.Schema) -> str:
    """The text of dataset.toml without the parameters that nobody chose."""
    import tomlkit

    document: dict[str, Any] = tomlkit.parse(schema.dumps(whole))
    for name, entry in whole.fields.items():
        table = document["fields"][name]
        for key in list(table):
            if key not in (*schema.FIELD_KEYS, *(entry.declared or ())):
                del table[key]
    return tomlkit.dumps(document)


def picture(content: bytes, longest: int = 0, quality: int = 0) -> bytes:
    """Re-encode a picture, on white where it is transparent.

    Args:
        content: in any format that Pillow reads.
        longest: pixels of its longer side at most, 0 for no limit.
        quality: of a JPEG, 0 for a PNG.
    """
    from PIL import Image

    image: Image.Image = Image.open(io.BytesIO(content))
    if image.mode != "RGB":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if longest and max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=quality) if quality else image.save(
        packed, "PNG", optimize=True
    )
    return packed.getvalue()
