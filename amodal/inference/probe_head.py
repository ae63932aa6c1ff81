"""A head on frozen features: of the encoder, simple ones of the values themselves, or both.

RUN/head.skops   what was fitted. The format of skops holds no code: only the types of numpy,
                 scipy, scikit-learn and MiniRocket that are listed here are opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amodal.core import AmodalError, Column
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.core.regular_file import regular
from amodal.core.whole_file import whole_file
from amodal.data import Dataset
from amodal.inference.embed import embed_records
from amodal.inference.forward_passes import AnyEncoder
from amodal.inference.simple_features import FieldValues, Reduction, original_values, side_by_side
from amodal.modalities import BadValue, Modality, Raw
from amodal.modalities.shared.base import FittedFeatures
from amodal.nn.heads.supervised import Target, predictions

FILE = "head.skops"
TRUSTED = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "aeon.transformations.collection.convolution_based._minirocket.MiniRocket",
    "sktime.transformations.panel.rocket._minirocket_multivariate.MiniRocketMultivariate",
)
"""Types beside those that skops trusts itself."""
FEATURES = ("encoder", "simple", "both")
SMALLEST = 1e-12
"""Of a probability, whose logarithm is an output."""

Values = Mapping[str, tuple[np.ndarray, Sequence[Raw]]]
"""Field -> the rows that have a value, and the raw values."""


@dataclass(frozen=True)
class Linear:
    """Outputs of a target by a linear map: logits, standardised amounts or log hazards.

    Args:
        w: (D, outputs).
        b: (outputs,).
    """

    w: Tensor
    b: Tensor

    def __call__(self, x_ND: Tensor) -> Tensor:
        return x_ND @ self.w + self.b


@dataclass(frozen=True)
class Trees:
    """Outputs of a target by boosted trees: log probabilities or standardised amounts.

    Args:
        model: Of scikit-learn, fitted; None where there is one class only.
        known: Numbers of the classes that it was fitted on; empty for amounts.
        classes: How many there are, 0 for amounts.
    """

    model: Any
    known: np.ndarray
    classes: int

    def __call__(self, x_ND: Tensor) -> Tensor:
        x = x_ND.numpy()
        if not self.classes:
            return torch.from_numpy(np.asarray(self.model.predict(x)))[:, None].float()
        p = np.zeros((len(x), self.classes))
        p[:, self.known] = 1.0 if self.model is None else self.model.predict_proba(x)
        return torch.from_numpy(p).clamp_min(SMALLEST).log().float()


Estimator = Linear | Trees


@dataclass(frozen=True)
class SimpleFields:
    """Simple features of all fields side by side, as they were fitted on training records.

    Args:
        transforms: Field -> raw values to features.
        reductions: Field -> what follows.
        widths: Field -> dimensions after it.
        flagged: Fields that some training records lack, which get a flag.
    """

    transforms: Mapping[str, FittedFeatures]
    reductions: Mapping[str, Reduction]
    widths: Mapping[str, int]
    flagged: tuple[str, ...]

    @staticmethod
    def fit(values: Values, transforms: Mapping[str, FittedFeatures], size: int) -> SimpleFields:
        """Fit reductions to training records.

        Args:
            values: Of `size` training records.
            transforms: Field -> fitted simple features; others are left out.
            size: Records.
        """
        reductions, widths = {}, {}
        for name, transform in transforms.items():
            x = torch.from_numpy(transform(values[name][1]))
            reductions[name] = Reduction.of(x)
            widths[name] = reductions[name](x[:1]).shape[1]
        flagged = tuple(name for name in transforms if len(values[name][0]) < size)
        return SimpleFields(dict(transforms), reductions, widths, flagged)

    def __call__(self, values: Values, size: int) -> Column:
        """Features of the records that have any of the fields.

        Args:
            values: Of `size` records.
            size: Records.
        """
        columns = {}
        for name, transform in self.transforms.items():
            rows, raws = values.get(name, (np.zeros(0, np.int64), ()))
            x = self.reductions[name](torch.from_numpy(transform(raws))) if len(rows) else None
            made = torch.zeros(0, self.widths[name]) if x is None else x
            columns[name] = Column(made, torch.from_numpy(np.asarray(rows, dtype=np.int64)))
        return side_by_side(columns, size, self.flagged)


@dataclass(repr=False, eq=False)
class ProbeHead:
    """Predicts labels from frozen features by linear maps or boosted trees.

    Args:
        encoder: Whose features it reads.
        targets: What its outputs mean.
        features: One of `FEATURES`.
        estimators: Target -> what predicts it.
        simple: Simple features, where it reads any.
        length: The typical length of the encoder's features, which are divided by it.
        name: What people call it.

    Attributes:
        hidden: 0: there is no hidden layer.
    """

    encoder: AnyEncoder
    targets: tuple[Target, ...]
    features: str
    estimators: Mapping[str, Estimator]
    simple: SimpleFields | None = None
    length: float = 1.0
    name: str = ""
    hidden: int = field(default=0, init=False)

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields whose raw values it reads."""
        return tuple(self.simple.transforms) if self.simple is not None else ()

    @torch.no_grad()
    def outputs(
        self,
        dataset: Dataset,
        indices: Sequence[int] | np.ndarray,
        *,
        batch: int = 256,
        progress: Callable[[int], object] | None = None,
    ) -> Column:
        """Compute outputs for records.

        Args:
            dataset: Where the records are.
            indices: Which records.
            batch: Records embedded at once.
            progress: Called with the number of records just done.

        Returns:
            (N, outputs), for the records that have what it reads; rows count from zero.
        """
        rows = np.asarray(indices, dtype=np.int64)
        probed: Mapping[str, Column] = {}
        if self.features != "simple":
            probed = embed_records(
                self.encoder, dataset, rows, batch=batch, progress=progress, labels=False
            ).probed()
        values = values_of(dataset, rows, self.fields)
        outputs = self.of_values(probed, values, len(rows))
        if self.features == "simple" and progress is not None:
            progress(len(rows))
        return outputs

    @torch.no_grad()
    def of_values(self, probed: Mapping[str, Column], values: Values, size: int) -> Column:
        """Outputs from features that are there already.

        Args:
            probed: The encoder's features as probes read them (`Embedded.probed`); {} where the
                head reads none.
            values: Raw values of `fields`.
            size: Records.

        Returns:
            (N, outputs) of the records that have what the head reads.
        """
        x = joined(self.blocks(probed, values, size), size)
        parts = [self.estimators[t.name](vectors_of(x)) for t in self.targets]
        return Column(torch.cat([part.float() for part in parts], 1), x.rows)

    def blocks(self, probed: Mapping[str, Column], values: Values, size: int) -> list[Column]:
        """Encoder's and simple features, as far as the head reads them."""
        made = []
        if self.features != "simple":
            column = whole(probed)
            made.append(Column(vectors_of(column).float() / self.length, column.rows))
        if self.simple is not None:
            made.append(self.simple(values, size))
        return made

    def predictions(self, outputs: Column) -> dict[str, Tensor]:
        """See `amodal.nn.heads.supervised.predictions`."""
        return predictions(self.targets, outputs)

    def save(self, folder: Path) -> dict[str, str]:
        """Write it into a run folder.

        Returns:
            What config.json says of it.
        """
        import skops.io

        simple = None
        if self.simple is not None:
            simple = {
                "transforms": {n: dict(t.state) for n, t in self.simple.transforms.items()},
                "reductions": {
                    n: [None if r.rotation is None else r.rotation.numpy(), r.length]
                    for n, r in self.simple.reductions.items()
                },
                "widths": dict(self.simple.widths),
                "flagged": list(self.simple.flagged),
            }
        content = skops.io.dumps(
            {
                "targets": [target.written() for target in self.targets],
                "features": self.features,
                "estimators": {n: _written(e) for n, e in self.estimators.items()},
                "simple": simple,
                "length": self.length,
                "name": self.name,
            }
        )
        try:
            with whole_file(folder / FILE) as draft:
                draft.write_bytes(content)
        except OSError as e:
            raise AmodalError(f"could not write {folder / FILE}: {e}") from e
        return {"file": FILE, "sha256": hashlib.sha256(content).hexdigest()}

    @staticmethod
    def load(folder: Path, entry: Mapping[str, str], encoder: AnyEncoder) -> ProbeHead:
        """Open what `save` wrote.

        Args:
            folder: Of the run.
            entry: What config.json says of it.
            encoder: Of the run.

        Raises:
            AmodalError: If the file is missing or damaged, holds other types than those that are
                trusted, or was written by a version of a library that cannot be read.
        """
        import skops.io

        file = folder / FILE
        try:
            content = regular(file).read_bytes()
        except OSError as e:
            raise AmodalError(f"{file} cannot be read ({e}); restore it from a copy") from e
        if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
            raise AmodalError(f"{file} is damaged or of another run; restore it from a copy")
        try:
            read = skops.io.loads(content, trusted=list(TRUSTED))
            return _read(read, encoder)
        except Exception as e:  # of zip, of numpy, of scikit-learn of another version
            raise AmodalError(
                f"{file} cannot be opened ({type(e).__name__}: {e}). Heads are read by the version "
                "of scikit-learn that wrote them, and hold no code of other libraries; run `amodal "
                "adapt` anew"
            ) from e


