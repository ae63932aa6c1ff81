"""Embeddings of records and of single values, as evaluation, search and export read them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged, unknown
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.core.matmul import fast_products
from amodal.data import Bad, Dataset
from amodal.data.readers.as_numpy import as_numpy, is_array
from amodal.inference.forward_passes import (
    AnyEncoder,
    Device,
    PerturbedForward,
    eval_mode,
    re_fuser,
    sequential_loader,
    to_cpu,
)
from amodal.modalities import BadValue, Raw, name_of
from amodal.nn.encoder import Encoder
from amodal.nn.multi_vector import MultiVector


@dataclass(frozen=True)
class Embedded:
    """N embedded records.

    Args:
        keys: Of the records.
        aligned: Vectors in the space where sources can be compared.
        features: What the trunk gives, before the heads; probes read these.
        labels: Name -> (N,) str objects with None where missing, or float64 with NaN.
        re_fuse: Names of sources -> the vectors that the network makes of those together, where
            that takes another forward pass (joint trunks).
        content: Source -> (n,) int64, equal for records whose values are equal, in the order of the
            column's rows.
        bad: Values that could not be decoded.
        perturbed_forward: Embeds the records with values of one field perturbed; None for vectors
            without an encoder.
        abs_cosine: Whether the aligned space is compared by |cosine|, as a vector and its opposite
            mean the same there (`Encoder.similarity`).
        population: Source, or `fused` -> (n,) the rows that have it, embedded or not. A source that
            is not in it has those that are embedded.
    """

    keys: list[str]
    aligned: Embeddings
    features: Embeddings
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    re_fuse: Callable[[Sequence[str]], Column] | None = None
    content: dict[str, Tensor] = field(default_factory=dict)
    bad: list[Bad] = field(default_factory=list)
    perturbed_forward: PerturbedForward | None = None
    abs_cosine: bool = False
    population: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources, without the fused vectors."""
        return self.aligned.sources

    def fused(self, names: Sequence[str] | None = None) -> Column:
        """One vector of the aligned space for each record that has any of these sources.

        Args:
            names: The sources that are fused, None for all.

        Raises:
            AmodalError: For an unknown source.
        """
        if names is None or set(names) == set(self.sources):
            return self.aligned.fused()
        for name in names:
            self.aligned[name]  # raises for a name that is none
        return self.re_fuse(names) if self.re_fuse is not None else self.aligned.fused(names)

    def only(self, rows: np.ndarray) -> Embedded:
        """The same N records, of which some have no vectors.

        Args:
            rows: (N,) bool, which of them have their vectors.
        """
        if rows.all():
            return self

        def part(column: Column) -> Column:
            return column.at(torch.from_numpy(rows[column.rows.numpy()]))

        re_fuse = self.re_fuse
        return replace(
            self,
            aligned=_mapped(self.aligned, part, len(self)),
            features=_mapped(self.features, part, len(self)),
            re_fuse=None if re_fuse is None else lambda names: part(re_fuse(names)),
            content={
                source: values[torch.from_numpy(rows[self.aligned[source].rows.numpy()])]
                for source, values in self.content.items()
            },
        )

    def label(self, name: str) -> np.ndarray:
        """(N,) labels.

        Raises:
            AmodalError: For an unknown name, or if no record here has the label.
        """
        if name not in self.labels:
            raise unknown("label", name, self.labels)
        values = self.labels[name]
        if not known(values).any():
            others = ", ".join(n for n, v in self.labels.items() if known(v).any()) or "none"
            raise AmodalError(
                f"none of these {len(self)} records has the label {name!r}; "
                f"labels that some have: {others}."
            )
        return values

    def probed(self) -> dict[str, Column]:
        """The vectors that probes read.

        Returns:
            Source -> its features and, where there is more than one source, `fused`.
        """
        return probed_columns(self.features, self.aligned)


def probed_columns(features: Embeddings, aligned: Embeddings) -> dict[str, Column]:
    """See `Embedded.probed`."""
    columns = {s: features[s] for s in features.sources}
    if FUSED in features:
        return columns | {FUSED: features[FUSED]}
    return columns | ({FUSED: aligned.fused()} if len(columns) > 1 else {})


def _mapped(embeddings: Embeddings, change: Callable[[Column], Column], size: int) -> Embeddings:
    """Embeddings of `size` rows with other columns."""
    columns = {source: change(column) for source, column in embeddings.columns.items()}
    return embeddings.with_columns(columns, size)


