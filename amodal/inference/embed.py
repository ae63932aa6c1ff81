"""Records as an encoder sees them: vectors in both of its spaces, and the labels to judge them by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged, unknown
from amodal.core.embeddings import FUSED
from amodal.core.matmul import fast_products
from amodal.data import Bad, Dataset
from amodal.inference.forward_passes import PerturbedForward, evaluating, in_order, kept, re_fuser
from amodal.modalities import BadValue, Raw, name_of
from amodal.nn.multi_vector import MultiVector


@dataclass(frozen=True)
class Embedded:
    """keys: of the N records; aligned: vectors in the space where sources can be compared;
    features: what the trunk gives, before the heads, which probes read; labels: name -> (N,) str
    objects with None, or float64 with NaN where missing.

    refuse: names -> the vectors that the network makes of those sources together, if it has to be
    run again for it (joint trunks). content: source -> (n,) int64, equal for records whose values
    are equal, in the order of the column's rows. bad: values that could not be read. unsigned: near
    is a large |cosine| in the aligned space, which does not tell a vector from its opposite
    (`Encoder.unsigned`). changed: runs the network again with the values of one source changed, see
    `Changer`.
    """

    keys: list[str]
    aligned: Embeddings
    features: Embeddings
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    re_fuse: Callable[[Sequence[str]], Column] | None = None
    content: dict[str, Tensor] = field(default_factory=dict)
    bad: list[Bad] = field(default_factory=list)
    changed: PerturbedForward | None = None
    unsigned: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources, without the fused vectors."""
        return self.aligned.sources

    def fused(self, names: Sequence[str] | None = None) -> Column:
        """One vector (aligned space) for each record that has any of `names`, of those sources
        alone; all sources unless given."""
        if names is None or set(names) == set(self.sources):
            return self.aligned.fused()
        for name in names:
            self.aligned[name]  # raises for a name that is none
        return self.re_fuse(names) if self.re_fuse is not None else self.aligned.fused(names)

    def label(self, name: str) -> np.ndarray:
        """(N,) labels. Raises AmodalError with the nearest names, or if no record here has the
        label."""
        if name not in self.labels:
            raise unknown("label", name, self.labels)
        values = self.labels[name]
        if not known(values).any():
            others = ", ".join(n for n, v in self.labels.items() if known(v).any()) or "none"
            raise AmodalError(
                f"none of these {len(self)} records has the label {name!r}; labels that some have: {others}."
            )
        return values

    def probed(self) -> dict[str, Column]:
        """source -> the vectors that a probe reads: features of each source and, where records may
        have several sources, `fused`."""
        columns = {s: self.features[s] for s in self.features.sources}
        if FUSED in self.features:
            return columns | {FUSED: self.features[FUSED]}
        return columns | ({FUSED: self.aligned.fused()} if len(columns) > 1 else {})


def known(labels: np.ndarray) -> np.ndarray:
    """(N,) bool: which labels are there."""
    return (
        np.isfinite(labels)
        if labels.dtype.kind == "f"
        else np.array([v is not None for v in labels], dtype=bool)
    )


def unreadable(bad: Sequence[Bad], shown: int = 3) -> str:
    """How many values could not be read, and why the first could not."""
    lines = [f"{b.key} ({b.field}): {b.reason}" for b in bad[:shown]] + ["…"] * (len(bad) > shown)
    return "\n  ".join([f"{len(bad):,} value{'s' * (len(bad) != 1)} could not be read:", *lines])


def device_of(encoder) -> torch.device:
    first = next(iter(encoder.parameters()), None) if hasattr(encoder, "parameters") else None
    return first.device if first is not None else torch.device("cpu")