def _written(estimator: Estimator) -> dict[str, Any]:
    if isinstance(estimator, Linear):
        return {"w": estimator.w.numpy(), "b": estimator.b.numpy()}
    return dict(vars(estimator))


def _read(content: dict[str, Any], encoder: AnyEncoder) -> ProbeHead:
    simple = None
    if (written := content["simple"]) is not None:
        simple = SimpleFields(
            {
                name: encoder.fields[name].restored_simple_features(state)
                for name, state in written["transforms"].items()
            },
            {
                name: Reduction(None if r is None else torch.from_numpy(r), float(length))
                for name, (r, length) in written["reductions"].items()
            },
            written["widths"],
            tuple(written["flagged"]),
        )
    estimators = {
        name: Linear(torch.from_numpy(e["w"]), torch.from_numpy(e["b"])) if "w" in e else Trees(**e)
        for name, e in content["estimators"].items()
    }
    targets = tuple(Target.read(one) for one in content["targets"])
    return ProbeHead(
        encoder,
        targets,
        content["features"],
        estimators,
        simple,
        float(content["length"]),
        content["name"],
    )


def whole(probed: Mapping[str, Column]) -> Column:
    """The features of whole records: the fused ones, or those of the only field."""
    return probed[FUSED] if FUSED in probed else next(iter(probed.values()))


