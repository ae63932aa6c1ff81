"""Vectors of values that are in memory, and how similar they are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image as Picture
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.core.argument_types import check_type, is_whole, is_word
from amodal.data import Dataset
from amodal.data.dataset import columns_of
from amodal.data.readers.as_numpy import as_numpy, is_array
from amodal.errors import described, warn
from amodal.inference.embed import embed_records, embed_values, unreadable
from amodal.inference.query import field_for
from amodal.modalities import Modality, ending_of, name_of
from amodal.modalities.shared.formatting import first_names
from amodal.progress import Bar
from amodal.train.start import pick_device

if TYPE_CHECKING:
    from amodal.nn.encoder import Encoder

Vectors = npt.NDArray[np.float32]


class EncodeMixin:
    """Vectors of values, with the option names of sentence-transformers."""

    encoder: Encoder

    if TYPE_CHECKING:

        @property
        def device(self) -> torch.device: ...
        def read(self, data: Any) -> Dataset: ...

    def encode(
        self,
        values: Any,
        *,
        field: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool = False,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        device: str | torch.device | None = None,
    ) -> Any:
        """Embed values of one field, or records of all fields that they have.

        Args:
            values: Values of one field (a list, a Series or an array of texts, pictures, arrays,
                paths of files), or a single text, path or picture (its array too); or records: a
                dict of columns, a list of dicts, a data frame, a Dataset (see `amodal.as_dataset`).
            field: Of the values, or its kind, such as "image"; by default the only one, or the only
                one of words for texts and of pictures for pictures. Of records, whose vectors of
                this field are wanted; by default all fields that a record has make one vector of
                length 1.
            batch_size: Values embedded at once.
            show_progress_bar: Whether to show a bar.
            convert_to_tensor: Return a tensor, and not an array.
            normalize_embeddings: Scale vectors to length 1.
            device: Where to compute: auto, cpu, cuda, cuda:N. By default where the model is, and it
                is there afterwards too.

        Returns:
            (n, D) float32 in the space where fields can be compared, (D,) of a single value. NaN
            for a record without a readable value, with a warning.

        Raises:
            AmodalError: It is not clear which field is meant, or a value is missing or cannot be
                read, or there is no such device.
        """
        if not is_whole(batch_size) or batch_size < 1:
            raise AmodalError(f"batch_size is a whole number, at least 1, not {batch_size!r}")
        check_type("field", field or "", is_word, "the name of one field")
        single = not _are_records(values) and self._is_single(values, field)
        with self._on(device):
            if _are_records(values):
                vectors = self._encode_records(values, field, batch_size, show_progress_bar)
            else:
                listed = [values] if single else _listed(values)
                if not listed:
                    raise AmodalError("there are no values to embed")
                vectors = self._encode_values(listed, field, batch_size, show_progress_bar)
        vectors = normalize(vectors, dim=1) if normalize_embeddings else vectors
        vectors = vectors[0] if single else vectors
        return vectors if convert_to_tensor else vectors.numpy()

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of texts as lists, as LangChain's vector stores ask for them.

        Raises:
            AmodalError: As `encode` does.
        """
        return [] if not texts else [list(map(float, v)) for v in self.encode(list(texts))]

    def embed_query(self, text: str) -> list[float]:
        """The vector of a text as a list, as LangChain's vector stores ask for it.

        Raises:
            AmodalError: As `encode` does.
        """
        return [float(number) for number in self.encode(text)]

    async def aembed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        """`embed_documents` in a thread, as LangChain's asynchronous retrievers ask for it."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` in a thread, as LangChain's asynchronous retrievers ask for it."""
        return await asyncio.to_thread(self.embed_query, text)

    @overload
    def similarity(self, a: Tensor, b: Tensor) -> Tensor: ...
    @overload
    def similarity(self, a: Vectors, b: Vectors) -> Vectors: ...
    def similarity(self, a: Any, b: Any) -> Any:
        """Cosines between vectors, without a sign where the encoder gives it no meaning.

        Args:
            a: (n, D) of `encode`.
            b: (m, D).

        Returns:
            (n, m), a tensor if `a` is one.
        """
        try:
            left, right = (
                x.detach().cpu().float() if isinstance(x, Tensor) else torch.tensor(np.asarray(x))
                for x in (a, b)
            )
        except (TypeError, ValueError):
            raise AmodalError("similarity compares vectors: what `encode` returns") from None
        left, right = left.float(), right.float()
        for name, x in (("a", left), ("b", right)):
            if x.shape[-1:] != (self.encoder.space_width,) or x.dim() > 2:
                raise AmodalError(
                    f"{name} has the shape {tuple(x.shape)}; vectors of this model are (n, "
                    f"{self.encoder.space_width})"
                )
        left, right = (normalize(torch.atleast_2d(x), dim=1) for x in (left, right))
        cosines = left @ right.T
        cosines = cosines.abs() if self.encoder.similarity == "abs_cosine" else cosines
        return cosines if isinstance(a, Tensor) else cosines.numpy()

    @contextmanager
    def _on(self, device: str | torch.device | None) -> Iterator[None]:
        """Within it the encoder is on another device."""
        if device is None:
            yield
            return
        known = "the name of one device: auto, cpu, cuda, cuda:N"
        check_type("device", device, lambda one: isinstance(one, str | torch.device), known)
        before = self.device
        try:
            self.encoder.to(pick_device(str(device)))
            yield
        finally:
            self.encoder.to(before)

    def _encode_records(
        self, values: Any, field: str | None, batch_size: int, shown: bool
    ) -> Tensor:
        _check_columns(values, self.encoder.fields)
        dataset = self.read(values)
        name = None if field is None else field_for(self.encoder, field)
        with Bar("encode", len(dataset), shown=shown) as bar:
            embedded = embed_records(
                self.encoder,
                dataset,
                range(len(dataset)),
                batch=batch_size,
                device=self.device,
                labels=False,
                progress=lambda n: bar.step("records", by=n),
            )
        if embedded.bad:
            warn(unreadable(embedded.bad))
        found = embedded.fused() if name is None else embedded.aligned[name]
        vectors = torch.full((len(dataset), self.encoder.space_width), torch.nan)
        vectors[found.rows] = found.flat.float()
        if len(empty := np.setdiff1d(np.arange(len(dataset)), found.rows.numpy())):
            warn(_without_vector(empty, len(dataset), name))
        return vectors

    def _encode_values(
        self, values: Sequence[Any], field: str | None, batch_size: int, shown: bool
    ) -> Tensor:
        name = field_for(self.encoder, field or self._field_of(values))
        if missing := [i for i, value in enumerate(values) if _is_missing(value)]:
            raise AmodalError(
                f"value {missing[0]} of {len(values)} is missing: leave it out, or give records, "
                f"which may lack values, as in encode({{{name!r}: values}})"
            )
        done = []
        with Bar("encode", len(values), shown=shown) as bar:
            for start in range(0, len(values), batch_size):
                part = values[start : start + batch_size]
                done.append(embed_values(self.encoder, name, part, batch=batch_size))
                bar.step("values", by=len(part))
        return torch.cat(done)

    def _is_single(self, values: Any, field: str | None) -> bool:
        """Whether it is one value, such as a text, or the array of one picture."""
        if isinstance(values, (str, bytes, os.PathLike, Picture.Image)):
            return True
        fields = self.encoder.fields
        if not is_array(values) or field is None and len(fields) > 1:
            return False
        name = next(iter(fields)) if field is None else field_for(self.encoder, field)
        return fields[name].is_one(values.shape)

    def _fields_of_files(self, values: Sequence[Any]) -> list[str]:
        """The fields that read files with such endings; none where the values are no names."""
        if not values or not all(isinstance(v, (str, os.PathLike)) for v in values):
            return []
        endings = {ending_of(os.fspath(v)) for v in values}
        fields = self.encoder.fields.items()
        return [n for n, modality in fields if "" not in endings and endings <= modality.suffixes]

    def _field_of(self, values: Sequence[Any]) -> str:
        """The field that values are of, by what they are."""
        values = [value for value in values if not _is_missing(value)]
        fields = {name: name_of(modality) for name, modality in self.encoder.fields.items()}
        if len(fields) == 1:
            return next(iter(fields))
        kind = ""
        named = self._fields_of_files(values)
        if all(isinstance(v, str) for v in values):
            kind = "text"
            if named and all(os.path.isfile(v) for v in values):
                warn(
                    f"these texts are names of files, such as {values[0]!r}, and are embedded as "
                    f"words; for what the files hold: encode(values, field={named[0]!r})"
                )
        elif len(named) == 1 and all(isinstance(v, os.PathLike) for v in values):
            return named[0]
        elif all(isinstance(v, Picture.Image) for v in values):
            kind = "image"
        if list(fields.values()).count(kind) == 1:
            return kind
        listed = ", ".join(f"{name} ({kind})" for name, kind in fields.items())
        raise AmodalError(
            "say which field the values are of, as in encode(values, "
            f"field={next(iter(fields))!r}); this model reads {listed}. Records of more than "
            "one field are a list of dicts or a data frame."
        )


