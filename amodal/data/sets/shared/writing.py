"""What the pages share: pictures, a table of records, its description."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from amodal import modalities
from amodal.data import schema


def records(out: Path, columns: Mapping[str, Sequence | pa.Array]) -> None:
    """records.parquet, one column after the other. None is missing."""
    pq.write_table(
        pa.table(dict(columns)), out / "records.parquet", compression="zstd", row_group_size=1 << 20
    )


def field(modality: str, column: str = "", **parameters) -> schema.Field:
    """A field; parameters that are not given are measured when the set is built."""
    return schema.Field(modalities.make(modality, **parameters), column, given=tuple(parameters))


def describe(
    out: Path, fields: dict[str, schema.Field], labels: Mapping[str, schema.Label | str], **top: str
) -> None:
    """dataset.toml. labels: "category", or a Label; top: title, licence, split_by, split."""
    known = {
        name: schema.Label(kind) if isinstance(kind, str) else kind for name, kind in labels.items()
    }
    top = {"name": out.name, "key": "key"} | top
    described = schema.Schema(fields, known, records=("records.parquet",), **top)
    (out / "dataset.toml").write_text(_open_ended(described), encoding="utf-8")


def _open_ended(described: schema.Schema) -> str:
    """The text of dataset.toml without the parameters that nobody chose."""
    import tomlkit

    document = tomlkit.parse(schema.dumps(described))
    for name, entry in described.fields.items():
        for key in list(document["fields"][name]):
            if key not in (*schema.OWN, *entry.given):
                del document["fields"][name][key]
    return tomlkit.dumps(document)


def picture(content: bytes, longest: int = 0, quality: int = 0) -> bytes:
    """A picture on white, at most `longest` pixels on its longer side, as PNG, or as JPEG where a
    quality is given."""
    from PIL import Image

    image = Image.open(io.BytesIO(content))
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