def joined(blocks: Sequence[Column], size: int) -> Column:
    """Blocks of features side by side, zeros for those that a record lacks.

    Args:
        blocks: Of `size` records each.
        size: Records.
    """
    if len(blocks) == 1:
        return blocks[0]
    exists = torch.stack([block.present(size) for block in blocks]).any(0)
    parts = [
        vectors_of(b).new_zeros(size, b.flat.shape[1]).index_copy(0, b.rows, vectors_of(b))
        for b in blocks
    ]
    return Column(torch.cat(parts, 1)[exists], exists.nonzero().squeeze(1))


def values_of(dataset: Dataset, rows: np.ndarray, fields: Sequence[str]) -> Values:
    """The readable raw values of some fields.

    Args:
        dataset: Where they are.
        rows: (N,) which records.
        fields: Which fields.
    """
    values = {}
    for name in fields:
        at = np.flatnonzero(dataset.present(name)[rows])
        column = FieldValues(original_values(dataset, name), name, rows[at])
        readable = column.readable()
        values[name] = (at[readable], column.take(np.flatnonzero(readable).tolist()))
    return values


def fitted_features(modality: Modality, raws: Sequence[Raw]) -> FittedFeatures | None:
    """Simple features that can be stored; None where a modality has none that can.

    Args:
        modality: Of the field.
        raws: Training values.
    """
    from amodal.modalities import NoSimpleFeatures

    try:
        transform = modality.simple_features(raws)
    except (NoSimpleFeatures, BadValue):
        return None
    return transform if isinstance(transform, FittedFeatures) else None
