"""Texts that are looked for in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Tokens, unknown
from amodal.core.protocols import LocatesText
from amodal.inference.embed import embed_values
from amodal.maps.dense import Patches
from amodal.maps.modes import MAX_LAYERS
from amodal.methods.contract import Method
from amodal.nn.encoder import Encoder
from amodal.nn.patch_vectors import patch_vectors

EXAMPLES = ("clip", "siglip", "dreamlip", "dinotxt", "lit")
"""Methods that take patches and texts into one space, for messages; others do too."""


@dataclass(frozen=True)
class Query:
    """A class of places that is described in words.

    Args:
        name: In tables and pictures.
        prompts: Whose mean unit vector is its vector.
        number: Of the class in a raster of labels.
        numbered: Whether the user wrote that number.
    """

    name: str
    prompts: tuple[str, ...]
    number: int
    numbered: bool = False


def read_queries(queries: str | Sequence[str] | Path, templates: Sequence[str] = ()) -> list[Query]:
    """Queries as a user writes them.

    Args:
        queries: "a cat,2=a tree|trees", a list of such parts, or a file with one a line. A number
            before = is that of the class in a raster of labels, by default the place in the list; |
            divides prompts of one query.
        templates: Sentences with {} for a prompt.

    Raises:
        AmodalError: For no query, two of one name or number, a template without {}, and a file that
            cannot be read.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise AmodalError(
                f"a template needs one {{}} where the query goes, got {template!r}, such as 'a "
                "photo of {}'"
            )
    made = []
    for place, part in enumerate(_parts(queries)):
        number, text = _numbered(part)
        prompts = [p.strip() for p in text.split("|") if p.strip()]
        if not prompts:
            raise AmodalError(f"the query {part!r} has no words")
        filled = [t.replace("{}", p) for p in prompts for t in templates or ("{}",)]
        numbered = number is not None
        made.append(Query(prompts[0], tuple(filled), place if number is None else number, numbered))
    for what in ("name", "number"):
        values = [getattr(q, what) for q in made]
        double = next((v for v in values if values.count(v) > 1), None)
        if double is not None:
            raise AmodalError(f"two queries have the {what} {double!r}")
    return made


def _parts(queries: str | Sequence[str] | Path) -> list[str]:
    if isinstance(queries, Path) or (isinstance(queries, str) and queries.endswith(".txt")):
        try:
            parts = Path(queries).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise AmodalError(f"cannot read queries from {queries}: {error}") from error
    else:
        parts = queries.split(",") if isinstance(queries, str) else [str(q) for q in queries]
    parts = [part.strip() for part in parts if part.strip()]
    if not parts:
        raise AmodalError("there is no query; write words, with commas between, or a line each")
    if len(parts) > MAX_LAYERS:
        raise AmodalError(f"{len(parts)} queries do not fit into a label map, {MAX_LAYERS} do")
    return parts


def _numbered(part: str) -> tuple[int | None, str]:
    number, equals, text = part.partition("=")
    if equals and number.strip().isdecimal():
        return int(number), text
    return None, part


def text_field(encoder: Encoder, wanted: str | None, method_name: str, field: str) -> str:
    """The field that queries are written in, of an encoder that has it in a space with patches.

    Args:
        encoder: Of the run.
        wanted: What the user asked for, None for the only one.
        method_name: Of the run, for the message.
        field: Whose patches are compared.

    Raises:
        AmodalError: Without such a field, or with more than one.
    """
    texts = [f for f, m in encoder.fields.items() if m.takes_prompts]
    if not texts:
        raise AmodalError(
            "queries are texts, and this run has no text field: its fields are "
            f"{', '.join(encoder.fields)}. Without --queries it is divided into segments; with "
            f"texts there are methods such as {', '.join(EXAMPLES)}"
        )
    if wanted is not None and wanted not in texts:
        raise unknown("text field of this run", wanted, texts)
    if wanted is None and len(texts) > 1:
        raise AmodalError(
            f"this run has {len(texts)} text fields; say which reads queries: --text-field "
            f"{' or --text-field '.join(texts)}"
        )
    text = wanted or texts[0]
    if encoder.heads is None or not {text, field} <= {*encoder.heads}:
        raise AmodalError(
            f"{method_name or 'this encoder'} has no space in which patches of {field} and "
            f"{text} are compared; methods that have one are {', '.join(EXAMPLES)}"
        )
    return text


def patches_of(encoder: Encoder, method: Method | None, field: str) -> Patches:
    """How patches of a run are taken into the space of texts: the method's own way, or through the
    encoder's head."""
    if isinstance(method, LocatesText):
        return _by(method, field)

    def through_head(batch: Batch) -> Tokens:
        return patch_vectors(encoder, batch, field)

    return through_head


def _by(method: LocatesText, field: str) -> Patches:
    def patches(batch: Batch) -> Tokens:
        return method.patch_vectors(batch, field)

    return patches


def query_vectors(
    encoder: Encoder, method: Method | None, queries: Sequence[Query], text: str, field: str
) -> Tensor:
    """(K, E) unit vectors of queries, to be compared with patches.

    Args:
        encoder: Of the run.
        method: Of the run, which may compare patches in its own way.
        queries: K of them.
        text: The field that they are written in.
        field: Whose patches they are compared with.
    """
    vectors = embed_values(encoder, text, [p for query in queries for p in query.prompts])
    unit, start, means = normalize(vectors.float(), dim=1), 0, []
    for query in queries:
        means.append(unit[start : start + len(query.prompts)].mean(0))
        start += len(query.prompts)
    z_KD = torch.stack(means)
    if isinstance(method, LocatesText):
        z_KD = method.patch_queries(z_KD, field)
    return normalize(z_KD, dim=1)