def _check_columns(values: Any, fields: Mapping[str, Modality]) -> None:
    """Raise AmodalError for a dict in the place of a column, such as one row of a table."""
    if not isinstance(values, Mapping):
        return
    for name, column in values.items():
        if isinstance(column, Mapping):
            cells = columns_of(fields[name]) if name in fields else ()
            raise AmodalError(
                f"{name!r} is {described(column)}, and a dict of records has a list for each "
                f"field: {{{name!r}: [{{…}}]}}"
                + (f"; the columns of {name!r} are {first_names(cells, 12)}" if cells else "")
            )


def _without_vector(rows: npt.NDArray[np.int64], total: int, field: str | None) -> str:
    """The warning of records whose vectors are NaN."""
    shown = ", ".join(map(str, rows[:5].tolist())) + (", …" if len(rows) > 5 else "")
    return (
        f"{len(rows):,} of {total:,} records ha{'s' if len(rows) == 1 else 've'} no "
        f"{field or 'value'} that can be read, and NaN for a vector: number{'s' * (len(rows) > 1)} "
        f"{shown}, from 0. What takes no NaN needs them left out: "
        "keep = np.isfinite(vectors).all(1); vectors[keep]"
    )


def _is_missing(value: Any) -> bool:
    """None, or the NaN that pandas has for a missing text."""
    return value is None or (isinstance(value, float) and value != value)


def _are_records(values: Any) -> bool:
    """Whether these are records with names of fields, and not values of one field."""
    if isinstance(values, (Dataset, Mapping, pa.Table, pa.RecordBatch)):
        return True
    if isinstance(values, (list, tuple)):
        return bool(values) and all(isinstance(v, Mapping) for v in values)
    # data frames, and datasets of Hugging Face
    return hasattr(values, "columns") or hasattr(values, "column_names")


def _listed(values: Any) -> list[Any]:
    """Values of one field as a list: of a Series or a column of Arrow too."""
    if is_array(values):
        return list(as_numpy(values))  # as a list of numbers a tensor would lose its type
    for name in ("to_pylist", "tolist"):
        if callable(listed := getattr(values, name, None)):
            return list(listed())
    try:
        return list(values)
    except TypeError:
        raise AmodalError(
            f"encode takes a value, a list of values or records, not {type(values).__name__}"
        ) from None