def known(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: which labels are not missing."""
    if labels.dtype.kind == "f":
        return np.asarray(np.isfinite(labels))
    return np.array([v is not None for v in labels], dtype=bool)


def unreadable(bad: Sequence[Bad], shown: int = 3) -> str:
    """A message with how many values could not be decoded, and why the first `shown` could not."""
    lines = [f"{b.key} ({b.field}): {b.reason}" for b in bad[:shown]] + ["…"] * (len(bad) > shown)
    return "\n  ".join([f"{len(bad):,} value{'s' * (len(bad) != 1)} could not be read:", *lines])


def device_of(encoder: AnyEncoder) -> torch.device:
    """Where the encoder's parameters are; the CPU for one without any."""
    first = next(iter(encoder.parameters()), None)
    return first.device if first is not None else torch.device("cpu")


@fast_products()
@torch.no_grad()
def embed_records(
    encoder: AnyEncoder,
    dataset: Dataset,
    indices: Iterable[int],
    *,
    batch: int = 256,
    device: Device | None = None,
    progress: Callable[[int], object] | None = None,
    labels: bool = True,
    only: np.ndarray | None = None,
) -> Embedded:
    """Embed records in evaluation mode. The encoder's mode is restored afterwards.

    Args:
        encoder: What embeds.
        dataset: Where the records are.
        indices: Which records, in the order of the result.
        batch: Records embedded at once.
        device: Where the encoder is, read off its parameters unless set.
        progress: Called with the number of records just done.
        labels: Whether to take the labels along.
        only: (N,) bool with one at least, which of them to embed; the others have no vectors.

    Returns:
        The records, with vectors as float32 on the CPU.
    """
    indices = np.asarray(list(indices), dtype=np.int64)
    chosen = np.arange(len(indices)) if only is None else np.flatnonzero(only)
    loader = sequential_loader(dataset, indices[chosen], batch)
    device = device_of(encoder) if device is None else device
    features, aligned, content = [], [], dict[str, list[Tensor]]()
    with eval_mode(encoder):
        for part in loader:
            for source, column in part.columns.items():
                content.setdefault(source, []).append(_content_hashes(column))
            features_ = encoder.features(part.to(device))
            aligned.append(to_cpu(encoder.project(features_)))
            features.append(to_cpu(features_))
            if progress is not None:
                progress(part.size)
    place = torch.from_numpy(chosen)

    def placed(column: Column) -> Column:
        return Column(column.values, place[column.rows])

    stacked = Embeddings.stack(aligned), Embeddings.stack(features)
    spaces = [_mapped(space, placed, len(indices)) for space in stacked]
    joint = any(FUSED in space for space in spaces)
    re_fuse = re_fuser(encoder, dataset, indices[chosen], batch, device)
    return Embedded(
        keys=[dataset.keys[i] for i in indices.tolist()],
        aligned=spaces[0],
        features=spaces[1],
        labels={name: dataset.label(name)[indices] for name in dataset.labels} if labels else {},
        re_fuse=(lambda names: placed(re_fuse(names))) if FUSED in spaces[0] else None,
        content={source: torch.cat(parts) for source, parts in content.items()},
        bad=loader.bad,
        perturbed_forward=PerturbedForward(encoder, dataset, indices, batch, device, joint),
        abs_cosine=encoder.similarity == "abs_cosine",
    )


@fast_products()
@torch.no_grad()
def embed_multi_vector(
    encoder: AnyEncoder,
    dataset: Dataset,
    indices: Iterable[int],
    *,
    batch: int = 256,
    device: Device | None = None,
    progress: Callable[[int], object] | None = None,
    multi_vector: MultiVector | None = None,
) -> tuple[list[str], Embeddings, dict[str, Tensor], list[Bad]]:
    """Embed records with more than one vector a value, for late interaction.

    Args:
        encoder: What embeds.
        dataset: Where the records are.
        indices: Which records, in the order of the result.
        batch: Records embedded at once.
        device: Where the encoder is, read off its parameters unless set.
        progress: Called with the number of records just done.
        multi_vector: How the vectors are made, the encoder's own way unless set.

    Returns:
        Keys of the records; float16 unit vectors on the CPU, Ragged where a value has many; source
        -> the number of the part that each vector is of; values that could not be decoded.
    """
    multi_vector = multi_vector_of(encoder) if multi_vector is None else multi_vector
    indices = np.asarray(list(indices), dtype=np.int64)
    loader = sequential_loader(dataset, indices, batch)
    device = device_of(encoder) if device is None else device
    vectors, numbers = dict[str, list[Column]](), dict[str, list[Tensor]]()
    sizes = []
    with eval_mode(encoder):
        for part in loader:
            z, part_numbers = multi_vector.of_records(as_encoder(encoder), part.to(device))
            for source, column in z.columns.items():
                half = column.with_flat(column.flat.half())
                vectors.setdefault(source, []).append(half.to("cpu"))
            for source, number in part_numbers.items():
                numbers.setdefault(source, []).append(number.cpu())
            sizes.append(part.size)
            if progress is not None:
                progress(part.size)
    columns = {s: Column.stack(parts, sizes) for s, parts in vectors.items()}
    return (
        [dataset.keys[i] for i in indices.tolist()],
        Embeddings(columns, len(indices)),
        {s: torch.cat(parts) for s, parts in numbers.items()},
        loader.bad,
    )


def multi_vector_of(encoder: AnyEncoder) -> MultiVector:
    """How an encoder makes more than one vector of a value.

    Raises:
        AmodalError: If it makes one vector only.
    """
    if not isinstance(encoder.multi_vector, MultiVector):
        raise AmodalError("this encoder makes one vector of each value")
    return encoder.multi_vector


def as_encoder(encoder: AnyEncoder) -> Encoder:
    """The encoder whose trunk multi-vector embeddings read.

    Raises:
        AmodalError: For an ensemble, which has one trunk for each member.
    """
    if not isinstance(encoder, Encoder):
        raise AmodalError("an ensemble makes one vector of each value")
    return encoder


@torch.no_grad()
def embed_queries(
    encoder: AnyEncoder, name: str, raws: Sequence[Raw], *, batch: int = 256
) -> Ragged:
    """Embed raw values of one field as queries of an encoder with multi-vector embeddings.

    Args:
        encoder: What embeds; its `multi_vector` is set.
        name: The field.
        raws: n values, not decoded.
        batch: Values embedded at once.

    Returns:
        n lists of float32 unit vectors on the CPU.
    """
    multi_vector, lists = multi_vector_of(encoder), []
    with eval_mode(encoder):
        for part in value_batches(encoder, name, raws, batch):
            lists.append(multi_vector.of_query(as_encoder(encoder), part, name).to("cpu"))
    return Ragged(
        torch.cat([one.flat.float() for one in lists]), torch.cat([one.lengths for one in lists])
    )


@torch.no_grad()
def embed_values(
    encoder: AnyEncoder, name: str, raws: Sequence[Raw], *, batch: int = 256
) -> Tensor:
    """Embed raw values of one field.

    Args:
        encoder: What embeds.
        name: The field.
        raws: n values, not decoded.
        batch: Values embedded at once.

    Returns:
        (n, D) float32 vectors of the aligned space, on the CPU.

    Raises:
        AmodalError: For a value that cannot be decoded.
    """
    vectors = []
    with eval_mode(encoder):
        for part in value_batches(encoder, name, raws, batch):
            vectors.append(vectors_of(encoder(part)[name]).float().cpu())
    return torch.cat(vectors)


def value_batches(
    encoder: AnyEncoder, name: str, raws: Sequence[Raw], batch: int
) -> Iterator[Batch]:
    """Raw values of one field as batches of the encoder, on its device.

    Args:
        encoder: What the batches are for.
        name: The field.
        raws: Values, not decoded.
        batch: Values in a batch.

    Raises:
        AmodalError: For a value that cannot be decoded.
    """
    # the plain view draws nothing, so one generator serves all values
    modality, rng = encoder.fields[name], np.random.default_rng(0)
    for start in range(0, len(raws), batch):
        values = []
        for raw in raws[start : start + batch]:
            try:
                plain = as_numpy(raw) if is_array(raw) else raw
                values.append(modality.augment(modality.decode_finite(plain), "plain", rng))
            except BadValue as error:
                raise AmodalError(
                    f"cannot read {str(raw)[:80]!r} as {name} ({name_of(modality)}): {error}"
                ) from error
        column = Column(modality.collate(values), torch.arange(len(values)))
        yield Batch.of(len(values), {name: column}).to(device_of(encoder))


def _content_hashes(column: Column) -> Tensor:
    """(n,) int64, equal for equal values."""
    values = column.values.split() if isinstance(column.values, Ragged) else column.values
    digests = (
        hashlib.blake2b(v.contiguous().numpy().tobytes(), digest_size=8).digest() for v in values
    )
    return torch.tensor(
        [int.from_bytes(d, "little", signed=True) for d in digests], dtype=torch.int64
    )