@fast_products()
@torch.no_grad()
def embed_records(
    encoder,
    dataset: Dataset,
    indices: Iterable[int],
    *,
    batch: int = 256,
    device: torch.device | str | None = None,
    progress: Callable[[int], object] | None = None,
    labels: bool = True,
) -> Embedded:
    """The records at `indices`, in that order, through an encoder in evaluation mode; vectors come
    back as float32 on the CPU.

    device: where the encoder is, found out unless given. progress: called with the number of
    records just done. labels: take the labels along. The encoder is left in the mode (training or
    evaluation) it was in.
    """
    indices = np.asarray(list(indices), dtype=np.int64)
    loader = in_order(dataset, indices, batch)
    device = device_of(encoder) if device is None else device
    features, aligned, content = [], [], {}
    with evaluating(encoder):
        for part in loader:
            for source, column in part.columns.items():
                content.setdefault(source, []).append(_content(column))
            seen = encoder.features(part.to(device))
            aligned.append(kept(encoder.project(seen)))
            features.append(kept(seen))
            if progress is not None:
                progress(part.size)
    spaces = Embeddings.stack(aligned), Embeddings.stack(features)
    re_fuse = re_fuser(encoder, dataset, indices, batch, device) if FUSED in spaces[0] else None
    return Embedded(
        [dataset.keys[i] for i in indices.tolist()],
        *spaces,
        {name: dataset.label(name)[indices] for name in dataset.labels} if labels else {},
        re_fuse,
        {source: torch.cat(parts) for source, parts in content.items()},
        loader.bad,
        PerturbedForward(
            encoder, dataset, indices, batch, device, FUSED in spaces[0] or FUSED in spaces[1]
        ),
        getattr(encoder, "similarity", "cosine") == "abs_cosine",
    )


@fast_products()
@torch.no_grad()
def embed_multi_vector(
    encoder,
    dataset: Dataset,
    indices: Iterable[int],
    *,
    batch: int = 256,
    device: torch.device | str | None = None,
    progress: Callable[[int], object] | None = None,
    several: MultiVector | None = None,
) -> tuple[list[str], Embeddings, dict[str, Tensor], list[Bad]]:
    """The records at `indices` as an encoder with `several` vectors gives them for search: their
    keys, float16 unit vectors on the CPU, of some sources as Ragged, the number of the part that
    each of these is of, and the values that could not be read. several: how, the encoder's own way
    unless given. See `embed_records`."""
    several = encoder.multi_vector if several is None else several
    indices = np.asarray(list(indices), dtype=np.int64)
    loader = in_order(dataset, indices, batch)
    device = device_of(encoder) if device is None else device
    vectors, numbers, sizes = {}, {}, []
    with evaluating(encoder):
        for part in loader:
            z, own = several.of_records(encoder, part.to(device))
            for source, column in z.columns.items():
                vectors.setdefault(source, []).append(
                    column.with_flat(column.flat.half()).to("cpu")
                )
            for source, number in own.items():
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


@torch.no_grad()
def embed_queries(encoder, name: str, raws: Sequence[Raw], *, batch: int = 256) -> Ragged:
    """Float32 unit vectors of raw values of one field as queries of an encoder with `several`
    vectors, a list of each."""
    lists = []
    with evaluating(encoder):
        for part in value_batches(encoder, name, raws, batch):
            lists.append(encoder.multi_vector.of_query(encoder, part, name).to("cpu"))
    return Ragged(
        torch.cat([one.flat.float() for one in lists]), torch.cat([one.lengths for one in lists])
    )


@torch.no_grad()
def embed_values(encoder, name: str, raws: Sequence[Raw], *, batch: int = 256) -> Tensor:
    """(n, D) float32: raw values of one field in the aligned space. Raises AmodalError for a value
    that cannot be decoded."""
    vectors = []
    with evaluating(encoder):
        for part in value_batches(encoder, name, raws, batch):
            vectors.append(encoder(part)[name].values.float().cpu())
    return torch.cat(vectors)


def value_batches(encoder, name: str, raws: Sequence[Raw], batch: int) -> Iterator[Batch]:
    """Raw values of one field as an encoder takes them. Raises AmodalError for a value that cannot
    be decoded."""
    modality, still = encoder.fields[name], np.random.default_rng(0)
    for start in range(0, len(raws), batch):
        values = []
        for raw in raws[start : start + batch]:
            try:
                values.append(modality.augment(modality.decode(raw), "plain", still))
            except BadValue as error:
                raise AmodalError(
                    f"cannot read {str(raw)[:80]!r} as {name} ({name_of(modality)}): {error}"
                ) from error
        column = Column(modality.collate(values), torch.arange(len(values)))
        yield Batch.of(len(values), {name: column}).to(device_of(encoder))


def _content(column: Column) -> Tensor:
    values = column.values.split() if isinstance(column.values, Ragged) else column.values
    digests = (
        hashlib.blake2b(v.contiguous().numpy().tobytes(), digest_size=8).digest() for v in values
    )
    return torch.tensor(
        [int.from_bytes(d, "little", signed=True) for d in digests], dtype=torch.int64
    )
